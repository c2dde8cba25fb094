"""The fields of a recipe, with their ranges.

A test checks that the package reads every field. Fields that a file leaves out have the defaults
below. Fields that depend on the task have one value per trained task, and `resolve_recipe` fills in
missing ones. A single value is used for all tasks:

    head: generate          # the same as  head: {vqa: generate, caption: generate}
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from eval.text import is_utf8
from tasks import Head, Task
from vl_lst.choices import (
    ArithmeticPrecision,
    BackbonePrecision,
    ChosenArithmeticPrecision,
    ChosenBackbonePrecision,
    DeviceName,
    OptimizerName,
    TrackerName,
    Vocabulary,
)
from vl_lst.task_settings import configure_task

__all__ = [
    "BackboneSection",
    "DataSection",
    "GenerationSection",
    "MethodSection",
    "OptimizerSection",
    "Precision",
    "ProjectionSection",
    "Recipe",
    "TrainingSection",
    "VisualSection",
]


def _check_precision(choices: object) -> BeforeValidator:
    """Return a check that a precision is one of the choices, among which is `auto`.

    `resolve_recipe` has replaced `auto` before.
    """
    names = get_args(choices)

    def check(value: object) -> object:
        _refuse_float16(value)
        if value not in names:
            raise ValueError(f"expected one of {', '.join(names)}")
        return value

    return BeforeValidator(check)


def _refuse_float16(value: object) -> None:
    if str(value).lower() in ("fp16", "float16", "half"):
        raise ValueError(
            "activations of backbones that were trained in bfloat16 or float32 overflow to "
            "infinity in float16, so training would end in NaN; use bf16, which needs as little "
            "memory, or fp32"
        )


Precision = Annotated[ArithmeticPrecision, _check_precision(ChosenArithmeticPrecision)]
WeightPrecision = Annotated[BackbonePrecision, _check_precision(ChosenBackbonePrecision)]
Share = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
# Far above useful values, far below those that overflow or exhaust memory.
MAX_COUNT = 10**9
MAX_EPOCHS = 10**6
MAX_BATCH_SIZE = 10**6
MAX_REAL = 1e6
BatchSize = Annotated[int, Field(ge=1, le=MAX_BATCH_SIZE)]
Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Beams = Annotated[int, Field(ge=1, le=1_000)]
Length = Annotated[int, Field(ge=1, le=10_000)]


def _refuse_blank(value: object) -> object:
    """Refuse blank strings, and characters that no file name can contain."""
    if isinstance(value, str):
        if not value.strip():
            raise ValueError("expected a name, not a blank string")
        if "\0" in value or not is_utf8(value):
            raise ValueError("expected a name without null characters, in valid Unicode")
    return value


Name = Annotated[str, BeforeValidator(_refuse_blank)]
File = Annotated[Path, BeforeValidator(_refuse_blank)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DataSection(_Section):
    """Training and validation data.

    Args:
        root: Folder with the official annotation files; `None` if every task has its own files.
        train_file: The user's own training examples of each task (JSONL, see
            `tasks.with_own_files`); `None` uses the official files.
        validation_file: The user's own validation examples; given if and only if `train_file` is.
        train_split: Training split of each task. Default: the task's first split.
        validation_split: Split that selects the best checkpoint. Default: the task's second split.
        prompt_prefix: Prefix of each prompt. Default: the task's own, such as "vqa: ".
        prompt_suffix: Suffix of each prompt, which is kept if the prompt is truncated. Default: the
            task's own, which is empty.
        answer_list: File with the answers to choose from (`label2ans`). `None` uses the task's
            words or its official file below `root`, if it has one, else the training answers.
        min_answer_count: Minimum number of training examples of an answer on a list made from the
            training answers. Default: 9 for VQA, 1 for other tasks and for the user's own files.
        max_prompt_tokens: Maximum length of a prompt in tokens, prefix and special tokens included;
            longer ones are truncated. Default: the task's own. Batches are padded to
            their longest prompt, so a high limit costs memory only if prompts are long.
        blind: Replace all image features with zeros, to measure what the questions alone reveal.
    """

    root: File | None = None
    train_file: Mapping[str, File | None]
    validation_file: Mapping[str, File | None]
    train_split: Mapping[str, str]
    validation_split: Mapping[str, str]
    prompt_prefix: Mapping[str, str]
    prompt_suffix: Mapping[str, str]
    answer_list: Mapping[str, File | None]
    min_answer_count: Mapping[str, Count]
    max_prompt_tokens: Mapping[str, Length]
    blind: bool = False

    @model_validator(mode="after")
    def _require_examples(self) -> "DataSection":
        official = [task for task, path in self.train_file.items() if path is None]
        if official and self.root is None:
            raise ValueError(
                f"found neither a data root nor files for {', '.join(official)}; expected "
                "--data-root DIR (data.root) with the official annotations, or --train-file and "
                "--val-file (data.train_file, data.validation_file) with your own examples"
            )
        return self

    @property
    def folder(self) -> Path:
        """`root`, or the working directory if no task reads official files."""
        return self.root or Path()


class BackboneSection(_Section):
    """The frozen language model.

    Args:
        name: Hugging Face model ID such as `t5-base`, a local directory, or `demo` (bundled).
        precision: Precision of weights and activations. `int8` and `nf4` quantize the weights and
            keep activations in bf16; they require a method that does not train the weights
            themselves. Trainable parameters are always float32. Default: `auto`, the precision of
            computation, unless the method needs another one (see `recipes.precision`).
        vocabulary: `tokenizer` cuts the embeddings and the output layer to the tokens of the
            tokenizer, as in the paper's code, so that no other can be generated. `None` keeps all
            that are stored; checkpoints may have more, to make their number even.
    """

    name: Name
    precision: WeightPrecision = "fp32"
    vocabulary: Vocabulary | None = None


class VisualSection(_Section):
    """The visual embedding, which turns image features into tokens.

    Args:
        embedding: `learned` trains a visual embedding. `none` passes the features, which are those
            of the backbone's own image encoder, to the backbone; the other fields must then be null
            or have their defaults. Default: `none` if the backbone reads images or no task has
            images, else `learned`.
        pooled_grid: Side of the grid that features are max-pooled to; `None` does not pool.
        image_order_std: Initial standard deviation of the embedding that distinguishes the images
            of an example. The paper's code uses 1.0, which is as large as the features.
    """

    embedding: Literal["learned", "none"] | None = None
    pooled_grid: int | None = Field(default=6, ge=1, le=1_000)
    image_order_std: float = Field(default=0.02, ge=0, le=MAX_REAL)


class MethodSection(_Section):
    """The transfer method.

    Args:
        name: Name of a module in `vl_lst/methods`.
        options: Options of the method.
    """

    name: Name
    options: Mapping[str, Any]


class ProjectionSection(_Section):
    """The low-rank projection of gradients by the optimizers `galore` and `apollo`.

    Embeddings, the output layer, and matrices whose smaller side is at most `rank` are not
    projected. Defaults are those of `transformers`, which `resolve_recipe` fills in.

    Args:
        rank: Rank of the projected gradients.
        update_proj_gap: Number of steps between projections (T in both papers).
        scale: Factor of the update (alpha in both papers); `apollo` uses its root.
        scale_type: How `apollo` scales the gradient: by `channel`, or the whole matrix at once
            (`tensor`, as in APOLLO-Mini with rank 1 and scale 128). `None` for `galore`.
    """

    rank: Count
    update_proj_gap: Count
    scale: float = Field(gt=0, le=MAX_REAL)
    scale_type: Literal["channel", "tensor"] | None = None


class OptimizerSection(_Section):
    """The optimizer, with linear warm-up and linear decay of its learning rate.

    Args:
        name: `adamw`; `adamw-8bit`, which quantizes the moments; `lora-fa`, which trains only the
            factors B of low-rank updates; `galore` or `apollo`, whose moments are those of
            projected gradients.
        projection: Projection of `galore` and `apollo`, `None` for others.
        lr: Peak learning rate, reached at the end of the warm-up.
        weight_decay: Decoupled weight decay.
        decay: Parameters that weight decay applies to. `weights` excludes biases, norms, gates and
            position biases. `reference`, as in the paper's code, excludes only biases and position
            biases, so it pulls norms towards zero and gates towards one half.
        betas: Decay rates of the first and second moments.
        eps: Term added to the denominator.
        warmup_share: Fraction of all steps used for the warm-up; `None` if `warmup_steps` is given.
        warmup_steps: Number of steps of the warm-up; `None` if `warmup_share` is given. Overriding
            one of the two replaces the other. A run with fewer steps never reaches the peak.
        clip_norm: Maximum norm of all gradients together; `None` disables clipping.
    """

    name: OptimizerName = "adamw"
    projection: ProjectionSection | None = None
    lr: float = Field(gt=0, le=MAX_REAL)
    weight_decay: float = Field(default=0.01, ge=0, le=MAX_REAL)
    decay: Literal["weights", "reference"] = "weights"
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    eps: float = Field(default=1e-6, gt=0, le=MAX_REAL)
    warmup_share: Share | None = 0.1
    warmup_steps: int | None = Field(default=None, ge=0, le=MAX_COUNT)
    clip_norm: float | None = Field(default=5.0, gt=0, le=1e12)

    @model_validator(mode="after")
    def _require_one_warmup(self) -> "OptimizerSection":
        if (self.warmup_share is None) == (self.warmup_steps is None):
            raise ValueError(
                f"warmup_share is {self.warmup_share} and warmup_steps is {self.warmup_steps}; "
                "expected exactly one of them to be set, the other null"
            )
        return self

    @model_validator(mode="after")
    def _require_projection(self) -> "OptimizerSection":
        if self.name in ("galore", "apollo") and self.projection is None:
            raise ValueError(f"projection: found null; expected settings with {self.name}")
        if self.projection and (self.name == "apollo") != (self.projection.scale_type is not None):
            expected = "channel or tensor" if self.name == "apollo" else "null"
            raise ValueError(
                f"projection.scale_type: found {self.projection.scale_type or 'null'}; expected "
                f"{expected} with {self.name}"
            )
        return self


class TrainingSection(_Section):
    """Length, batches and device of training.

    Args:
        epochs: Number of passes over the training examples; `None` if `steps` is given. A file may
            give one number per task (`{rte: 20, sst2: 10}`), of which a run takes its own.
        steps: Number of optimizer steps; `None` if `epochs` is given. Overriding one of the two
            replaces the other.
        batch_size: Examples per step, over all processes. Default: the task's own. One number for
            several tasks applies to VQA, and the others get their share of it as in the paper's
            code (`Task.batch_share`).
        evaluation_batch_size: Examples per batch and process in evaluation.
        workers: Number of processes that read features and tokenize, at most one per core; 0 uses
            the main process.
        evaluate_every: Number of epochs between evaluations; training always ends with one. An
            epoch is a pass over the examples of every task.
        checkpoint_every_steps: Number of steps between checkpoints; `None` saves one only after
            each evaluation.
        log_every_steps: Number of steps averaged in a line of `metrics.jsonl`.
        precision: Precision of computation; trainable parameters are always float32. Default:
            `auto`, which is bf16 on devices that compute it natively, else fp32. A run records
            which, and keeps it.
        tf32: Whether CUDA multiplies in TF32 what stays in float32: faster, with 10 bits of the
            mantissa. Default: true on CUDA, false elsewhere, where it has no effect.
        compile: Whether to compile the blocks that train with `torch.compile`; on CUDA only.
        device: Device to train on; `auto` uses CUDA if available.
        seed: Seed for initial weights, example order, answer sampling and dropout.
        trackers: Experiment trackers that get the values of `metrics.jsonl` too: `tensorboard`
            (files in the run directory), `wandb`, `trackio`.
    """

    epochs: int | None = Field(default=None, ge=1, le=MAX_EPOCHS)
    steps: Count | None = None
    batch_size: Mapping[str, BatchSize]
    evaluation_batch_size: BatchSize
    workers: int = Field(default=0, ge=0, le=256)
    evaluate_every: int = Field(default=1, ge=1, le=MAX_EPOCHS)
    checkpoint_every_steps: Count | None = None
    log_every_steps: Count = 10
    precision: Precision = "fp32"
    tf32: bool = False
    compile: bool = False
    device: DeviceName = "auto"
    seed: int = Field(default=0, ge=0, lt=2**32)
    trackers: tuple[TrackerName, ...] = ()

    @model_validator(mode="after")
    def _require_one_length(self) -> "TrainingSection":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(
                f"epochs is {self.epochs} and steps is {self.steps}; expected exactly one of them "
                "to be set, the other null"
            )
        return self


class GenerationSection(_Section):
    """Generation of answers.

    Args:
        beams: Number of beams; 1 is greedy search. Default: the task's own.
        max_length: Maximum length of an answer in tokens, special tokens included. Default: the
            task's own. A higher limit also applies to training answers.
        constrain_to_answers: Generate only answers on the task's answer list (see
            `data.answer_list`). Captions are never constrained.
    """

    beams: Mapping[str, Beams]
    max_length: Mapping[str, Length]
    constrain_to_answers: bool = False


class Recipe(_Section):
    """All settings of a run.

    Args:
        task: Name of a module in `tasks`, or several separated by commas.
        data: Training and validation data.
        features: Feature files of all images; none if no task has images.
        states: File of the backbone's states, from which a run trains without the backbone (see
            `vl-lst extract-states`); `None` lets the backbone compute them.
        backbone: The frozen language model.
        visual: The visual embedding.
        method: The transfer method.
        head: `classify` picks from an answer list; `generate` writes free text; `regress` answers
            with a number. Default: the task's first head. One value for several tasks applies to
            those that have such a head.
        optimizer: The optimizer and its schedule.
        training: Length, batches and device of training.
        generation: Generation of answers.
    """

    task: str
    data: DataSection
    features: tuple[File, ...] = ()
    states: File | None = None
    backbone: BackboneSection
    visual: VisualSection = VisualSection()
    method: MethodSection
    head: Mapping[str, Head]
    optimizer: OptimizerSection
    training: TrainingSection
    generation: GenerationSection

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the trained tasks."""
        return tuple(self.task.split(","))

    def configured_task(self, name: str, *, official: bool = False) -> Task:
        """Return a task with the run's settings; see `vl_lst.task_settings.configure_task`."""
        return configure_task(self.model_dump(mode="json"), name, official=official)
