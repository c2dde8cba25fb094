"""The training loop: steps, evaluations, checkpoints, and nothing that depends on the method."""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from eval.run_files import GitState
from vl_lst.backbones.backbone import IGNORED
from vl_lst.data.batches import MixedBatches, load_in_order
from vl_lst.data.order import Portion, Schedule, StepOrder
from vl_lst.data.task_data import TaskData
from vl_lst.devices import arithmetic
from vl_lst.errors import TrainingError
from vl_lst.generation.answering import Answerer
from vl_lst.models.batch import Batch
from vl_lst.progress import ProgressReport
from vl_lst.recipes import Recipe
from vl_lst.recipes.building import BuiltModel
from vl_lst.runs.checkpoint import (
    MODEL,
    TRAINING_STATE,
    Checkpoint,
    find_checkpoint,
    load_checkpoint,
    load_parameters,
    save_checkpoint,
)
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.metrics import MetricsLog
from vl_lst.runs.predictions import write_example_scores
from vl_lst.runs.state import (
    Best,
    Counters,
    optimizer_tensors,
    random_state,
    restore_optimizer,
    restore_random_state,
)
from vl_lst.training.optimizer import build_optimizer, learning_rate
from vl_lst.training.processes import agreed, distribute
from vl_lst.training.resources import (
    PeakMemory,
    Stopwatch,
    memory_in_use,
    saved_for_backward,
)
from vl_lst.training.validation import Validated, Validator, mean_percent, percent

__all__ = ["Trainer"]

log = logging.getLogger(__name__)

OPTIMIZER_PREFIX = "optimizer."
RANDOM_PREFIX = "random."


@dataclass(frozen=True, slots=True)
class _Step:
    """A step whose loss may still be on its way from the device."""

    number: int
    task: str
    example_ids: tuple[str, ...]
    loss: Tensor
    gradient_norm: Tensor


class Trainer:
    """Trains a model from where its run directory stands to the end.

    Args:
        recipe: Settings.
        data: What it learns from, by task; the mean of their metrics chooses the best checkpoint.
        built: The model; only `built.trainable` changes.
        directory: Where checkpoints and metrics go.
        accelerator: The processes that train together.
        report: Told after each step how far training is.
        checkout: Of the code.
        on_best: Called in the first process when there is a new best checkpoint.
    """

    def __init__(
        self,
        *,
        recipe: Recipe,
        data: Mapping[str, TaskData],
        built: BuiltModel,
        directory: RunDirectory,
        accelerator: Accelerator,
        report: ProgressReport,
        checkout: GitState | None,
        on_best: Callable[[], None],
    ) -> None:
        self._recipe = recipe
        self._data = data
        self._built = built
        self._directory = directory
        self._accelerator = accelerator
        self._report = report
        self._on_best = on_best
        self._device: torch.device = accelerator.device
        self._model = distribute(accelerator, built.model)
        self._optimizer = build_optimizer(built.model, built.trainable, recipe.optimizer)
        answers = {name: each.examples.answers for name, each in data.items()}
        answerer = Answerer(built, recipe, answers, self._device)
        self._validator = Validator(recipe, data, answerer, accelerator)
        self._pending: _Step | None = None
        self._shown_loss: float | None = None
        self.schedule = Schedule(
            portions={
                name: Portion(len(each.rows), recipe.training.batch_size[name])
                for name, each in data.items()
            },
            epochs=recipe.training.epochs,
            steps=recipe.training.steps,
        )
        self.peak_memory = PeakMemory(self._device)
        with agreed(accelerator):
            self.counters = self._restore()
        self.first_step = self.counters.step
        if checkout is not None and checkout not in self.counters.checkouts[-1:]:
            self.counters.checkouts.append(checkout)
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
        with agreed(self._accelerator):
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
            {name: each.rows for name, each in self._data.items()},
            self.schedule,
            seed=self._recipe.training.seed,
            start=self.counters.step,
            process=self._accelerator.process_index,
            processes=self._accelerator.num_processes,
        )
        return load_in_order(
            MixedBatches({name: each.train for name, each in self._data.items()}),
            order,
            workers=self._recipe.training.workers,
            pin_memory=self._device.type == "cuda",
        )

    def _step(self, batch: Batch) -> None:
        counters, settings = self.counters, self._recipe.optimizer
        average = self._data[batch.task].examples.task.loss_average
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(counters.step, self.schedule.total_steps, settings)
        with arithmetic(self._recipe.training.precision, self._device):
            if batch.task not in counters.saved_for_backward:
                saved = saved_for_backward(self._built.model, batch, average)
                # Of the whole batch, whatever the number of processes that share it.
                counters.saved_for_backward[batch.task] = _total(gather_object([saved]))
            loss = self._model(batch, average)
        if average == "tokens":
            loss = loss * self._share_of_tokens(batch)
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
        self._pending = _Step(
            counters.step, batch.task, batch.example_ids, mean_loss, gradient_norm
        )
        self.peak_memory.step()
        self.stopwatch.add(len(batch) * self._accelerator.num_processes)
        self._show()

    def _share_of_tokens(self, batch: Batch) -> Tensor | float:
        """What makes a mean over processes one over tokens, of which each has its own number."""
        if self._accelerator.num_processes == 1 or batch.labels_BL is None:
            return 1.0
        tokens = (batch.labels_BL != IGNORED).sum().float()
        mean: Tensor = self._accelerator.reduce(tokens, "mean")
        return tokens / mean

    def _settle(self) -> float | None:
        """Take account of the last step, now that its loss is needed; return its gradient norm."""
        step, self._pending = self._pending, None
        if step is None:
            return None
        loss, norm = float(step.loss), float(step.gradient_norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient is {norm}"
            raise TrainingError(
                f"{what} at step {step.number}, on the examples {', '.join(step.example_ids)} "
                f"of {step.task}. "
                "Look at their features and answers; if they are sound, lower optimizer.lr or "
                "optimizer.clip_norm, and go on from the last checkpoint in a new run."
            )
        losses, steps = self.counters.window_losses, self.counters.window_steps
        losses[step.task] = losses.get(step.task, 0.0) + loss
        steps[step.task] = steps.get(step.task, 0) + 1
        return norm

    def _show(self) -> None:
        done, total = self.counters.step, self.schedule.total_steps
        steps = sum(self.counters.window_steps.values())
        if steps:
            self._shown_loss = sum(self.counters.window_losses.values()) / steps
        loss = "" if self._shown_loss is None else f"loss {self._shown_loss:.4f}, "
        speed = f"{self.stopwatch.examples_per_second:,.0f} examples/s"
        memory = f"{memory_in_use(self._device) / 2**30:.2f} GiB"
        self._report(done, total, f"{loss}{speed}, {memory}")

    def _log(self, metrics: MetricsLog) -> None:
        norm, counters = self._settle(), self.counters
        losses, steps = counters.window_losses, counters.window_steps
        values: dict[str, object] = {
            "epoch": self.schedule.epoch_of(counters.step - 1),
            "loss": sum(losses.values()) / sum(steps.values()),
            "lr": self._optimizer.param_groups[0]["lr"],
            "gradient_norm": norm,
        }
        if len(self._data) > 1:
            # In the recipe's order, which unlike that of their turns an interruption cannot change.
            values |= {f"loss_{n}": losses[n] / steps[n] for n in self._data if n in losses}
        speed = {"examples_per_second": self.stopwatch.examples_per_second}
        metrics.write(counters.step, values, speed)
        counters.window_losses, counters.window_steps = {}, {}

    def _evaluate(self, metrics: MetricsLog) -> None:
        self._settle()
        step, total = self.counters.step, self.schedule.total_steps
        validated = self._validator.validate(lambda note: self._report(step, total, note))
        with agreed(self._accelerator):
            if self._accelerator.is_main_process:
                self._judge(validated, metrics)
        self.stopwatch.skip()
        self.peak_memory.skip()

    def _judge(self, validated: Mapping[str, Validated], metrics: MetricsLog) -> None:
        counters, data = self.counters, self._data
        for name, found in validated.items():
            split = self._recipe.data.validation_split[name]
            values = found.score.metrics
            numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
            metrics.write(counters.step, {"task": name, "split": split, **numbers})
            task = data[name].examples.task
            log.info(
                "step %d: %s %s %s %.4g",
                counters.step,
                name,
                split,
                task.primary_metric,
                values[task.primary_metric],
            )
            latest = Best(score=percent(task, found.score), step=counters.step)
            if len(validated) > 1 and _better(latest, counters.best_of_task.get(name)):
                counters.best_of_task[name] = latest
                self._save_best(f"best-{name}", {name: found})
        latest = Best(score=mean_percent(data, validated), step=counters.step)
        if len(validated) > 1:
            metrics.write(counters.step, {"mean_percent": latest.score})
        if _better(latest, counters.best):
            counters.best = latest
            counters.best_metrics = {
                name: dict(found.score.metrics) for name, found in validated.items()
            }
            counters.protocols = {name: each.score.protocol for name, each in validated.items()}
            self._save_best("best", validated)
            self._save_predictions(validated)
            self._on_best()

    def _save_best(self, name: str, validated: Mapping[str, Validated]) -> None:
        metrics = {task: dict(found.score.metrics) for task, found in validated.items()}
        state = {"step": self.counters.step, "metrics": metrics}
        save_checkpoint(
            self._directory.checkpoint(name), Checkpoint({MODEL: self._built.trainable}, state)
        )

    def _save_predictions(self, validated: Mapping[str, Validated]) -> None:
        for name, found in validated.items():
            task = self._data[name].examples.task
            path = self._directory.predictions_file(task, self._recipe.data.validation_split[name])
            path.parent.mkdir(exist_ok=True)
            task.write_predictions(found.predictions, path)
            write_example_scores(path, task, found.score)

    def _save(self, metrics: MetricsLog) -> None:
        self._settle()
        accelerator, counters = self._accelerator, self.counters
        states = gather_object([random_state(self._device)])
        with agreed(accelerator):
            if accelerator.is_main_process:
                counters.metrics_bytes = metrics.sync()
                counters.seconds = self.stopwatch.seconds
                counters.examples = self.stopwatch.examples
                counters.processes = accelerator.num_processes
                self._save_last(states)
        self.stopwatch.skip()

    def _save_last(self, states: Sequence[Sequence[Tensor]]) -> None:
        moments = optimizer_tensors(self._optimizer, self._built.trainable)
        training_state = {OPTIMIZER_PREFIX + name: value for name, value in moments.items()}
        for process, generators in enumerate(states):
            for place, state in enumerate(generators):
                training_state[f"{RANDOM_PREFIX}{process}.{place}"] = state
        save_checkpoint(
            self._directory.last,
            Checkpoint(
                {MODEL: self._built.trainable, TRAINING_STATE: training_state},
                self.counters.model_dump(mode="json"),
            ),
        )

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


def _better(latest: Best, best: Best | None) -> bool:
    return best is None or latest.score > best.score


def _total(measured: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for parts in measured:
        total.update(parts)
    return dict(total)
