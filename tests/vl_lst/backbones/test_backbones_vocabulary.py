"""A backbone whose vocabulary is cut to the tokenizer's computes the same for those tokens."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_backbones import save_backbone, tiny_backbones
from tiny_batches import prompt_ids
from torch import Tensor

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.backbones.loading import load_backbone
from vl_lst.errors import ModelError
from vl_lst.methods import get_method
from vl_lst.models.config import HeadConfig

TINY = tiny_backbones()
# That of the guide is not part of the package.
WITH_DECODER = [name for name, tiny in TINY.items() if tiny.has_decoder and tiny.family is None]
UNUSED = 5


def write_folder(name: str, folder: Path) -> int:
    """Write a backbone with more embeddings than its tokenizer has tokens; return the latter."""
    stock = save_backbone(TINY[name], folder)
    size = stock.get_input_embeddings().weight.shape[0] - UNUSED
    TINY[name].tokenizer.save(folder, size)
    return size


def output_states(backbone: FrozenBackbone, ids_UT: Tensor) -> Tensor:
    encoded = backbone.encode(ids_UT, [0])
    decoder_ids = torch.full((len(ids_UT), 1), backbone.start_token_id)
    return backbone.decode(
        torch.cat((decoder_ids, ids_UT[:, :2]), 1),
        [0],
        encoder_states_PTD=encoded.final_UTD,
        encoder_mask_PT=encoded.mask_UT,
    ).final_PLD


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", WITH_DECODER)
def test_kept_tokens_have_the_same_logits_and_no_others_exist(
    tmp_path: Path, name: str, precision: Any
) -> None:
    size = write_folder(name, tmp_path)
    whole = load_backbone(tmp_path, precision=precision)
    cut = load_backbone(tmp_path, precision=precision, vocabulary="tokenizer")
    assert cut.fingerprint == whole.fingerprint
    assert (whole.backbone.vocabulary_size, cut.backbone.vocabulary_size) == (size + UNUSED, size)
    ids_UT = prompt_ids(cut.backbone)
    states = output_states(cut.backbone, ids_UT)
    assert torch.equal(states, output_states(whole.backbone, ids_UT))
    assert torch.equal(cut.backbone.vocabulary_weight, whole.backbone.vocabulary_weight[:size])
    bias = cut.backbone.vocabulary_bias
    if bias is not None:
        assert torch.equal(bias, whole.backbone.vocabulary_bias[:size])  # type: ignore[index]
    assert not any(parameter.requires_grad for parameter in cut.backbone.parameters())
    is_tied = [
        b.vocabulary_weight is b.model.get_input_embeddings().weight
        for b in (whole.backbone, cut.backbone)
    ]
    assert is_tied[0] == is_tied[1]


@pytest.mark.parametrize("name", WITH_DECODER)
def test_bitfit_has_a_bias_for_each_kept_token(tmp_path: Path, name: str) -> None:
    size = write_folder(name, tmp_path)
    backbone = load_backbone(tmp_path, vocabulary="tokenizer").backbone
    method = get_method("bitfit")
    heads = {"task": HeadConfig(kind="generate")}
    model = method.attach(backbone, method.options(), visual=None, heads=heads)
    assert model.backbone.vocabulary_bias.shape == (size,)


def test_a_vocabulary_that_fits_stays(saved_backbones: Any) -> None:
    whole = saved_backbones.load("t5")
    cut = load_backbone(saved_backbones.folder("t5"), vocabulary="tokenizer")
    assert cut.backbone.vocabulary_size == whole.backbone.vocabulary_size


@pytest.mark.parametrize("name", [name for name in TINY if not TINY[name].has_decoder])
def test_an_encoder_is_refused(saved_backbones: Any, name: str) -> None:
    with pytest.raises(ModelError, match="encoder only, so it generates no tokens: expected null"):
        load_backbone(saved_backbones.folder(name), vocabulary="tokenizer")


def test_a_start_token_beyond_the_tokenizer_is_refused(tmp_path: Path) -> None:
    size = write_folder("t5", tmp_path)
    config = tmp_path / "generation_config.json"
    config.write_text(f'{{"decoder_start_token_id": {size}}}')
    load_backbone(tmp_path)
    with pytest.raises(ModelError, match=f"the tokenizer has {size} tokens, and the decoder"):
        load_backbone(tmp_path, vocabulary="tokenizer")


def test_another_vocabulary_is_refused(saved_backbones: Any) -> None:
    with pytest.raises(ModelError, match="vocabulary of a backbone is 'half'"):
        load_backbone(saved_backbones.folder("t5"), vocabulary="half")  # type: ignore[arg-type]
