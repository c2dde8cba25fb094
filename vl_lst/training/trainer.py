"""The training loop: steps, evaluations, checkpoints, and nothing that depends on the method."""

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from tasks import Task
from vl_lst.errors import TrainingError
from vl_lst.models.batch import Batch
from vl_lst.progress import ProgressReport
from vl_lst.recipes import Recipe
from vl_lst.training.answering import Answerer
from vl_lst.training.batches import Batches, load_in_order
from vl_lst.training.build import BuiltModel, arithmetic
from vl_lst.training.checkpoint import (
    MODEL,
    TRAINING_STATE,
    Checkpoint,
    find_checkpoint,
    load_checkpoint,
    load_parameters,
    save_checkpoint,
)
from vl_lst.training.metrics import MetricsLog
from vl_lst.training.optimizer import build_optimizer, learning_rate
from vl_lst.training.order import Schedule, StepOrder, in_turn
from vl_lst.training.resources import (
    PeakMemory,
    Stopwatch,
    memory_in_use,
    saved_for_backward,
    time_left,
)
from vl_lst.training.run_directory import RunDirectory
from vl_lst.training.state import (
    Counters,
    optimizer_tensors,
    random_state,
    restore_optimizer,
    restore_random_state,
)

__all__ = ["Trainer", "TrainingData"]

log = logging.getLogger(__name__)

OPTIMIZER_PREFIX = "optimizer."
RANDOM_PREFIX = "random."


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a run learns from.

    Args:
        train: Makes training batches.
        rows: Rows of the training table that take part.
        validation: Makes batches to predict.
        validation_examples: How many there are.
        answers: The list a classifier chooses from; `None` when generating.
    """

    train: Batches
    rows: list[int]
    validation: Batches
    validation_examples: int
    answers: list[str] | None


@dataclass(frozen=True, slots=True)
class _Step:
    """A step whose loss may still be on its way from the device."""

    number: int
    example_ids: tuple[str, ...]
    loss: Tensor
    gradient_norm: Tensor


class Trainer:
    """Trains a model from where its run directory stands to the end.

    Args:
        recipe: Settings.
        task: Whose metric chooses the best checkpoint.
        data: What it learns from.
        built: The model; only `built.trainable` changes.
        directory: Where checkpoints and metrics go.
        accelerator: The processes that train together.
        report: Told after each step how far training is.
    """

    def __init__(
        self,
        *,
        recipe: Recipe,
        task: Task,
        data: TrainingData,
        built: BuiltModel,
        directory: RunDirectory,
        accelerator: Accelerator,
        report: ProgressReport,
    ) -> None:
        self._recipe = recipe
        self._task = task
        self._data = data
        self._built = built
        self._directory = directory
        self._accelerator = accelerator
        self._report = report
        self._device: torch.device = accelerator.device
        self._model = accelerator.prepare_model(built.model)
        self._optimizer = build_optimizer(built.model, built.trainable, recipe.optimizer)
        self._answerer = Answerer(built, recipe, data.answers, self._device)
        self._pending: _Step | None = None
        self.schedule = Schedule(
            examples=len(data.rows),
            batch_size=recipe.training.batch_size,
            epochs=recipe.training.epochs,
            steps=recipe.training.steps,
        )
        self.peak_memory = PeakMemory(self._device)
        self.counters = self._restore()
        self.stopwatch = Stopwatch(self.counters.seconds, self.counters.examples)

    def optimizer_bytes(self) -> int:
        """Size of the optimiser's state, as far as it exists."""
        tensors = optimizer_tensors(self._optimizer, self._built.trainable).values()
        return sum(tensor.nbytes for tensor in tensors)

    def train(self) -> None:
        """Train to the end of the schedule.

        Raises:
            TrainingError: A loss or a gradient is not finite.
            CheckpointError: A checkpoint cannot be written.
        """
        training, total = self._recipe.training, self.schedule.total_steps
        metrics = MetricsLog(
            self._directory.metrics_file if self._accelerator.is_main_process else None,
            keep_bytes=self.counters.metrics_bytes,
            tensorboard=self._directory.tensorboard if training.tensorboard else None,
        )
        self._model.train()
        self.stopwatch.skip()
        try:
            for batch in self._training_batches():
                self._step(batch.to(self._device))
                done = self.counters.step
                last = done == total
                if last or done % training.log_every_steps == 0:
                    self._log(metrics)
                epochs, rest = divmod(done, self.schedule.steps_per_epoch)
                if last or (rest == 0 and epochs % training.evaluate_every == 0):
                    self._evaluate(metrics)
                    self._save(metrics)
                elif training.checkpoint_every_steps and (
                    done % training.checkpoint_every_steps == 0
                ):
                    self._save(metrics)
        finally:
            metrics.close()

    def _training_batches(self) -> Iterable[Batch]:
        order = StepOrder(
            self._data.rows,
            self.schedule,
            seed=self._recipe.training.seed,
            start=self.counters.step,
            process=self._accelerator.process_index,
            processes=self._accelerator.num_processes,
        )
        return self._load(self._data.train, order)

    def _load(self, batches: Batches, order: Iterable[list[tuple[int, int]]]) -> Iterable[Batch]:
        return load_in_order(
            batches,
            order,
            workers=self._recipe.training.workers,
            pin_memory=self._device.type == "cuda",
        )

    def _step(self, batch: Batch) -> None:
        counters, settings = self.counters, self._recipe.optimizer
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(counters.step, self.schedule.total_steps, settings)
        with arithmetic(self._recipe.training.precision, self._device):
            if counters.saved_for_backward is None:
                counters.saved_for_backward = saved_for_backward(
                    self._built.model, batch, self._task.loss_average
                )
            loss = self._model(batch, self._task.loss_average)
        self._accelerator.backward(loss)
        gradient_norm = torch.nn.utils.clip_grad_norm_(
            self._built.trainable.values(), settings.clip_norm or math.inf
        )
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        counters.step += 1
        mean_loss = self._accelerator.reduce(loss.detach(), "mean")
        # Looked at when the next step is under way, so that a GPU need not wait for it.
        self._settle()
        self._pending = _Step(counters.step, batch.example_ids, mean_loss, gradient_norm)
        self.peak_memory.step()
        self.stopwatch.add(len(batch) * self._accelerator.num_processes)
        self._show()

    def _settle(self) -> float | None:
        """Take account of the last step, now that its loss is needed; return its gradient norm."""
        step, self._pending = self._pending, None
        if step is None:
            return None
        loss, norm = float(step.loss), float(step.gradient_norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient is {norm}"
            raise TrainingError(
                f"{what} at step {step.number}, on the examples {', '.join(step.example_ids)}. "
                "Look at their features and answers; if they are sound, lower optimizer.lr or "
                "optimizer.clip_norm, and go on from the last checkpoint in a new run."
            )
        self.counters.window_loss += loss
        self.counters.window_steps += 1
        return norm

    def _show(self) -> None:
        done, total = self.counters.step, self.schedule.total_steps
        speed = self.stopwatch.examples_per_second
        left = (total - done) * self._recipe.training.batch_size / speed
        loss = self.counters.window_loss / max(1, self.counters.window_steps)
        self._report(
            done,
            total,
            f"loss {loss:.4f}, {speed:,.0f} examples/s, "
            f"{memory_in_use(self._device) / 2**30:.2f} GiB, {time_left(left)}",
        )

    def _log(self, metrics: MetricsLog) -> None:
        norm, counters = self._settle(), self.counters
        loss = counters.window_loss / counters.window_steps
        values = {
            "epoch": self.schedule.epoch_of(counters.step - 1),
            "loss": loss,
            "lr": self._optimizer.param_groups[0]["lr"],
            "gradient_norm": norm,
        }
        speed = {"examples_per_second": self.stopwatch.examples_per_second}
        metrics.write(counters.step, values, speed)
        counters.window_loss, counters.window_steps = 0.0, 0

    def _evaluate(self, metrics: MetricsLog) -> None:
        self._settle()
        accelerator, counters = self._accelerator, self.counters
        split, examples = self._recipe.data.validation_split, self._data.validation_examples
        order = in_turn(
            examples,
            self._recipe.training.evaluation_batch_size,
            process=accelerator.process_index,
            processes=accelerator.num_processes,
        )
        answers = self._answerer.answer_all(
            self._load(self._data.validation, order),
            lambda done: self._report(
                counters.step,
                self.schedule.total_steps,
                f"evaluating {split}: {done * accelerator.num_processes:,}/{examples:,}",
            ),
        )
        gathered = dict(gather_object(list(answers.items())))
        if accelerator.is_main_process:
            self._judge(gathered, metrics)
        accelerator.wait_for_everyone()
        self.stopwatch.skip()
        self.peak_memory.skip()

    def _judge(self, answers: dict[str, str], metrics: MetricsLog) -> None:
        counters, split = self.counters, self._recipe.data.validation_split
        scores = self._task.score(answers, self._recipe.data.root, split)
        score = scores.metrics[self._task.primary_metric]
        if not isinstance(score, int | float):
            raise TrainingError(
                f"{self._task.name} cannot be scored on {split}: {self._task.primary_metric} is "
                f"{score!r}; choose a data.validation_split with labels"
            )
        numbers = {k: v for k, v in scores.metrics.items() if isinstance(v, int | float)}
        metrics.write(counters.step, {"split": split, **numbers})
        log.info("step %d: %s %s %.2f", counters.step, split, self._task.primary_metric, score)
        if counters.best_score is None or score > counters.best_score:
            counters.best_score, counters.best_step = float(score), counters.step
            counters.best_metrics, counters.protocol = dict(scores.metrics), scores.protocol
            state = {"step": counters.step, "metrics": counters.best_metrics}
            save_checkpoint(self._directory.best, Checkpoint({MODEL: self._built.trainable}, state))

    def _save(self, metrics: MetricsLog) -> None:
        self._settle()
        accelerator, counters = self._accelerator, self.counters
        states = gather_object([random_state(self._device)])
        if accelerator.is_main_process:
            counters.metrics_bytes = metrics.sync()
            counters.seconds = self.stopwatch.seconds
            counters.examples = self.stopwatch.examples
            counters.processes = accelerator.num_processes
            moments = optimizer_tensors(self._optimizer, self._built.trainable)
            training_state = {OPTIMIZER_PREFIX + name: value for name, value in moments.items()}
            for process, generators in enumerate(states):
                for place, state in enumerate(generators):
                    training_state[f"{RANDOM_PREFIX}{process}.{place}"] = state
            save_checkpoint(
                self._directory.last,
                Checkpoint(
                    {MODEL: self._built.trainable, TRAINING_STATE: training_state},
                    counters.model_dump(mode="json"),
                ),
            )
        accelerator.wait_for_everyone()
        self.stopwatch.skip()

    def _restore(self) -> Counters:
        accelerator, folder = self._accelerator, self._directory.last
        if find_checkpoint(folder) is None:
            # Each process drops other units, on every start the same.
            torch.manual_seed(self._recipe.training.seed + accelerator.process_index)
            return Counters()
        checkpoint = load_checkpoint(folder, MODEL, TRAINING_STATE)
        counters = Counters.from_manifest(checkpoint.state, processes=accelerator.num_processes)
        load_parameters(self._built.trainable, checkpoint.tensors[MODEL], source=folder)
        saved = checkpoint.tensors[TRAINING_STATE]
        restore_optimizer(
            self._optimizer,
            self._built.trainable,
            {
                name.removeprefix(OPTIMIZER_PREFIX): value
                for name, value in saved.items()
                if name.startswith(OPTIMIZER_PREFIX)
            },
        )
        mine = f"{RANDOM_PREFIX}{accelerator.process_index}."
        names = sorted(name for name in saved if name.startswith(mine))
        restore_random_state([saved[name] for name in names], self._device)
        log.info("continuing at step %d of %d", counters.step, self.schedule.total_steps)
        return counters
