"""Training steps of one method or of a stock model, measured on the same batch as all others.

Used by `step.py` and `gpu.py`; other programs take their sizes from here.
"""

import copy
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from _stock_model import Stock, StockFineTuning
from torch import nn

from vl_lst.backbones.family import Family
from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.backbones.loading import DTYPES
from vl_lst.backbones.quantization import BackbonePrecision, model_bytes, quantize
from vl_lst.backbones.random_weights import backbone_config, random_backbone
from vl_lst.backbones.states.reader import PaddedStates
from vl_lst.backbones.stored import BackboneStates, StoredBackbone
from vl_lst.choices import ArithmeticPrecision
from vl_lst.devices import autocast, float32_products
from vl_lst.models.batch import Batch
from vl_lst.models.tapped_layers import selected_layers
from vl_lst.profiling.steps import LOSS_AVERAGE, MeasuredSteps, StepSeconds, measure_steps
from vl_lst.profiling.workload import Workload
from vl_lst.recipes.building import attach_method
from vl_lst.recipes.schema import OptimizerSection
from vl_lst.training.compilation import compile_blocks, uncompiled
from vl_lst.training.saved_bytes import TOTAL, saved_bytes_by_part

__all__ = ["VOCABULARY", "Row", "RowResult", "StepBench", "tiny_config", "tiny_workload"]

# The reference's t5-base vocabulary has 100 more entries than the published one, plus padding.
VOCABULARY = 32_200
TINY_SIZES = {
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_heads": 4,
    "num_layers": 2,
    "num_decoder_layers": 2,
}
OPTIMIZER = OptimizerSection(lr=1e-4)
SEED = 0


def tiny_config() -> tuple[Any, Family]:
    """Return the configuration of a backbone that is built and trained in an instant."""
    config, family = backbone_config("t5-small", vocabulary=100)
    config.update(TINY_SIZES)
    return config, family


def tiny_workload() -> Workload:
    """Return the shapes of a batch for it."""
    return Workload(batch_size=2, text_tokens=5, answer_tokens=3, channels=16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A way to train.

    Args:
        name: Name in tables.
        method: Method of this package; `None` for a stock model.
        options: Options of the method.
        stock: What trains in a stock model.
        checkpointing: Whether a stock model recomputes its blocks.
        precision: Precision of arithmetic.
        backbone_precision: Precision of the backbone's weights, and of states that are at hand.
        states: Whether the backbone's states are at hand, as with `--states`, so that the backbone
            neither runs nor takes memory. They are computed before the steps, not read from a file.
        tf32: Whether CUDA multiplies fp32 matrices in TF32.
        compiled: Whether the blocks that train are compiled (`training.compile`).
    """

    name: str
    method: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    stock: Stock = "full"
    checkpointing: bool = False
    precision: ArithmeticPrecision = "fp32"
    backbone_precision: BackbonePrecision = "fp32"
    states: bool = False
    tf32: bool = False
    compiled: bool = False


@dataclass(kw_only=True)
class RowResult:
    """What was measured of a row.

    Args:
        trainable: Number of trainable parameters.
        model_bytes: Size of the parameters and buffers.
        saved_bytes: Bytes saved for the backward pass.
        peak_allocated: Peak memory allocated on CUDA in measured steps, model included.
        seconds: Each measured step.
        backbone_seconds: Time that each of these steps spent in the backbone's forward pass.
    """

    trainable: int
    model_bytes: int
    saved_bytes: int
    peak_allocated: int | None = None
    seconds: list[StepSeconds] = field(default_factory=list)
    backbone_seconds: list[float] = field(default_factory=list)

    def add(self, measured: MeasuredSteps, backbone_seconds: Sequence[float]) -> None:
        """Add the steps of a round."""
        self.seconds += measured.seconds
        self.backbone_seconds += backbone_seconds
        if measured.peak_allocated is not None:
            self.peak_allocated = max(self.peak_allocated or 0, measured.peak_allocated)

    def median(self) -> dict[str, float]:
        """Return the median of a step's seconds and of each part, which need not add up."""
        parts = asdict(StepSeconds.median(self.seconds))
        rest = [
            each.forward - backbone
            for each, backbone in zip(self.seconds, self.backbone_seconds, strict=True)
        ]
        return {
            "step": parts["step"],
            "backbone": statistics.median(self.backbone_seconds),
            "forward": statistics.median(rest),
            "backward": parts["backward"],
            "optimizer": parts["optimizer"],
        }


class StepBench:
    """Builds each row from the same random weights and measures it, one model at a time.

    Args:
        config: Configuration of the backbone.
        family: Its family.
        workload: Shapes of the batch.
        device: Device to measure on.
        compiler: Backend of `torch.compile`.
    """

    def __init__(
        self,
        config: Any,
        family: Family,
        workload: Workload,
        device: torch.device,
        compiler: str = "inductor",
    ) -> None:
        self._config, self._family = config, family
        self.workload = workload
        self._device = device
        self._compiler = compiler
        self._pristine: dict[torch.dtype, FrozenBackbone] = {}
        torch.manual_seed(SEED)
        vocabulary = family.vocabulary_size(config)
        self._batch = workload.batch(vocabulary, has_decoder=family.has_decoder).to(device)

    def measure(self, row: Row, steps: int, result: RowResult | None = None) -> RowResult:
        """Build the model of a row and measure some steps.

        Args:
            row: What to measure.
            steps: Number of measured steps, at least 1.
            result: Result of earlier rounds, which is extended.
        """
        with float32_products(tf32=row.tf32, device=self._device):
            return self._measure(row, steps, result)

    def _measure(self, row: Row, steps: int, result: RowResult | None) -> RowResult:
        model, trainable, batch = self._build(row)
        if result is None:
            with autocast(row.precision, self._device), uncompiled():
                saved = saved_bytes_by_part(model, batch, LOSS_AVERAGE)
            result = RowResult(
                trainable=sum(parameter.numel() for parameter in trainable.values()),
                model_bytes=model_bytes(model),
                saved_bytes=saved[TOTAL],
            )
        with _BackboneClock(model, self._device) as clock:
            measured = measure_steps(
                model, trainable, batch, precision=row.precision, optimizer=OPTIMIZER, steps=steps
            )
        result.add(measured, clock.of_last_steps(steps))
        return result

    def _build(self, row: Row) -> tuple[nn.Module, dict[str, nn.Parameter], Batch]:
        backbone = self._backbone(DTYPES[row.backbone_precision])
        visual, batch = self.workload.visual(), self._batch
        torch.manual_seed(SEED)
        if row.method is None:
            assert visual is not None, "the measured batch has images"
            stock = StockFineTuning(
                backbone, visual, train=row.stock, checkpointing=row.checkpointing
            )
            return stock.train().to(self._device), stock.trainable(), batch
        if row.states:
            with autocast(row.precision, self._device):
                backbone, batch = _with_states(backbone.to(self._device), batch, row.options)
        model, trainable = attach_method(
            row.method,
            row.options,
            backbone,
            visual=visual,
            heads={batch.task: self.workload.head(has_decoder=self._family.has_decoder)},
            precision=row.backbone_precision,
            optimizer=OPTIMIZER.name,
        )
        model.train()
        quantize(model.backbone, row.backbone_precision)
        if row.compiled:
            compile_blocks(model, self._compiler)
        return model.to(self._device), trainable, batch

    def _backbone(self, dtype: torch.dtype) -> FrozenBackbone:
        """Return a backbone that nothing else uses."""
        if self._device.type != "cpu":
            # Drawing weights on a GPU is fast, and a second copy would count as its memory.
            torch.manual_seed(SEED)
            with self._device:
                return random_backbone(self._config, self._family, dtype=dtype)
        if dtype not in self._pristine:
            torch.manual_seed(SEED)
            self._pristine[dtype] = random_backbone(self._config, self._family, dtype=dtype)
        return copy.deepcopy(self._pristine[dtype])


def _with_states(
    backbone: FrozenBackbone, batch: Batch, options: Mapping[str, Any]
) -> tuple[StoredBackbone, Batch]:
    """Return the backbone without its model, and the batch with the states that it computed."""
    assert batch.labels_BL is not None
    encoder = backbone.encode(
        batch.prompt_ids_UT,
        selected_layers(options.get("encoder_layers"), backbone.encoder_depth, "encoder"),
    )
    ids_BL = backbone.shift_right(batch.labels_BL)
    decoder = backbone.decode(
        ids_BL,
        selected_layers(options.get("decoder_layers"), backbone.decoder_depth, "decoder"),
        encoder_states_PTD=encoder.final_UTD,
        encoder_mask_PT=encoder.mask_UT,
    )
    states = BackboneStates(
        PaddedStates(encoder.embedding_UTD, encoder.blocks_KUTD, None, encoder.mask_UT),
        PaddedStates(
            decoder.embedding_PLD,
            decoder.blocks_KPLD,
            None,
            torch.ones_like(ids_BL, dtype=torch.bool),
        ),
    )
    output = backbone.family.output_layer(backbone.model)
    stored = StoredBackbone(backbone.config, backbone.family, output)
    return stored, replace(batch, states=states)


class _BackboneClock:
    """Context that times the forward pass of a backbone's encoder and decoder.

    On CUDA, by events in its queue of work, for which the host does not wait.

    Args:
        model: Model that has the backbone; a stack that never runs takes no time.
        device: Device of the model.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        from transformers.models.t5.modeling_t5 import T5Stack

        self._stacks = [each for each in model.modules() if isinstance(each, T5Stack)]
        self._is_cuda = device.type == "cuda"
        self._starts: list[Any] = []
        self._stops: list[Any] = []

    def __enter__(self) -> "_BackboneClock":
        self._handles = [
            handle
            for stack in self._stacks
            for handle in (
                stack.register_forward_pre_hook(lambda *_: self._starts.append(self._now())),
                stack.register_forward_hook(lambda *_: self._stops.append(self._now())),
            )
        ]
        return self

    def __exit__(self, *_error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def of_last_steps(self, steps: int) -> list[float]:
        """Return the seconds of each of the last steps; every step runs each stack once."""
        calls = [
            start.elapsed_time(stop) / 1000 if self._is_cuda else stop - start
            for start, stop in zip(self._starts, self._stops, strict=True)
        ]
        per_step = len(self._stacks) if calls else 0
        last = calls[len(calls) - steps * per_step :]
        return [sum(last[step * per_step : (step + 1) * per_step]) for step in range(steps)]

    def _now(self) -> Any:
        if not self._is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
