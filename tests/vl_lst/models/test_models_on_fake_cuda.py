"""No method makes a tensor on the CPU, or waits for the device, where the batch is on CUDA.

The tensors are fake: they have a device and a shape but no data, so this runs on any machine.
Operations refuse tensors of different devices, and whatever needs a tensor's values fails. Fake
tensors have no backward pass on a device that does not exist.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from vl_lst.backbones.random_weights import backbone_config, random_backbone
from vl_lst.generation import finished_rows, search
from vl_lst.methods import get_method, method_names
from vl_lst.models.batch import DEFAULT_TASK, Batch
from vl_lst.models.config import HeadConfig
from vl_lst.profiling.estimate import DatalessMode
from vl_lst.profiling.workload import Workload
from vl_lst.recipes.building import attach_method

CUDA = torch.device("cuda", 0)
ANSWERS = 10
HEADS = {
    "generate": HeadConfig(kind="generate"),
    "classify": HeadConfig(kind="classify", answers=ANSWERS),
}
WORKLOAD = Workload(batch_size=2, text_tokens=5, answer_tokens=3, channels=16)
SIZES = {
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_heads": 4,
    "num_layers": 2,
    "num_decoder_layers": 2,
}
# One for each way to decode.
BEAM_METHODS = ("lst", "full", "prompt")
OPTIONS = {"qst": {"reduction": 4}}


class NoneFinished:
    """Flags of finished rows, which a search copies to the host: no row is finished."""

    def __init__(self, flags_N: Tensor) -> None:
        assert flags_N.device == CUDA
        self.rows: Sequence[int] = range(len(flags_N))

    def read(self) -> list[bool]:
        return [False for _ in self.rows]


@pytest.fixture(autouse=True)
def no_copies_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what reads values: whether rows are finished, and at the end which answer is best.

    The first waits for a copy that the device has made meanwhile, the second once per batch.
    """
    monkeypatch.setattr(finished_rows, "_Flags", NoneFinished)
    monkeypatch.setattr(
        search, "_best", lambda found, *_: (found.ids_BKL[:, 0], found.scores_BK[:, 0])
    )


class FakeCuda(DatalessMode):
    """Models of fake tensors on CUDA."""

    def _on_cpu(self, tensor: Tensor) -> Tensor:
        return FakeTensor(self._mode, tensor.detach().to("meta"), CUDA)


def built(method: str, head: str) -> tuple[FakeCuda, Any]:
    mode = FakeCuda()
    config, family = backbone_config("t5-small", vocabulary=100)
    config.update(SIZES)
    options: dict[str, object] = dict(OPTIONS.get(method, {}))
    if "recompute" in get_method(method).options.model_fields:
        options["recompute"] = False  # it would ask the device for its random state
    is_quantized = get_method(method).needs_quantized_backbone
    with mode.building():
        model, _ = attach_method(
            method,
            options,
            random_backbone(config, family),
            visual=WORKLOAD.visual(),
            heads={DEFAULT_TASK: HEADS[head]},
            precision="nf4" if is_quantized else "fp32",
        )
    mode.adopt(model)
    return mode, model


def batch_on_cuda() -> Batch:
    return replace(WORKLOAD.batch(100), scores_BA=torch.rand(2, ANSWERS)).to(CUDA)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("method", method_names())
def test_losses_and_answers_stay_on_the_device(method: str, head: str) -> None:
    mode, model = built(method, head)
    with mode.running():
        loss = model.train()(batch_on_cuda())
        assert loss.device == CUDA
        assert loss.requires_grad
        if head == "generate":
            for beams in (1, 3) if method in BEAM_METHODS else (1,):
                with torch.no_grad():
                    ids_BL = search.generate(
                        model.eval(), batch_on_cuda(), max_length=4, beams=beams
                    )
                assert ids_BL.device == CUDA


def test_a_tensor_of_the_cpu_is_noticed() -> None:
    mode, model = built("lst", "generate")
    with mode.running():
        batch = replace(batch_on_cuda(), weights_B=torch.ones(2))
        with pytest.raises(RuntimeError, match="device"):
            model(batch)
