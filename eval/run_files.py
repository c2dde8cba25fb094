"""The files of a run that the leaderboard reads: record, model card, per-example scores.

Training writes these files, and the leaderboard reads them, through the same classes. Unknown
fields are errors, since a program that rewrites a file would lose them. The leaderboard only reads
and calls `read_leniently`, which ignores fields that later versions add.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eval.files import MAX_RUN_FILE_BYTES, read_json
from eval.recipe_fields import get_field

__all__ = [
    "METRICS_FILE",
    "MODEL_FILE",
    "RECIPE_FILE",
    "RECORD_FILE",
    "ZERO_SHOT",
    "ExampleScores",
    "Forgetting",
    "GitState",
    "Inference",
    "Memory",
    "ModelCard",
    "Parameters",
    "RunRecord",
    "Status",
    "TaskCard",
    "first_problem",
    "read_run_file",
]

RECORD_FILE = "record.json"
MODEL_FILE = "model.json"
RECIPE_FILE = "recipe.yaml"
METRICS_FILE = "metrics.jsonl"
# Method of a run that evaluates a backbone as it is, without training.
ZERO_SHOT = "zero-shot"

Status = Literal["success", "failed", "cancelled"]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Amount = Annotated[float, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def read_leniently(cls, content: object) -> Self:
        """Validate content that may have fields of later versions, without converting types.

        Raises:
            ValidationError: A known field is missing or invalid.
        """
        return cls.model_validate(content, strict=True, extra="ignore")


class GitState(_Part):
    """The git checkout that the code ran from when a training session started.

    Args:
        commit: Commit hash.
        dirty: Whether tracked files had changed, or modules had been added, without a commit.
        diff_sha256: SHA-256 of those changes and modules; `None` if there were none.
        changed_during_run: Whether any of the above was different when the session ended.
    """

    commit: str
    dirty: bool
    diff_sha256: str | None = None
    changed_during_run: bool = False


class Parameters(_Part):
    """Parameter counts of a model.

    Args:
        trainable: Number of trainable parameters.
        total: Number of all parameters, backbone included; shared ones count once.
        percent_of_total: 100 * trainable / total.
    """

    trainable: Count
    total: Count
    percent_of_total: Annotated[float, Field(ge=0, le=100)]


class Memory(_Part):
    """Memory used by training, in bytes; what is unknown is `None`.

    Args:
        parameters: All parameters and buffers, backbone included; shared storages count once.
        gradients: Gradients of the trainable parameters.
        optimizer_state: Moments of the optimizer; `None` before the first step.
        saved_for_backward: Memory saved for the backward pass, by part and in `total`, without
            parameters. Measured on the first batch, over all processes; with several tasks, on the
            task that needs the most.
        peak_allocated: Peak CUDA allocation during training steps, model included, after two
            warm-up steps; with several processes, on the first one's device.
        peak_reserved: Peak CUDA memory reserved over the same steps.
    """

    parameters: Count | None = None
    gradients: Count | None = None
    optimizer_state: Count | None = None
    saved_for_backward: dict[str, Count] | None = None
    peak_allocated: Count | None = None
    peak_reserved: Count | None = None


class Inference(_Part):
    """What answering the examples of a task cost.

    Args:
        split: Split whose examples were answered.
        examples: Number of examples that were timed.
        seconds_per_example: Seconds per answer, data loading included and scoring not, without the
            first batch if there are several; with several processes, those of the first one.
        peak_bytes: Bytes of all parameters and buffers plus the peak of what answering allocated;
            `None` if the device does not report it.
        batch_size: Examples per batch.
        num_processes: Number of processes that shared the examples.
        device: Device type and name.
    """

    split: str
    examples: Annotated[int, Field(ge=1, lt=2**63)]
    seconds_per_example: Amount
    peak_bytes: Count | None = None
    batch_size: Annotated[int, Field(ge=1, lt=2**63)]
    num_processes: Annotated[int, Field(ge=1, lt=2**31)] = 1
    device: str


class Forgetting(_Part):
    """How much worse a trained backbone predicts text like that of its pretraining.

    Args:
        objective: Pretraining objective of the backbone.
        text_sha256: SHA-256 of the text file.
        seed: Seed of what is hidden of the text.
        tokens: Number of tokens that were predicted.
        loss_before: Loss of the backbone before training, in nats per token.
        loss_after: Loss of the backbone in the best checkpoint, with the method's modules.
        is_by_construction: Whether training cannot have changed the backbone, which was verified
            by its weights, so that its loss was not computed again.
    """

    objective: str
    text_sha256: str
    seed: Count
    tokens: Annotated[int, Field(ge=1, lt=2**63)]
    loss_before: Amount
    loss_after: Amount
    is_by_construction: bool

    @property
    def increase(self) -> float:
        """By how much the loss has increased, in nats per token."""
        return self.loss_after - self.loss_before


class RunRecord(_Part):
    """Settings and results of a run; what is unknown is `None`.

    Args:
        schema_version: Version of this schema.
        status: How the last training session ended.
        error: Error message of a failed session.
        method: Name of the transfer method.
        tasks: Names of the trained tasks.
        protocol: Official scoring rules, by task.
        scores: Metrics of the best checkpoint, by task and split.
        mean_score: Mean of the tasks' primary validation metrics at the best checkpoint, each in
            percent (NLVR2 accuracy and caption CIDEr times 100).
        best_step: Training step of the best checkpoint.
        best_step_of_task: Training step of each task's own best checkpoint.
        answer_coverage: Percentage of training examples whose answer list has one of their best
            answers, by task; tasks without an answer list are absent.
        steps: Number of optimizer steps done.
        total_steps: Number of optimizer steps of the whole schedule.
        parameters: Parameter counts; `None` if the model was never built.
        memory_bytes: Memory used by training.
        recomputes: Whether blocks ran again in the backward pass at the end of training; `None` if
            they cannot, and in records of older versions, in which the recipe tells.
        examples_per_second: Training speed, data loading included.
        train_seconds: Time spent in training steps.
        checkpoint_bytes: Size of the tensors that a checkpoint stores of the model, which is all
            that is kept per run besides the backbone.
        inference: What answering cost in the last validation, by task.
        forgetting: What the backbone has forgotten of its pretraining; `None` if not measured.
        seed: Seed of the recipe.
        feature_spec_sha256: Digest of how the features were extracted.
        states_sha256: Digest of the file of backbone states that the run was trained on; `None` if
            the backbone computed them.
        states_dtype: Type of the numbers in that file.
        backbone: Name of the backbone.
        backbone_fingerprint: SHA-256 of the backbone's weights.
        backbone_fingerprint_bf16: That of the weights rounded to bf16, so the same for every
            precision; `None` in records of older versions.
        num_processes: Number of processes that share each batch; `None` in records of older
            versions.
        git: Git checkout of the last session; `None` if the package is installed without one.
        earlier_git: Other checkouts of earlier sessions, in order.
        environment: Environment variables that change numerical precision, if set.
        packages: Package versions.
        python: Python version.
        device: Device type and name.
        recipe: Resolved recipe.
    """

    schema_version: Literal[1]
    status: Status
    error: str | None = None
    method: str
    tasks: Annotated[list[str], Field(min_length=1)]
    protocol: dict[str, str | None]
    scores: dict[str, dict[str, dict[str, Any]]]
    mean_score: float | None = None
    best_step: Count | None = None
    best_step_of_task: dict[str, Count] = {}
    answer_coverage: dict[str, float] = {}
    steps: Count | None = None
    total_steps: Count | None = None
    parameters: Parameters | None = None
    memory_bytes: Memory | None = None
    recomputes: bool | None = None
    examples_per_second: Amount | None = None
    train_seconds: Amount | None = None
    checkpoint_bytes: Count | None = None
    inference: dict[str, Inference] = {}
    forgetting: Forgetting | None = None
    seed: Count
    feature_spec_sha256: str | None = None
    states_sha256: str | None = None
    states_dtype: str | None = None
    backbone: str
    backbone_fingerprint: str | None = None
    backbone_fingerprint_bf16: str | None = None
    num_processes: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    git: GitState | None = None
    earlier_git: list[GitState] = []
    environment: dict[str, str] = {}
    packages: dict[str, str | None] = {}
    python: str | None = None
    device: str | None = None
    recipe: dict[str, Any]

    def validation_split(self, task: str) -> str | None:
        """Return the split that chose the best checkpoint of a task, if the recipe names one."""
        split = get_field(self.recipe, ("data", "validation_split", task))
        return split if isinstance(split, str) else None


class TaskCard(_Part):
    """Data of one task that a model was built from.

    Args:
        train_examples: Number of training examples; `None` if nothing was trained.
        train_examples_sha256: Digest of their ids, and of the texts and answers of tasks without
            images; `None` if nothing was trained.
        validation_examples_sha256: The same of the validation examples.
        answers: Answer list of the task; `None` if it may generate any answer.
    """

    train_examples: int | None
    train_examples_sha256: str | None
    validation_examples_sha256: str | None = None
    answers: list[str] | None


class ModelCard(_Part):
    """What a model was built from besides its recipe.

    Args:
        schema_version: Version of this schema.
        backbone_fingerprint: SHA-256 of the frozen weights.
        backbone_fingerprint_bf16: See `RunRecord`.
        feature_spec: Spec of the features that it reads; `None` if it reads the text alone.
        tasks: Trained tasks, by name.
        states_sha256: Digest of the file of backbone states that it is trained on; `None` if the
            backbone computes them.
        states_dtype: Type of the numbers in that file.
    """

    schema_version: Literal[2] = 2
    backbone_fingerprint: str
    feature_spec: dict[str, Any] | None
    tasks: dict[str, TaskCard]
    states_sha256: str | None = None
    states_dtype: str | None = None
    backbone_fingerprint_bf16: str | None = None

    @property
    def answers(self) -> dict[str, list[str] | None]:
        """Answer list of each task; `None` for a task that may generate any answer."""
        return {name: card.answers for name, card in self.tasks.items()}


class ExampleScores(_Part):
    """Per-example scores of a predictions file.

    Args:
        schema_version: Version of this schema.
        predictions_sha256: SHA-256 of the predictions file.
        metric: Name of the task's primary metric.
        scores: Scores on the official scale, by example id.
        value: The primary metric; `None` in files of older versions.
        averaged: What the primary metric is the mean of, by example id, if that is not `scores`;
            see `tasks.Score`.
        clusters: Name of the cluster of each example, by example id; `None` in files of older
            versions. Examples of one cluster, such as questions about one image, are not
            independent.
    """

    schema_version: Literal[1] = 1
    predictions_sha256: str
    metric: str
    scores: dict[str, float]
    value: float | None = None
    averaged: dict[str, float] | None = None
    clusters: dict[str, str] | None = None


def read_run_file(path: Path, *, expected: str) -> Any:
    """Read the JSON of a run's file.

    Args:
        path: The file.
        expected: What it should hold, for messages ("the record of a run").

    Raises:
        InputError: There is no such file, or it cannot be read.
        FileFormatError: It is not JSON, or too large.
    """
    return read_json(path, expected=expected, max_bytes=MAX_RUN_FILE_BYTES)


def first_problem(error: ValidationError) -> str:
    """Return the field and the message of the first problem, such as `seed: Field required`."""
    first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(map(str, first["loc"]))
    return f"{field}: {first['msg']}" if field else first["msg"]
