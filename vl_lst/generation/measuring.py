"""What answering examples costs: seconds per example and memory."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from eval.run_files import Inference
from vl_lst.devices import device_name
from vl_lst.generation.answering import Answerer
from vl_lst.models.batch import Batch
from vl_lst.recipes import Recipe
from vl_lst.recipes.building import BuiltModel

__all__ = ["MeasuredAnswers", "answer_measured"]


@dataclass(frozen=True, slots=True)
class MeasuredAnswers:
    """Answers to a split, and what they cost.

    Args:
        answers: Answers by example id.
        num_timed: Number of examples that were timed: all but the first batch, if there are more.
        seconds: Seconds that these took, data loading included.
        peak_bytes: See `Inference`.
    """

    answers: dict[str, str]
    num_timed: int
    seconds: float
    peak_bytes: int | None

    def describe(
        self, recipe: Recipe, split: str, device: torch.device, *, num_processes: int = 1
    ) -> Inference | None:
        """Return the costs for the record of a run; `None` without examples.

        Args:
            recipe: Recipe of the run.
            split: Split of the examples.
            device: Device of the model.
            num_processes: Number of processes that shared the examples.
        """
        if not self.num_timed:
            return None
        return Inference(
            split=split,
            examples=self.num_timed,
            seconds_per_example=self.seconds / self.num_timed,
            peak_bytes=self.peak_bytes,
            batch_size=recipe.training.evaluation_batch_size,
            num_processes=num_processes,
            device=device_name(device),
        )


def answer_measured(
    answerer: Answerer,
    built: BuiltModel,
    batches: Iterable[Batch],
    device: torch.device,
    on_batch: Callable[[int], None],
) -> MeasuredAnswers:
    """Answer batches, and measure what that costs.

    Peak memory is that of the model and of what answering allocates on CUDA; what else lies there,
    such as the state of an optimizer, does not count.

    Args:
        answerer: Answerer of the model.
        built: The model.
        batches: Examples.
        device: Device of the model.
        on_batch: Called after each batch with the number of examples answered so far.
    """
    is_cuda = device.type == "cuda"
    before = 0
    if is_cuda:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    moments = [(0, time.perf_counter())]

    def note(done: int) -> None:
        # Answers are text, so the device has computed them.
        moments.append((done, time.perf_counter()))
        on_batch(done)

    answers = answerer.answer_all(batches, note)
    # The first batch pays for caches, such as those of weights that are cast.
    (first, started), (last, ended) = moments[1 if len(moments) > 2 else 0], moments[-1]
    peak = None
    if is_cuda:
        peak = built.parameter_bytes() + torch.cuda.max_memory_allocated(device) - before
    return MeasuredAnswers(answers, last - first, ended - started, peak)
