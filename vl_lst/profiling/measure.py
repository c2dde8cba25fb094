"""Bytes and seconds of several transfer methods, measured on one batch."""

import copy
import statistics
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from vl_lst.backbones.family import Family
from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.backbones.loading import DTYPES, load_backbone
from vl_lst.backbones.quantization import (
    BackbonePrecision,
    bytes_freed_by_quantization,
    model_bytes,
    quantize,
)
from vl_lst.backbones.random_weights import backbone_config, random_backbone
from vl_lst.choices import ArithmeticPrecision, Vocabulary
from vl_lst.devices import autocast, float32_products
from vl_lst.errors import RecipeError
from vl_lst.methods import get_method
from vl_lst.models.config import HeadConfig
from vl_lst.profiling.answering import AnsweringCost, measure_answering
from vl_lst.profiling.estimate import DatalessMode
from vl_lst.profiling.steps import (
    LOSS_AVERAGE,
    MeasuredSteps,
    StepSeconds,
    measure_steps,
)
from vl_lst.profiling.workload import Workload
from vl_lst.progress import ProgressReport, silent
from vl_lst.recipes.building import attach_method
from vl_lst.recipes.schema import OptimizerSection
from vl_lst.training.optimizer import build_optimizer, optimizer_bytes
from vl_lst.training.saved_bytes import TOTAL, saved_bytes_by_part

__all__ = ["ComparedMethod", "MethodProfile", "ProfileSettings", "profile_methods"]

# Number of rounds in which the methods take turns, so that other load on the machine affects all.
ROUNDS = 2
SEED = 0


@dataclass(frozen=True, slots=True)
class ComparedMethod:
    """A method to measure, with its options.

    Args:
        name: Name of the method.
        options: Options of the method; those not given have their defaults.
        recipe: Source of the options, for the report: a recipe file, or the name of a bundled
            recipe; `None` without a recipe.
        backbone_precision: Precision of the backbone's weights; `None` for that of the settings.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    recipe: str | None = None
    backbone_precision: BackbonePrecision | None = None

    def resolved(self) -> dict[str, Any]:
        """Return all options, with defaults.

        Raises:
            RecipeError: There is no such method, or an option is not valid.
        """
        kind = get_method(self.name).options
        try:
            return kind.model_validate(dict(self.options)).model_dump(mode="json")
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            reason = first["msg"].removeprefix("Value error, ")
            if not first["loc"]:  # options that contradict each other
                raise RecipeError(f"{self.name}: {reason}") from None
            option = ".".join(map(str, first["loc"]))
            raise RecipeError(
                f"{self.name}.{option}: found {first['input']!r:.80}; {reason}. The method "
                f"{self.name} has the options {', '.join(kind.model_fields)}"
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileSettings:
    """Settings of a profile.

    Args:
        backbone: Name of the backbone; see `vl_lst.backbones.random_weights.backbone_config`.
        random_weights: Whether to initialise the backbone at random instead of loading it.
        vocabulary: Vocabulary size of a random backbone, `None` for the published one; or
            `tokenizer`, which cuts that of a loaded backbone.
        backbone_precision: Precision of the backbone's weights, unless a method has its own.
        precision: Precision of arithmetic.
        tf32: Whether CUDA multiplies in TF32 what stays in float32.
        workload: Shapes of the batch.
        optimizer: Settings of the optimizer.
        steps: Number of timed steps; 0 measures bytes only.
        estimate: Whether to count bytes without data, in seconds on any machine, without steps.
        device: Device to measure on.
    """

    backbone: str
    random_weights: bool = False
    vocabulary: int | Vocabulary | None = None
    backbone_precision: BackbonePrecision = "fp32"
    precision: ArithmeticPrecision = "fp32"
    tf32: bool = False
    workload: Workload = Workload()
    optimizer: OptimizerSection = OptimizerSection(lr=1e-4)
    steps: int = 6
    estimate: bool = False
    device: torch.device = torch.device("cpu")


@dataclass(kw_only=True)
class MethodProfile:
    """Measured memory and speed of a method.

    Args:
        method: Name of the method.
        options: All options of the method.
        recipe: Source of the options; see `ComparedMethod.recipe`.
        backbone_precision: Precision of the backbone's weights.
        head: Head that was measured.
        trainable: Number of trainable parameters.
        total: Number of parameters, with the backbone; shared parameters count once.
        parameter_bytes: Size of all parameters and buffers; shared storages count once.
        gradient_bytes: Size of the gradients.
        saved_bytes: Bytes saved for the backward pass, without parameters, by part and in `total`.
        optimizer_bytes: Size of the optimizer's state.
        peak_allocated: Peak memory allocated on CUDA in training steps, parameters included.
        peak_reserved: Peak memory reserved on CUDA in training steps.
        seconds: Medians over the timed steps; `None` without steps.
        examples_per_second: Batch size divided by the median step.
        checkpoint_bytes: Size of the tensors that a checkpoint stores of the model.
        inference_bytes: Bytes of parameters and buffers plus the peak of what answering a batch
            allocates; `None` without steps.
        seconds_per_answer: Median seconds of answering a batch, divided by its size.
    """

    method: str
    options: dict[str, Any]
    recipe: str | None
    backbone_precision: BackbonePrecision
    head: HeadConfig
    trainable: int
    total: int
    parameter_bytes: int
    gradient_bytes: int
    saved_bytes: dict[str, int]
    optimizer_bytes: int = 0
    peak_allocated: int | None = None
    peak_reserved: int | None = None
    seconds: StepSeconds | None = None
    examples_per_second: float | None = None
    checkpoint_bytes: int = 0
    inference_bytes: int | None = None
    seconds_per_answer: float | None = None

    @property
    def recomputes(self) -> bool | None:
        """Whether blocks are recomputed in the backward pass; `None` without such an option.

        With `auto`, they are measured recomputed, as they are until memory has been compared.
        """
        found = self.options.get("recompute")
        return None if found is None else found is not False

    @property
    def trainable_percent(self) -> float:
        """Trainable parameters in percent of all parameters."""
        return 100 * self.trainable / self.total

    @property
    def training_bytes(self) -> int:
        """Bytes of parameters, buffers, gradients, optimizer state and saved tensors."""
        static = self.parameter_bytes + self.gradient_bytes + self.optimizer_bytes
        return static + self.saved_bytes[TOTAL]


def profile_methods(
    methods: Sequence[ComparedMethod],
    settings: ProfileSettings,
    report: ProgressReport = silent,
    *,
    leave_out_untrained: bool = False,
) -> list[MethodProfile]:
    """Measure methods on the same backbone, batch and device, one model at a time.

    Args:
        methods: Methods to measure, in the order of the result.
        settings: Settings of the profile.
        report: Progress callback.
        leave_out_untrained: Whether to leave out methods that train nothing with the measured head,
            instead of refusing them.

    Raises:
        RecipeError: A method or an option does not exist.
        ModelError: The backbone cannot be loaded, or does not fit a method or the batch.
    """
    for method in methods:
        method.resolved()
    profiler = _Profiler(settings)
    if leave_out_untrained:
        methods = [method for method in methods if profiler.trains(method)]
    with float32_products(tf32=settings.tf32, device=settings.device):
        return profiler.run(methods, report)


class _Profiler:
    """Measures methods, one model at a time, on one backbone and batch."""

    def __init__(self, settings: ProfileSettings) -> None:
        self._settings = settings
        workload = settings.workload
        self._visual = workload.visual()
        self._dataless = DatalessMode() if settings.estimate else None
        # Each method changes the backbone that it is attached to, so it gets a copy. Without data,
        # building another one is as fast.
        self._backbones: dict[torch.dtype, FrozenBackbone] = {}
        if self._dataless:
            config, family = self._config()
        else:
            backbone = self._pristine_backbone(settings.backbone_precision)
            config, family = backbone.config, backbone.family
        vocabulary, has_decoder = family.vocabulary_size(config), family.has_decoder
        self._head = settings.workload.head(has_decoder=has_decoder)
        torch.manual_seed(SEED)
        with self._running():
            batch = settings.workload.batch(vocabulary, has_decoder=has_decoder)
            self._batch = batch.to(settings.device)

    def trains(self, method: ComparedMethod) -> bool:
        """Return whether a method trains anything with the measured head."""
        return get_method(method.name).trains(self._head, visual=self._visual)

    def run(self, methods: Sequence[ComparedMethod], report: ProgressReport) -> list[MethodProfile]:
        steps = 0 if self._settings.estimate else self._settings.steps
        rounds = max(1, min(ROUNDS, steps))
        done, turns = 0, len(methods) * rounds
        profiles: list[MethodProfile] = []
        seconds: list[list[StepSeconds]] = [[] for _ in methods]
        answering: list[list[float]] = [[] for _ in methods]
        for turn in range(rounds):
            for place, method in enumerate(methods):
                report(done, turns, method.name)
                model, trainable = self._build(method)
                if turn == 0:
                    profiles.append(self._count(method, model, trainable))
                if steps:
                    num_steps = steps // rounds + (turn < steps % rounds)
                    answered = self._measure_answering(model, num_steps)
                    answering[place] += answered.seconds
                    profiles[place].inference_bytes = max(
                        profiles[place].inference_bytes or 0,
                        profiles[place].parameter_bytes + answered.peak_bytes,
                    )
                    measured = self._measure_steps(model, trainable, num_steps)
                    seconds[place] += measured.seconds
                    _add_measured(profiles[place], measured)
                else:
                    profiles[place].optimizer_bytes = self._optimizer_bytes(model, trainable)
                del model, trainable
                done += 1
        report(done, turns)
        rows = self._settings.workload.batch_size
        for profile, each, answers in zip(profiles, seconds, answering, strict=True):
            if each:
                profile.seconds = StepSeconds.median(each)
                profile.examples_per_second = rows / profile.seconds.step
                profile.seconds_per_answer = statistics.median(answers) / rows
        return profiles

    def _precision(self, method: ComparedMethod) -> BackbonePrecision:
        return method.backbone_precision or self._settings.backbone_precision

    def _pristine_backbone(self, precision: BackbonePrecision) -> FrozenBackbone:
        """Return the backbone before it is quantized, which no method has changed."""
        dtype = DTYPES[precision]
        if dtype not in self._backbones:
            self._backbones[dtype] = self._load_backbone(dtype)
        return self._backbones[dtype]

    def _load_backbone(self, dtype: torch.dtype) -> FrozenBackbone:
        settings = self._settings
        if not (settings.random_weights or settings.estimate):
            # A method is attached before the backbone is quantized.
            plain: BackbonePrecision = "bf16" if dtype == torch.bfloat16 else "fp32"
            cut: Vocabulary | None = "tokenizer" if settings.vocabulary == "tokenizer" else None
            return load_backbone(settings.backbone, precision=plain, vocabulary=cut).backbone
        torch.manual_seed(SEED)
        config, family = self._config()
        return random_backbone(config, family, dtype=dtype)

    def _config(self) -> tuple[Any, Family]:
        size = self._settings.vocabulary
        vocabulary = size if isinstance(size, int) else None
        return backbone_config(self._settings.backbone, vocabulary=vocabulary)

    def _build(self, method: ComparedMethod) -> tuple[Any, dict[str, nn.Parameter]]:
        precision, dataless = self._precision(method), self._dataless
        with dataless.building() if dataless else nullcontext():
            own = (
                self._load_backbone(DTYPES[precision])
                if dataless
                else copy.deepcopy(self._pristine_backbone(precision))
            )
            torch.manual_seed(SEED)
            model, trainable = attach_method(
                method.name,
                method.options,
                own,
                visual=self._visual,
                heads={self._batch.task: self._head},
                precision=precision,
                optimizer=self._settings.optimizer.name,
            )
        model.train()
        if dataless:
            dataless.adopt(model)
            return model, {name: model.get_parameter(name) for name in trainable}
        quantize(model.backbone, precision)
        return model.to(self._settings.device), trainable

    def _running(self) -> AbstractContextManager[None]:
        return self._dataless.running() if self._dataless else nullcontext()

    def _count(
        self, method: ComparedMethod, model: Any, trainable: Mapping[str, nn.Parameter]
    ) -> MethodProfile:
        settings = self._settings
        with self._running(), autocast(settings.precision, settings.device):
            saved = saved_bytes_by_part(model, self._batch, LOSS_AVERAGE)
        return MethodProfile(
            method=method.name,
            options=method.resolved(),
            recipe=method.recipe,
            backbone_precision=self._precision(method),
            head=self._head,
            trainable=sum(parameter.numel() for parameter in trainable.values()),
            total=sum(parameter.numel() for parameter in model.parameters()),
            parameter_bytes=self._parameter_bytes(model, self._precision(method)),
            gradient_bytes=sum(parameter.nbytes for parameter in trainable.values()),
            saved_bytes=saved,
            checkpoint_bytes=sum(
                parameter.nbytes for parameter in get_method(method.name).trainable(model).values()
            ),
        )

    def _parameter_bytes(self, model: Any, precision: BackbonePrecision) -> int:
        held = model_bytes(model)
        if self._settings.estimate:
            held -= bytes_freed_by_quantization(model.backbone, precision)
        return held

    def _optimizer_bytes(self, model: nn.Module, trainable: Mapping[str, nn.Parameter]) -> int:
        """Return the size of the optimizer's state after a step with zero gradients."""
        made = build_optimizer(model, trainable, self._settings.optimizer)
        with self._running():
            for parameter in trainable.values():
                parameter.grad = torch.zeros_like(parameter)
            made.step()
        return optimizer_bytes(made)

    def _measure_answering(self, model: Any, repeats: int) -> AnsweringCost:
        return measure_answering(
            model,
            self._batch,
            tokens=self._settings.workload.answer_tokens,
            precision=self._settings.precision,
            repeats=repeats,
        )

    def _measure_steps(
        self, model: nn.Module, trainable: Mapping[str, nn.Parameter], steps: int
    ) -> MeasuredSteps:
        return measure_steps(
            model,
            trainable,
            self._batch,
            precision=self._settings.precision,
            optimizer=self._settings.optimizer,
            steps=steps,
        )


def _add_measured(profile: MethodProfile, measured: MeasuredSteps) -> None:
    profile.optimizer_bytes = measured.optimizer_state
    if measured.peak_allocated is not None:
        profile.peak_allocated = max(profile.peak_allocated or 0, measured.peak_allocated)
    if measured.peak_reserved is not None:
        profile.peak_reserved = max(profile.peak_reserved or 0, measured.peak_reserved)
