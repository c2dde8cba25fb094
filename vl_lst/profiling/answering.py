"""Memory and time of answering a batch with a model, without training it.

B examples.
"""

import gc
import weakref
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vl_lst.backbones.quantization import inner_tensors
from vl_lst.choices import ArithmeticPrecision
from vl_lst.devices import inference_autocast
from vl_lst.models.batch import Batch
from vl_lst.models.vision_language_model import VisionLanguageModel
from vl_lst.profiling.clock import synchronised_seconds

__all__ = ["AnsweringCost", "measure_answering"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweringCost:
    """What answering a batch costs.

    Args:
        peak_bytes: Peak of what answering allocates, without the model.
        seconds: Seconds per batch, one number per repetition.
    """

    peak_bytes: int
    seconds: Sequence[float]


class _LivingBytes(TorchDispatchMode):
    """Bytes of the storages that operations have created and that are in use.

    Memory within an operation does not count.

    Args:
        given: Tensors that exist before, whose storages do not count.
    """

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = {
            inner.untyped_storage()._cdata for each in given for inner in inner_tensors(each)
        }
        self._living = 0
        self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                for inner in inner_tensors(tensor):
                    self._add(inner.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self._living += size
        self.peak = max(self.peak, self._living)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._living -= size


def measure_answering(
    model: VisionLanguageModel[Any],
    batch: Batch,
    *,
    tokens: int,
    precision: ArithmeticPrecision,
    repeats: int,
) -> AnsweringCost:
    """Answer a batch several times, and measure all but the first.

    On CUDA, the peak is that of the allocator. On the CPU, it is counted: the tensors that are
    alive at the same time. The batch counts.

    Args:
        model: Model on the device; afterwards, it is in the mode that it was in.
        batch: Batch on the device.
        tokens: Tokens of each answer, which greedy search generates without an end; a model that
            classifies generates none.
        precision: Precision of arithmetic.
        repeats: Number of timed repetitions, at least 1.
    """
    device = batch.prompt_index_B.device
    was_training = model.training
    model.eval()
    gc.collect()
    tensors = [t for t in (getattr(batch, name) for name in batch.__slots__) if _is_tensor(t)]
    given = [*model.parameters(), *model.buffers(), *tensors]
    living = _LivingBytes(given) if device.type != "cuda" else None
    try:
        with inference_autocast(model, precision, device):
            # Autocast keeps the weights that it casts here, as while a split is answered.
            before = torch.cuda.memory_allocated(device) if living is None else 0
            if living is None:
                torch.cuda.reset_peak_memory_stats(device)
            with living or nullcontext():
                _answer(model, batch, tokens)
            peak = torch.cuda.max_memory_allocated(device) if living is None else living.peak
            seconds = []
            for _ in range(repeats):
                started = synchronised_seconds(device)
                _answer(model, batch, tokens)
                seconds.append(synchronised_seconds(device) - started)
    finally:
        model.train(was_training)
    peak += sum(tensor.nbytes for tensor in tensors) - before
    return AnsweringCost(peak_bytes=peak, seconds=seconds)


def _answer(model: VisionLanguageModel[Any], batch: Batch, tokens: int) -> None:
    if batch.task in model.classifiers:
        model.classify(batch).argmax(-1)
        return
    encoded, backbone = model.encode(batch), model.backbone
    tokens_B = torch.full((len(batch),), backbone.start_token_id, device=model.device)
    with backbone.decoding():
        state = model.start_decoding(encoded, tokens + 1)
        for _ in range(tokens):
            tokens_B = state.next_logits(tokens_B).argmax(-1)


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)
