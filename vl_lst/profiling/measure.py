"""Several transfer methods measured on one batch: bytes, and seconds in turns."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn
from transformers import T5ForConditionalGeneration

from vl_lst.backbones.backbone import FrozenBackbone
from vl_lst.backbones.loading import DTYPES, load_backbone
from vl_lst.backbones.quantization import BackbonePrecision, bytes_to_save, model_bytes, quantise
from vl_lst.choices import ArithmeticPrecision
from vl_lst.devices import arithmetic
from vl_lst.errors import RecipeError
from vl_lst.methods import get_method
from vl_lst.models.config import HeadConfig
from vl_lst.profiling.estimate import DatalessMode
from vl_lst.profiling.shapes import backbone_config, random_backbone
from vl_lst.profiling.steps import (
    LOSS_AVERAGE,
    MeasuredSteps,
    StepSeconds,
    measure_steps,
    optimizer_bytes,
)
from vl_lst.profiling.workload import Workload
from vl_lst.progress import ProgressReport, silent
from vl_lst.recipes.building import attach_method
from vl_lst.recipes.schema import OptimizerSection
from vl_lst.training.optimizer import build_optimizer
from vl_lst.training.resources import saved_for_backward

__all__ = ["Contender", "MethodProfile", "ProfileSettings", "profile_methods"]

# Methods take turns this often, so that what else the machine does falls on all of them.
ROUNDS = 2
SEED = 0


@dataclass(frozen=True, slots=True)
class Contender:
    """A method and its settings.

    Args:
        method: Its name.
        options: Its own settings, as a recipe has them; what is left out has the method's default.
        recipe: Where they are from, for the report: a file, or the name of a bundled recipe; `None`
            where no recipe is for the method.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    recipe: str | None = None

    def resolved(self) -> dict[str, Any]:
        """All its settings.

        Raises:
            RecipeError: There is no such method, or a setting is not valid.
        """
        kind = get_method(self.method).options
        try:
            return kind.model_validate(dict(self.options)).model_dump(mode="json")
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            reason = first["msg"].removeprefix("Value error, ")
            if not first["loc"]:  # options that do not go together
                raise RecipeError(f"{self.method}: {reason}") from None
            name = ".".join(map(str, first["loc"]))
            raise RecipeError(
                f"{self.method}.{name}: found {first['input']!r:.80}; {reason}. The method "
                f"{self.method} has the options {', '.join(kind.model_fields)}"
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileSettings:
    """What is measured, and how.

    Args:
        backbone: See `profiling.shapes.backbone_config`.
        random_weights: Draw the backbone's weights instead of loading them.
        vocabulary: Entries of the embedding table of such a backbone; `None`: the published number.
        backbone_precision: How the backbone is held.
        precision: Of the arithmetic, `fp32` or `bf16`.
        workload: The batch.
        optimizer: AdamW.
        steps: Steps to take the median of; 0 measures bytes alone.
        estimate: Count without data, on any machine in seconds: no steps, no CUDA.
        device: Where it runs.
    """

    backbone: str
    random_weights: bool = False
    vocabulary: int | None = None
    backbone_precision: BackbonePrecision = "fp32"
    precision: ArithmeticPrecision = "fp32"
    workload: Workload = Workload()
    optimizer: OptimizerSection = OptimizerSection(lr=1e-4)
    steps: int = 6
    estimate: bool = False
    device: torch.device = torch.device("cpu")


@dataclass(kw_only=True)
class MethodProfile:
    """What a method costs.

    Args:
        method: Its name.
        options: All its settings.
        recipe: See `Contender.recipe`.
        trainable: Parameters that train.
        total: All parameters, backbone included, those shared between layers once.
        parameter_bytes: Held by all parameters and buffers, storages that several share once.
        gradient_bytes: Of what trains.
        saved_bytes: What autograd keeps of a forward pass for the backward pass, parameters
            excluded, by part and in `total`.
        optimizer_bytes: Of AdamW's state, once it exists.
        peak_allocated: Most bytes allocated on CUDA in training steps, parameters included.
        peak_reserved: The same of what was reserved from the device.
        seconds: Medians over steps; `None` where none were made.
        examples_per_second: By the median step.
    """

    method: str
    options: dict[str, Any]
    recipe: str | None
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

    @property
    def trainable_percent(self) -> float:
        """Share of parameters that train, in percent."""
        return 100 * self.trainable / self.total

    @property
    def training_bytes(self) -> int:
        """Parameters and buffers, gradients, optimiser state and what is saved, together."""
        held = self.parameter_bytes + self.gradient_bytes + self.optimizer_bytes
        return held + self.saved_bytes["total"]


def profile_methods(
    contenders: Sequence[Contender], settings: ProfileSettings, report: ProgressReport = silent
) -> list[MethodProfile]:
    """Measure methods on the same backbone, batch and device, one model at a time.

    Args:
        contenders: In the order of the result.
        settings: What is measured.
        report: Told how many turns are done.

    Raises:
        RecipeError: A method or an option does not exist.
        ModelError: The backbone cannot be had, or does not fit a method or the batch.
    """
    for contender in contenders:
        contender.resolved()
    return _Bench(settings).run(contenders, report)


class _Bench:
    """One backbone and one batch; models come and go."""

    def __init__(self, settings: ProfileSettings) -> None:
        self._settings = settings
        self._visual = settings.workload.visual()
        self._dataless = DatalessMode() if settings.estimate else None
        # Methods change the backbone they are attached to, so each gets a copy of this one; without
        # data it is as soon built anew.
        self._backbone = None if self._dataless else self._load_backbone()
        config = self._config() if self._backbone is None else self._backbone.config
        torch.manual_seed(SEED)
        with self._running():
            self._batch = settings.workload.batch(config.vocab_size).to(settings.device)

    def run(self, contenders: Sequence[Contender], report: ProgressReport) -> list[MethodProfile]:
        steps = 0 if self._settings.estimate else self._settings.steps
        rounds = max(1, min(ROUNDS, steps))
        done, turns = 0, len(contenders) * rounds
        profiles: list[MethodProfile] = []
        seconds: list[list[StepSeconds]] = [[] for _ in contenders]
        for turn in range(rounds):
            for place, contender in enumerate(contenders):
                report(done, turns, contender.method)
                model, trainable = self._build(contender)
                if turn == 0:
                    profiles.append(self._count(contender, model, trainable))
                if steps:
                    share = steps // rounds + (turn < steps % rounds)
                    measured = self._step(model, trainable, share)
                    seconds[place] += measured.seconds
                    _note(profiles[place], measured)
                else:
                    profiles[place].optimizer_bytes = self._first_state(model, trainable)
                del model, trainable
                done += 1
        report(done, turns)
        for profile, each in zip(profiles, seconds, strict=True):
            if each:
                profile.seconds = StepSeconds.median(each)
                rows = self._settings.workload.batch_size
                profile.examples_per_second = rows / profile.seconds.step
        return profiles

    def _load_backbone(self) -> T5ForConditionalGeneration:
        settings = self._settings
        dtype = DTYPES[settings.backbone_precision]
        if not (settings.random_weights or settings.estimate):
            # Quantised once a method is attached; until then in the precision of its activations.
            plain: BackbonePrecision = "bf16" if dtype == torch.bfloat16 else "fp32"
            return load_backbone(settings.backbone, precision=plain).backbone.model
        torch.manual_seed(SEED)
        return random_backbone(self._config(), dtype=dtype)

    def _config(self) -> Any:
        return backbone_config(self._settings.backbone, vocabulary=self._settings.vocabulary)

    def _build(self, contender: Contender) -> tuple[Any, dict[str, nn.Parameter]]:
        precision = self._settings.backbone_precision
        dataless, pristine = self._dataless, self._backbone
        with dataless.building() if dataless else nullcontext():
            own = self._load_backbone() if pristine is None else copy.deepcopy(pristine)
            torch.manual_seed(SEED)
            model, trainable = attach_method(
                contender.method,
                contender.options,
                FrozenBackbone(own),
                visual=self._visual,
                heads={self._batch.task: HeadConfig(kind="generate")},
                precision=precision,
            )
        model.train()
        if dataless:
            dataless.adopt(model)
            return model, {name: model.get_parameter(name) for name in trainable}
        if precision in ("int8", "nf4"):
            quantise(model.backbone.model, precision)
        return model.to(self._settings.device), trainable

    def _running(self) -> AbstractContextManager[None]:
        return self._dataless.running() if self._dataless else nullcontext()

    def _count(
        self, contender: Contender, model: Any, trainable: Mapping[str, nn.Parameter]
    ) -> MethodProfile:
        settings = self._settings
        with self._running(), arithmetic(settings.precision, settings.device):
            saved = saved_for_backward(model, self._batch, LOSS_AVERAGE)
        return MethodProfile(
            method=contender.method,
            options=contender.resolved(),
            recipe=contender.recipe,
            trainable=sum(parameter.numel() for parameter in trainable.values()),
            total=sum(parameter.numel() for parameter in model.parameters()),
            parameter_bytes=self._parameter_bytes(model),
            gradient_bytes=sum(parameter.nbytes for parameter in trainable.values()),
            saved_bytes=saved,
        )

    def _parameter_bytes(self, model: Any) -> int:
        held = model_bytes(model)
        precision = self._settings.backbone_precision
        if self._settings.estimate and precision in ("int8", "nf4"):
            held -= bytes_to_save(model.backbone.model, precision)
        return held

    def _first_state(self, model: nn.Module, trainable: Mapping[str, nn.Parameter]) -> int:
        """Bytes of AdamW's state after a step with gradients of zero."""
        adam = build_optimizer(model, trainable, self._settings.optimizer)
        with self._running():
            for parameter in trainable.values():
                parameter.grad = torch.zeros_like(parameter)
            adam.step()
        return optimizer_bytes(adam)

    def _step(
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


def _note(profile: MethodProfile, measured: MeasuredSteps) -> None:
    profile.optimizer_bytes = measured.optimizer_state
    if measured.peak_allocated is not None:
        profile.peak_allocated = max(profile.peak_allocated or 0, measured.peak_allocated)
    if measured.peak_reserved is not None:
        profile.peak_reserved = max(profile.peak_reserved or 0, measured.peak_reserved)
