"""Only methods that change how the backbone computes text make it forget."""

import math
from pathlib import Path

import pytest
import torch

from eval.errors import InputError
from eval.run_files import ModelCard
from vl_lst.bundled import DEMO, PRETRAINING_TEXT
from vl_lst.errors import CheckpointError
from vl_lst.methods import get_method, method_names
from vl_lst.methods._frozen_backbone import FrozenBackboneMethod
from vl_lst.models.untrained import UntrainedModel
from vl_lst.progress import silent
from vl_lst.recipes import Recipe, default_recipe, read_recipe_file, resolve_recipe
from vl_lst.recipes.building import BuiltModel, build_model
from vl_lst.run.forgetting import (
    corrupted_pairs,
    mean_loss,
    measure_forgetting,
    read_documents,
)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    lines = PRETRAINING_TEXT.read_text(encoding="utf-8").splitlines()[:12]
    path.write_text("\n\n".join(lines), encoding="utf-8")
    return path


def build(method: str, *, change: float = 0.0) -> tuple[Recipe, ModelCard, BuiltModel]:
    """Return a run on the bundled backbone, whose parameters training has changed at random."""
    name = default_recipe(method, DEMO)
    recipe = resolve_recipe(
        read_recipe_file(name),
        [
            ("task", "rte"),
            ("method.name", method),
            ("backbone.name", DEMO),
            ("head", {"rte": "classify"}),
            ("data.root", "nowhere"),
            ("training.device", "cpu"),
        ],
    )
    built = build_model(recipe, None, {"rte": ["yes", "no"]})
    built.quantize_backbone()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in built.trainable.values():
            parameter += change * torch.randn(parameter.shape, generator=generator)
    card = ModelCard(backbone_fingerprint=built.fingerprint, feature_spec=None, tasks={})
    built.model.eval()
    return recipe, card, built


def pairs_of(built: BuiltModel, text: Path) -> list[tuple[list[int], list[int]]]:
    objective = built.model.backbone.family.pretraining
    assert objective is not None
    return corrupted_pairs(read_documents(text)[0], objective, built.tokenizer, 512, 0)


@pytest.mark.parametrize("method", method_names())
def test_only_methods_that_change_the_backbone_forget(text: Path, method: str) -> None:
    recipe, card, built = build(method, change=0.1)
    found = measure_forgetting(recipe, card, built, text)
    is_frozen = isinstance(get_method(method), FrozenBackboneMethod)
    assert found.is_by_construction == is_frozen
    assert 0 < found.loss_before < 3, "the backbone was pretrained on such text"
    assert found.tokens > 0
    if is_frozen:
        backbone = built.model.backbone
        alone = UntrainedModel(backbone.model, family=backbone.family, tasks=())
        again, _ = mean_loss(alone, recipe, pairs_of(built, text), silent, total=1)
        assert again == found.loss_after, "what the method runs has exactly this loss"
    if is_frozen or method == "probe":
        assert found.loss_after == found.loss_before, "exactly"
    else:
        assert found.increase != 0
        assert math.isfinite(found.increase)


def test_before_its_first_step_a_method_has_forgotten_nothing(text: Path) -> None:
    """Although its modules run, which do nothing yet."""
    assert measure_forgetting(*build("lora"), text).increase == pytest.approx(0, abs=1e-6)


def test_losses_are_those_of_the_stock_model(text: Path) -> None:
    """Each line alone, without padding, by the class of the library."""
    recipe, card, built = build("full")
    total, tokens = 0.0, 0
    with torch.no_grad():
        for source, target in pairs_of(built, text):
            loss = built.model.backbone.model(
                input_ids=torch.tensor([source]), labels=torch.tensor([target])
            ).loss
            total, tokens = total + len(target) * float(loss), tokens + len(target)
    found = measure_forgetting(recipe, card, built, text)
    assert found.tokens == tokens
    assert found.loss_after == pytest.approx(total / tokens, rel=1e-4)


def test_a_frozen_backbone_with_other_weights_is_refused(text: Path) -> None:
    """Zero by construction holds for the weights that the run started from."""
    recipe, card, built = build("lst")
    other = card.model_copy(update={"backbone_fingerprint": "0" * 64})
    with pytest.raises(CheckpointError, match="has other weights"):
        measure_forgetting(recipe, other, built, text)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\n \n", "has no text"), (b"caf\xe9 au lait", "is not UTF-8"), (None, "no file")],
)
def test_unusable_text_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_documents(path)
