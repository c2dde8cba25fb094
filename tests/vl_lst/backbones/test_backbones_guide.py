"""The guide for new backbones; the shared suite tests the family that it adds."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from guide_backbone import guide_backbone_codes
from safetensors.torch import load_file, save_file
from tiny_backbones import save_backbone, tiny_backbones

from vl_lst.backbones import families
from vl_lst.backbones.families import find_family, known_model_types
from vl_lst.backbones.loading import load_backbone
from vl_lst.errors import ModelError

NAME = "pegasus"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The family as a file among the others."""
    folder = tmp_path / "families"
    folder.mkdir()
    (folder / f"{NAME}.py").write_text(guide_backbone_codes()[0], encoding="utf-8")
    families._families.cache_clear()
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(folder)])
    yield
    families._families.cache_clear()


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Any, Path]:
    """The stock model and its folder."""
    return save_backbone(tiny_backbones()[NAME], tmp_path / "model"), tmp_path / "model"


@pytest.mark.usefixtures("installed")
def test_one_file_adds_the_family(saved: tuple[Any, Path]) -> None:
    model, folder = saved
    assert find_family(NAME).model_types == (NAME,)
    loaded = load_backbone(folder)
    assert loaded.backbone.encoder_depth == model.config.encoder_layers


def test_without_the_file_the_type_is_refused_with_the_known_ones(saved: tuple[Any, Path]) -> None:
    with pytest.raises(ModelError, match=f"its model_type is {NAME}; expected .*: bart, .*t5"):
        load_backbone(saved[1])
    assert NAME not in known_model_types()


@pytest.mark.usefixtures("installed")
def test_what_published_checkpoints_lack_follows_from_the_class(saved: tuple[Any, Path]) -> None:
    model, folder = saved
    family = find_family(NAME)
    tensors = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if name not in family.optional_tensors}
    assert len(kept) < len(tensors)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    positions = load_backbone(folder).backbone.model.get_encoder().embed_positions.weight
    assert positions.equal(model.get_encoder().embed_positions.weight)


@pytest.mark.usefixtures("installed")
def test_the_error_that_the_guide_shows(saved: tuple[Any, Path]) -> None:
    folder = saved[1]
    config = json.loads((folder / "config.json").read_text())
    config["encoder_attention_heads"] = 7
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="encoder_attention_heads is 7, expected a divisor of d_m"):
        load_backbone(folder)
