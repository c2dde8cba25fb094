"""The last block of a frozen stack, run apart with gradients, on backbones of every family."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tiny_backbones import tiny_backbones
from tiny_batches import prompt_ids
from torch import Tensor

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.backbones.paused import call_of
from vl_lst.training.saved_bytes import bytes_saved_for_backward

TINY = tiny_backbones()
DECODERS = [name for name, tiny in TINY.items() if tiny.has_decoder]
ENCODERS = [name for name, tiny in TINY.items() if not tiny.has_decoder]
# Decoders whose blocks attend to states that the encoder has not read.
EXTENDABLE = [name for name in DECODERS if name != "t5gemma2"]
# Encoders whose blocks know positions.
POSITIONED = ("deberta-v3",)

MakeTiny = Callable[..., FrozenBackbone]
Memory = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def with_masked_tokens(states_UTD: Tensor, mask_UT: Tensor) -> tuple[Tensor, Tensor]:
    return F.pad(states_UTD, (0, 0, 0, 2), value=3.0), F.pad(mask_UT, (0, 2), value=False)


def twice(states_UTD: Tensor, mask_UT: Tensor) -> tuple[Tensor, Tensor]:
    """Return every token twice, which changes no average over tokens."""
    return torch.cat((states_UTD, states_UTD), 1), torch.cat((mask_UT, mask_UT), 1)


def unchanged(states_UTD: Tensor, mask_UT: Tensor) -> tuple[Tensor, Tensor]:
    return states_UTD, mask_UT


@torch.no_grad()
def last_states(backbone: FrozenBackbone, memory: Memory, *, is_cached: bool) -> tuple[Tensor, ...]:
    """Return the last block's output, for the decoder run at once and run to its last block."""
    ids_UT = prompt_ids(backbone)
    last = backbone.decoder_depth - 1
    taps = backbone.encode(ids_UT, [0])
    encoder = {"encoder_states_PTD": taps.final_UTD, "encoder_mask_PT": taps.mask_UT}
    expected = backbone.decode(ids_UT[:, :4], [last], **encoder).blocks_KPLD[0]
    memory_USD, memory_mask_US = memory(taps.final_UTD, taps.mask_UT)
    cache = backbone.new_cache() if is_cached else None
    found = []
    for ids_UL in ids_UT[:, :4].split(1 if is_cached else 4, dim=1):
        paused = backbone.decode_to_last(ids_UL, [last - 1], **encoder, cache=cache)
        stream_ULD = paused.blocks_KNTD[-1]
        found.append(paused.finish_decoder(stream_ULD, memory_USD, memory_mask_US, recompute=False))
    return torch.cat(found, 1), expected


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize(
    ("name", "memory"),
    [
        *((name, unchanged) for name in DECODERS),
        *((name, memory) for name in EXTENDABLE for memory in (with_masked_tokens, twice)),
    ],
)
def test_a_finished_decoder_equals_one_that_runs_at_once(
    make_tiny: MakeTiny, name: str, memory: Memory, is_cached: bool
) -> None:
    found, expected = last_states(make_tiny(name), memory, is_cached=is_cached)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        *((name, tokens) for name in ENCODERS for tokens in (unchanged, with_masked_tokens)),
        *((name, twice) for name in ENCODERS if name not in POSITIONED),
    ],
)
def test_a_finished_encoder_equals_one_that_runs_at_once(
    make_tiny: MakeTiny, name: str, tokens: Memory
) -> None:
    backbone = make_tiny(name)
    ids_UT = prompt_ids(backbone)
    last = backbone.encoder_depth - 1
    expected_UTD = backbone.encode(ids_UT, [last]).blocks_KUTD[0]
    with torch.no_grad():
        paused, mask_UT = backbone.encode_to_last(ids_UT, [last - 1])
        states_UTD = paused.finish_encoder(*tokens(paused.blocks_KNTD[0], mask_UT), recompute=False)
    found_UTD = states_UTD[:, : ids_UT.shape[1]]
    torch.testing.assert_close(found_UTD[mask_UT], expected_UTD[mask_UT], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", ["t5", "mbart"])
def test_gradients_reach_what_the_last_block_is_given_and_nothing_else(
    make_tiny: MakeTiny, name: str, recompute: bool
) -> None:
    backbone = make_tiny(name)
    backbone.model.requires_grad_(True)
    ids_UT = prompt_ids(backbone)
    taps = backbone.encode(ids_UT, [0])
    paused = backbone.decode_to_last(
        ids_UT[:, :3], [0], encoder_states_PTD=taps.final_UTD, encoder_mask_PT=taps.mask_UT
    )
    assert not paused.embedding_NTD.requires_grad
    assert not paused.blocks_KNTD.requires_grad
    backbone.model.requires_grad_(False)
    stream_ULD = torch.randn(len(ids_UT), 3, backbone.output_width, requires_grad=True)
    memory_UTD = taps.final_UTD.clone().requires_grad_()
    blocks = backbone.stacks()["decoder"][1]

    def run() -> Tensor:
        states_ULD = paused.finish_decoder(
            stream_ULD, memory_UTD, taps.mask_UT, recompute=recompute
        )
        return states_ULD.square().sum()

    parts = {"before": list(blocks[:-1]), "last": blocks[-1]}
    saved = bytes_saved_for_backward(backbone, run, parts)
    assert saved["before"] == 0
    assert saved["last"] > 0
    run().backward()
    for leaf in (stream_ULD, memory_UTD):
        assert leaf.grad is not None
        assert leaf.grad.abs().sum() > 0


def test_a_block_that_is_not_called_is_an_error(make_tiny: MakeTiny) -> None:
    blocks = make_tiny("t5").stacks()["decoder"][1]
    with pytest.raises(RuntimeError, match="without calling the block"):
        call_of(blocks[-1], lambda: None)
    assert not blocks[-1]._forward_pre_hooks
