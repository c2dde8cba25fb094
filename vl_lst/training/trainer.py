"""The training loop: steps, evaluations and checkpoints, the same for every method."""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from eval.run_files import GitState
from vl_lst.backbones.backbone import IGNORED
from vl_lst.data.batches import MixedBatches, load_in_order
from vl_lst.data.order import Portion, Schedule, StepOrder
from vl_lst.data.task_data import TaskData
from vl_lst.devices import autocast
from vl_lst.errors import Preempted
from vl_lst.generation.answering import Answerer
from vl_lst.models.batch import Batch
from vl_lst.progress import ProgressReport
from vl_lst.recipes import Recipe
from vl_lst.recipes.building import BuiltModel
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.metrics import MetricsLog
from vl_lst.runs.state import Counters, random_state, restore_random_state
from vl_lst.runs.trackers import Trackers
from vl_lst.training.best_checkpoint import BestCheckpoints
from vl_lst.training.compilation import compile_blocks, uncompiled
from vl_lst.training.distributed import distribute
from vl_lst.training.failures import fail_together
from vl_lst.training.last_checkpoint import load_last_checkpoint, save_last_checkpoint
from vl_lst.training.loss_window import LossWindow, StepResult
from vl_lst.training.optimizer import build_optimizer, learning_rate, optimizer_bytes
from vl_lst.training.preemption import StopRequest
from vl_lst.training.recompute_policy import RecomputePolicy
from vl_lst.training.resources import PeakMemory, Stopwatch, memory_in_use
from vl_lst.training.saved_bytes import saved_bytes_by_part
from vl_lst.training.validation import Validator

__all__ = ["Trainer"]

log = logging.getLogger(__name__)


class Trainer:
    """Trains a model from its last checkpoint, if any, to the end of its schedule.

    Args:
        recipe: Settings of the run.
        data: Data of each task, by name. The mean of the tasks' primary metrics chooses the best
            checkpoint.
        built: The model; only `built.trainable` changes.
        directory: Run directory for checkpoints and metrics.
        accelerator: The processes that train together.
        report: Progress callback, called after each step.
        checkout: State of the code in this session; `None` outside a git checkout.
        on_best: Function that the first process calls after a new best checkpoint.
        stop: Request to stop with a checkpoint.

    Raises:
        CheckpointError: The last checkpoint does not fit.
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
        stop: StopRequest,
    ) -> None:
        self._recipe = recipe
        self._data = data
        self._built = built
        self._directory = directory
        self._accelerator = accelerator
        self._report = report
        self._stop = stop
        self._device: torch.device = accelerator.device
        if recipe.training.compile:
            compile_blocks(built.model)
        self._model = distribute(accelerator, built.model)
        self._optimizer = build_optimizer(built.model, built.trainable, recipe.optimizer)
        answers = {name: each.examples.answers for name, each in data.items()}
        answerer = Answerer(built, recipe, answers, self._device)
        self._validator = Validator(recipe, built, data, answerer, accelerator, stop)
        self.schedule = Schedule(
            portions={
                name: Portion(len(each.rows), recipe.training.batch_size[name])
                for name, each in data.items()
            },
            epochs=recipe.training.epochs,
            steps=recipe.training.steps,
        )
        self.peak_memory = PeakMemory(self._device)
        with fail_together(accelerator):
            self.counters = self._restore()
        self.first_step = self.counters.step
        if checkout is not None and checkout not in self.counters.checkouts[-1:]:
            self.counters.checkouts.append(checkout)
        self.stopwatch = Stopwatch(self.counters.seconds, self.counters.examples)
        self._losses = LossWindow(self.counters)
        self._recompute_policy = RecomputePolicy(
            recipe,
            built,
            accelerator.num_processes,
            {name: each.examples.task.loss_average for name, each in data.items()},
        )
        self._best = BestCheckpoints(
            recipe=recipe,
            data=data,
            built=built,
            directory=directory,
            counters=self.counters,
            on_best=on_best,
        )

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        counters = self.counters
        return counters.step >= self.schedule.total_steps and not counters.validation_due

    def optimizer_bytes(self) -> int:
        """Return the size of the optimizer's state; 0 before the first step."""
        return optimizer_bytes(self._optimizer)

    def train(self) -> None:
        """Train to the end of the schedule.

        After each step, in this order and if due: log, evaluate, save the last checkpoint.

        Raises:
            Preempted: A signal has asked to stop; the last checkpoint holds the steps so far.
            TrainingError: A loss or gradient is not finite.
            CheckpointError: A checkpoint cannot be written.
        """
        training, total = self._recipe.training, self.schedule.total_steps
        with fail_together(self._accelerator):
            metrics = MetricsLog(
                self._directory.metrics_file if self._accelerator.is_main_process else None,
                keep_bytes=self.counters.metrics_bytes,
                trackers=Trackers(
                    training.trackers,
                    self._directory.trackers_file,
                    self._recipe.model_dump(mode="json"),
                ),
            )
        self._model.train()
        self.stopwatch.skip()
        try:
            self._stop.raise_if_agreed()
            if self.counters.validation_due:
                self._evaluate_and_save(metrics)
            for batch in self._training_batches():
                self._train_step(batch.to(self._device))
                step = self.counters.step
                is_last = step == total
                if is_last or step % training.log_every_steps == 0:
                    self._log(metrics)
                epochs, rest = divmod(step, self.schedule.steps_per_epoch)
                self.counters.validation_due = is_last or (
                    rest == 0 and epochs % training.evaluate_every == 0
                )
                self._evaluate_and_save(metrics)
        finally:
            metrics.close()

    def _evaluate_and_save(self, metrics: MetricsLog) -> None:
        """Validate and save the last checkpoint, if due.

        Raises:
            Preempted: A signal has asked to stop. The checkpoint tells whether validation is due.
        """
        counters, every = self.counters, self._recipe.training.checkpoint_every_steps
        is_due = counters.validation_due or (every and counters.step % every == 0)
        try:
            self._stop.raise_if_agreed()
            if counters.validation_due:
                self._evaluate(metrics)
        except Preempted:
            self._save(metrics)
            log.info(
                "saved a checkpoint at step %d of %d", counters.step, self.schedule.total_steps
            )
            raise
        if is_due:
            self._save(metrics)

    def _train_step(self, batch: Batch) -> None:
        """Run one step: learning rate, forward, backward, clipping, update, statistics."""
        counters, accelerator = self.counters, self._accelerator
        settings, trainable = self._recipe.optimizer, self._built.trainable
        loss_average = self._data[batch.task].examples.task.loss_average
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(counters.step, self.schedule.total_steps, settings)
        loss = self._backward(batch, loss_average)
        gradient_norm = torch.nn.utils.clip_grad_norm_(
            trainable.values(), settings.clip_norm or math.inf
        )
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        counters.step += 1
        result = StepResult(
            step=counters.step,
            task=batch.task,
            example_ids=batch.example_ids,
            loss=accelerator.reduce(loss.detach(), "mean"),
            gradient_norm=gradient_norm,
        )
        self._losses.add(result)
        self.peak_memory.step()
        self.stopwatch.add(len(batch) * accelerator.num_processes)
        self._report_step()

    def _backward(self, batch: Batch, loss_average: str) -> Tensor:
        """Add the gradients of a batch, and return its loss.

        Blocks are recomputed in the backward pass from the first batch on that does not fit the
        memory otherwise, if the recipe leaves that to the device.
        """
        self._recompute_policy.prepare(batch)
        self._note_recomputation()
        if not self._recompute_policy.may_fall_back:
            return self._backward_once(batch, loss_average)
        random = random_state(self._device)
        try:
            return self._backward_once(batch, loss_average)
        except torch.OutOfMemoryError:
            pass
        # Not in the exception's block, in which it would hold the tensors of the failed attempt.
        self._optimizer.zero_grad(set_to_none=True)
        restore_random_state(random, self._device)
        self._recompute_policy.fall_back()
        self._note_recomputation()
        self.peak_memory.skip()
        return self._backward_once(batch, loss_average)

    def _backward_once(self, batch: Batch, loss_average: str) -> Tensor:
        saved = self.counters.saved_for_backward
        with autocast(self._recipe.training.precision, self._device):
            if batch.task not in saved:
                saved[batch.task] = self._saved_bytes(batch, loss_average)
            loss: Tensor = self._model(batch, loss_average)
        if loss_average == "tokens":
            loss = loss * self._token_weight(batch)
        self._accelerator.backward(loss)
        return loss

    def _note_recomputation(self) -> None:
        """Let the saved bytes be those of how blocks compute the backward pass now.

        Several processes, which count them together, keep those of the first batch.
        """
        counters, is_on = self.counters, self._recompute_policy.is_on
        if counters.recomputes not in (None, is_on) and self._accelerator.num_processes == 1:
            counters.saved_for_backward.clear()
        counters.recomputes = is_on

    def _restore(self) -> Counters:
        counters = load_last_checkpoint(
            self._directory, self._built, self._optimizer, self._accelerator
        )
        if counters is None:
            # Processes draw different dropout masks, the same ones in every run.
            torch.manual_seed(self._recipe.training.seed + self._accelerator.process_index)
            return Counters()
        log.info("continuing at step %d of %d", counters.step, self.schedule.total_steps)
        return counters

    def _training_batches(self) -> Iterable[Batch]:
        order = StepOrder(
            {name: each.rows for name, each in self._data.items()},
            self.schedule,
            seed=self._recipe.training.seed,
            start=self.counters.step,
            rank=self._accelerator.process_index,
            num_processes=self._accelerator.num_processes,
        )
        return load_in_order(
            MixedBatches({name: each.train for name, each in self._data.items()}),
            order,
            workers=self._recipe.training.workers,
            pin_memory=self._device.type == "cuda",
        )

    def _saved_bytes(self, batch: Batch, loss_average: str) -> dict[str, int]:
        """Return the bytes saved for the backward pass of the whole batch, in all processes."""
        total: Counter[str] = Counter()
        # Not of compiled blocks, in which parts of the model cannot be told apart.
        with uncompiled() if self._recipe.training.compile else nullcontext():
            own = saved_bytes_by_part(self._built.model, batch, loss_average)
        for saved in gather_object([own]):
            total.update(saved)
        return dict(total)

    def _token_weight(self, batch: Batch) -> Tensor | float:
        """Return the factor that turns the mean of the processes' losses into a mean over tokens.

        Processes have different numbers of tokens.
        """
        if self._accelerator.num_processes == 1 or batch.labels_BL is None:
            return 1.0
        tokens = (batch.labels_BL != IGNORED).sum().float()
        mean: Tensor = self._accelerator.reduce(tokens, "mean")
        return tokens / mean

    def _report_step(self) -> None:
        loss = "" if self._losses.mean is None else f"loss {self._losses.mean:.4f}, "
        speed = f"{self.stopwatch.examples_per_second:,.0f} examples/s"
        memory = f"{memory_in_use(self._device) / 2**30:.2f} GiB"
        self._report(self.counters.step, self.schedule.total_steps, f"{loss}{speed}, {memory}")

    def _log(self, metrics: MetricsLog) -> None:
        step = self.counters.step
        mean, mean_by_task = self._losses.close()
        values: dict[str, object] = {
            "epoch": self.schedule.epoch_of(step - 1),
            "loss": mean,
            "lr": self._optimizer.param_groups[0]["lr"],
            "gradient_norm": self._losses.gradient_norm,
        }
        if len(self._data) > 1:
            # In the recipe's order, which an interruption cannot change.
            values |= {f"loss_{n}": mean_by_task[n] for n in self._data if n in mean_by_task}
        costs = {
            "examples_per_second": self.stopwatch.examples_per_second,
            "memory_bytes": memory_in_use(self._device),
        }
        metrics.write(step, values, costs)

    def _evaluate(self, metrics: MetricsLog) -> None:
        self._losses.read_pending()
        step, total = self.counters.step, self.schedule.total_steps
        results = self._validator.validate(lambda note: self._report(step, total, note))
        self.counters.validation_due = False
        with fail_together(self._accelerator):
            if self._accelerator.is_main_process:
                self._best.update(results, metrics)
        self.stopwatch.skip()
        self.peak_memory.skip()

    def _save(self, metrics: MetricsLog) -> None:
        self._losses.read_pending()
        accelerator, counters = self._accelerator, self.counters
        random_states = gather_object([random_state(self._device)])
        with fail_together(accelerator):
            if accelerator.is_main_process:
                counters.metrics_bytes = metrics.sync()
                counters.seconds = self.stopwatch.seconds
                counters.examples = self.stopwatch.examples
                counters.processes = accelerator.num_processes
                save_last_checkpoint(
                    self._directory, self._built, self._optimizer, counters, random_states
                )
        self.stopwatch.skip()
