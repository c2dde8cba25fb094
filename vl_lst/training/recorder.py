"""The record of a run, written however a training session ends."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from accelerate import Accelerator

from eval.errors import InputError
from eval.run_files import GitState, ModelCard, RunRecord, Status
from vl_lst.errors import CheckpointError, Preempted
from vl_lst.recipes import Recipe
from vl_lst.recipes.building import BuiltModel
from vl_lst.runs.checkpoint import find_checkpoint
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.git import git_state
from vl_lst.runs.record import read_record, update_record
from vl_lst.training.description import describe_run
from vl_lst.training.trainer import Trainer

__all__ = ["RunRecorder"]

log = logging.getLogger(__name__)

# The error in the record of a run that is training, or whose process was killed.
UNFINISHED = "training has not ended, or its process was killed"


@dataclass(slots=True)
class RunRecorder:
    """Writes the record of a run.

    A session that fails before its first step leaves the record of earlier sessions unchanged.

    Args:
        recipe: Settings of the run.
        directory: Run directory.
        accelerator: The processes; only the first one writes.
        checkout: State of the code when the program started. Default: its state now.
        card: Model card of the run. The session sets this and the following attributes as soon as
            they are known.
        built: The model.
        trainer: The trainer.
        answer_coverage: Percentage of training answers on each task's answer list.
    """

    recipe: Recipe
    directory: RunDirectory
    accelerator: Accelerator
    checkout: GitState | None
    card: ModelCard | None = None
    built: BuiltModel | None = None
    trainer: Trainer | None = None
    answer_coverage: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.checkout = self.checkout or git_state()

    def read_earlier(self) -> RunRecord | None:
        """Return the record of an earlier session; `None` without one that can be read."""
        try:
            return read_record(self.directory)
        except (CheckpointError, InputError):
            return None

    @contextmanager
    def recording_failures(self) -> Iterator[None]:
        """Record the error that ends the block, if any."""
        try:
            yield
        except KeyboardInterrupt:
            self._record_failure("cancelled", "interrupted")
            raise
        except Preempted as stopped:
            self._record_failure("cancelled", str(stopped))
            raise
        except BaseException as error:
            self._record_failure("failed", str(error) or type(error).__name__)
            raise

    def record_progress(self) -> None:
        """Record a new best checkpoint, so that `evaluate` can add scores to the record."""
        update_record(self.directory, self._describe("cancelled", UNFINISHED))

    def record_success(self) -> RunRecord:
        """Record the end of the schedule.

        Returns:
            The record as written; in processes other than the first, as they would write it.
        """
        log.info("success", extra={"only_in_file": True})
        self._note_changed_code()
        record = self._describe("success")
        if not self.accelerator.is_main_process:
            return record
        earlier = self.read_earlier()
        if earlier is not None and earlier.status == "success" and not self._has_trained():
            return earlier
        return update_record(self.directory, record)

    def _record_failure(self, status: Status, error: str) -> None:
        # The command line prints the error itself.
        log.info("%s: %s", status, error, extra={"only_in_file": True})
        if not self.accelerator.is_main_process:
            return
        if self._has_earlier_results() and not self._has_trained():
            return
        self._note_changed_code()
        try:
            update_record(self.directory, self._describe(status, error))
        except OSError as failure:
            log.warning("the record could not be written: %s", failure)

    def _describe(self, status: Status, error: str | None = None) -> RunRecord:
        return describe_run(
            self.recipe,
            status,
            git=self.checkout,
            num_processes=self.accelerator.num_processes,
            error=error,
            card=self.card,
            built=self.built,
            trainer=self.trainer,
            answer_coverage=self.answer_coverage,
        )

    def _has_earlier_results(self) -> bool:
        """Return whether an earlier session has trained, even if its record cannot be read."""
        if find_checkpoint(self.directory.last) is not None:
            return True
        earlier = self.read_earlier()
        return earlier is not None and bool(earlier.steps)

    def _has_trained(self) -> bool:
        return self.trainer is not None and self.trainer.counters.step > self.trainer.first_step

    def _note_changed_code(self) -> None:
        if self.checkout is not None and git_state() != self.checkout:
            self.checkout = self.checkout.model_copy(update={"changed_during_run": True})
