"""The fields of a recipe, with their ranges.

Every field is read somewhere in this package; a test sees to it. What a file leaves out has the
default written here, except for fields that depend on the task: those hold a value for each task
that trains, and `resolve_recipe` fills them in. One value stands for all tasks:

    head: generate          # the same as  head: {vqa: generate, caption: generate}
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from feature_extraction.images.finding import is_utf8
from tasks import Head
from vl_lst.choices import ArithmeticPrecision, BackbonePrecision, DeviceName

__all__ = [
    "BackboneSection",
    "DataSection",
    "GenerationSection",
    "MethodSection",
    "OptimizerSection",
    "Precision",
    "Recipe",
    "TrainingSection",
    "VisualSection",
]


def _refuse_float16(value: object) -> object:
    if str(value).lower() in ("fp16", "float16", "half"):
        raise ValueError(
            "T5's activations overflow to infinity in float16 (it was trained in bfloat16), so "
            "training would end in NaN; take bf16, which needs as little memory, or fp32"
        )
    return value


Precision = Annotated[ArithmeticPrecision, BeforeValidator(_refuse_float16)]
WeightPrecision = Annotated[BackbonePrecision, BeforeValidator(_refuse_float16)]
Share = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
# Far above what makes sense, far below what overflows or fills the memory of any machine.
MAX_COUNT = 10**9
MAX_EPOCHS = 10**6
MAX_BATCH_SIZE = 10**6
MAX_REAL = 1e6
BatchSize = Annotated[int, Field(ge=1, le=MAX_BATCH_SIZE)]
Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Beams = Annotated[int, Field(ge=1, le=1_000)]
Length = Annotated[int, Field(ge=1, le=10_000)]


def _refuse_blank(value: object) -> object:
    """Refuse texts that name nothing, and characters that no file name can hold."""
    if isinstance(value, str):
        if not value.strip():
            raise ValueError("expected a name, not an empty text")
        if "\0" in value or not is_utf8(value):
            raise ValueError("expected a name without null characters, in valid Unicode")
    return value


Name = Annotated[str, BeforeValidator(_refuse_blank)]
File = Annotated[Path, BeforeValidator(_refuse_blank)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DataSection(_Section):
    """What is learned from.

    Args:
        root: Folder with the official annotation files; `None` where every task has its own files.
        train_file: A user's own training examples of each task (JSONL, see `tasks.with_own_files`);
            `None` takes the official files.
        validation_file: The validation examples that go with them.
        train_split: Split of each task that trains; the task's first unless said otherwise.
        validation_split: Split that chooses the best checkpoint; the task's second.
        prompt_prefix: What stands before the text of each prompt; the task's own ("vqa: ") unless
            said otherwise.
        answer_list: File with the answers to choose from (`label2ans`). `None` takes the task's
            own words or its own file below the root, or, where there is neither, counts the
            training answers.
        min_answer_count: Training examples an answer must have to be counted into the list; the
            task's own unless said otherwise (9 for VQA, 1 elsewhere and for a user's own files).
        max_prompt_tokens: Prompts are cut to this many tokens, prefix and end-of-sequence included.
            A batch is padded to its longest prompt, so memory grows with the longest only.
        blind: Replace all image features by zeros: what questions alone give away.
    """

    root: File | None = None
    train_file: Mapping[str, File | None]
    validation_file: Mapping[str, File | None]
    train_split: Mapping[str, str]
    validation_split: Mapping[str, str]
    prompt_prefix: Mapping[str, str]
    answer_list: Mapping[str, File | None]
    min_answer_count: Mapping[str, Count]
    max_prompt_tokens: Mapping[str, Length]
    blind: bool = False

    @model_validator(mode="after")
    def _something_to_learn_from(self) -> "DataSection":
        official = [task for task, path in self.train_file.items() if path is None]
        if official and self.root is None:
            raise ValueError(
                f"found neither a data root nor files for {', '.join(official)}; expected "
                "--data-root DIR (data.root) with the official annotations, or --train-file and "
                "--val-file (data.train_file, data.validation_file) with examples of your own"
            )
        return self

    @property
    def folder(self) -> Path:
        """`root`, or any folder where no task looks into it."""
        return self.root or Path()


class BackboneSection(_Section):
    """The frozen language model.

    Args:
        name: `demo`, a folder, or a name on the Hugging Face hub such as `t5-base`.
        precision: Of its weights and activations. `int8` and `nf4` quantise the weights, with
            activations in bf16, for methods that never backpropagate through the backbone; what
            trains stays in float32.
    """

    name: Name
    precision: WeightPrecision = "fp32"


class VisualSection(_Section):
    """How image features become tokens.

    Args:
        pooled_grid: Side of the grid the features are max-pooled to; `None` leaves them as stored.
        image_order_std: Initial scale of the embedding that tells the images of an example apart;
            1.0 in the paper's code, where it drowns the features.
    """

    pooled_grid: int | None = Field(default=6, ge=1, le=1_000)
    image_order_std: float = Field(default=0.02, ge=0, le=MAX_REAL)


class MethodSection(_Section):
    """The transfer method.

    Args:
        name: A file of `vl_lst/methods`.
        options: Its own settings.
    """

    name: Name
    options: Mapping[str, Any]


class OptimizerSection(_Section):
    """AdamW with linear warm-up and linear decay.

    Args:
        lr: Learning rate at the end of the warm-up.
        weight_decay: Decoupled.
        decay: What it applies to: `weights` spares biases, norms, gates and position biases, whose
            size means something by itself; `reference` spares only biases and position biases, and
            so pulls norms to zero and gates to one half, as the paper's code does.
        betas: Decay rates of the two moments.
        eps: Added to the denominator.
        warmup_share: Share of all steps in which the learning rate rises.
        clip_norm: Largest norm of all gradients together; `None` does not clip.
    """

    lr: float = Field(gt=0, le=MAX_REAL)
    weight_decay: float = Field(default=0.01, ge=0, le=MAX_REAL)
    decay: Literal["weights", "reference"] = "weights"
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    eps: float = Field(default=1e-6, gt=0, le=MAX_REAL)
    warmup_share: Share = 0.1
    clip_norm: float | None = Field(default=5.0, gt=0, le=1e12)


class TrainingSection(_Section):
    """How long, how much at once, and where.

    Args:
        epochs: Passes over the training examples; `None` where `steps` is given.
        steps: Optimiser steps; `None` where `epochs` is given. An override that gives one of the
            two replaces the other.
        batch_size: Examples a step, over all processes. One number for several tasks is VQA's; the
            others get their share of it as in the paper's code (`Task.batch_share`).
        evaluation_batch_size: Examples at once while evaluating, for each process.
        workers: Processes that read features and tokenise, at most one for each core; 0 does it in
            the main process.
        evaluate_every: Epochs between two evaluations; the end is always evaluated. An epoch is a
            pass over the examples of every task.
        checkpoint_every_steps: Steps between two checkpoints; `None` saves after evaluations only.
        log_every_steps: Steps that one line of `metrics.jsonl` averages over.
        precision: Of the arithmetic; weights that train are always float32.
        device: `auto` takes CUDA where there is one.
        seed: Of initial weights, order, sampled answers and dropout.
        tensorboard: Also write event files for TensorBoard.
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
    device: DeviceName = "auto"
    seed: int = Field(default=0, ge=0, lt=2**32)
    tensorboard: bool = False

    @model_validator(mode="after")
    def _one_length(self) -> "TrainingSection":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(
                f"epochs is {self.epochs} and steps is {self.steps}; expected exactly one of them "
                "to be set, the other null"
            )
        return self


class GenerationSection(_Section):
    """How answers are generated.

    Args:
        beams: 1 is greedy search; the task's own unless said otherwise.
        max_length: Most tokens of an answer, end-of-sequence included; the task's own unless said
            otherwise. More than the task's own also lets longer answers train.
        constrain_to_answers: Generate nothing that is not on the task's answer list (see
            `data.answer_list`). Captions stay free.
    """

    beams: Mapping[str, Beams]
    max_length: Mapping[str, Length]
    constrain_to_answers: bool = False


class Recipe(_Section):
    """Everything that determines a run.

    Args:
        task: A file of `tasks`, or several with commas between.
        data: Annotations.
        features: Feature files of all images.
        backbone: The frozen language model.
        visual: How image features become tokens.
        method: The transfer method.
        head: `classify` over an answer list, or `generate`; the task's first unless said otherwise.
            One value for several tasks is meant for those that have such a head.
        optimizer: AdamW and its schedule.
        training: Length, batches, device.
        generation: Search settings.
    """

    task: str
    data: DataSection
    features: tuple[File, ...] = Field(min_length=1)
    backbone: BackboneSection
    visual: VisualSection = VisualSection()
    method: MethodSection
    head: Mapping[str, Head]
    optimizer: OptimizerSection
    training: TrainingSection
    generation: GenerationSection

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that train."""
        return tuple(self.task.split(","))
