"""A run that is killed and resumed ends with the same bits as an uninterrupted one."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from killed_training import main as train_until
from tiny_run import TinyWorld

from vl_lst.errors import CheckpointError, RecipeError
from vl_lst.recipes import dump_recipe
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.metrics import MetricsLog
from vl_lst.training.session import train

# The event at which each session is killed; an uninterrupted run has about 95 events (see
# `killed_training`).
KILLS = [
    ("classify", (3,)),
    ("classify", (11, 9)),
    ("classify", (25, 1, 14)),
    ("classify", (38, 21)),
    ("classify", (77, 9)),
    ("classify", (85,)),
    ("generate", (19, 30)),
    ("generate", (66,)),
]


def same_run(left: Path, right: Path) -> bool:
    names = [
        "metrics.jsonl",
        "checkpoints/last/model.safetensors",
        "checkpoints/last/training_state.safetensors",
        "checkpoints/best/model.safetensors",
        "predictions/vqa-val2014.json",
        "predictions/vqa-val2014.scores.json",
        "model.json",
        "recipe.yaml",
    ]
    return all((left / name).read_bytes() == (right / name).read_bytes() for name in names)


@pytest.fixture(scope="module", params=["classify"])
def uninterrupted(
    request: pytest.FixtureRequest, world: TinyWorld, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A recipe with dropout, checkpoints within epochs, and lines that average across them."""
    folder = tmp_path_factory.mktemp(request.param)
    recipe = world.recipe(
        head=request.param,
        training__epochs=3,
        training__checkpoint_every_steps=4,
        training__log_every_steps=3,
        method__options__dropout=0.2,
    )
    dump_recipe(recipe, folder / "recipe.yaml")
    train(recipe, folder / "run")
    return folder / "recipe.yaml", folder / "run"


@pytest.fixture(scope="module")
def processes() -> Iterator[ForkServerContext]:
    """Fork from a process that has loaded the libraries and runs no threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killed_training"])
    with pytest.MonkeyPatch.context() as patch:
        # The fork server finds modules to preload only there.
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        yield context


@pytest.mark.slow
@pytest.mark.parametrize(("uninterrupted", "kills"), KILLS, ids=str, indirect=["uninterrupted"])
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(
    uninterrupted: tuple[Path, Path],
    kills: tuple[int, ...],
    processes: ForkServerContext,
    tmp_path: Path,
) -> None:
    recipe, expected = uninterrupted
    out = tmp_path / "run"
    for event in (*kills, 0):
        process = processes.Process(target=train_until, args=(recipe, out, event))
        process.start()
        process.join()
        assert process.exitcode == (-signal.SIGKILL if event else 0)
    assert same_run(expected, out)


def test_resuming_a_finished_run_keeps_its_weights(uninterrupted: tuple[Path, Path]) -> None:
    _, out = uninterrupted
    before = {p: p.read_bytes() for p in out.rglob("*.safetensors")}
    record = train(RunDirectory(out).recipe(), out, resume=True)
    assert record.status == "success"
    assert record.steps == record.total_steps
    assert {p: p.read_bytes() for p in out.rglob("*.safetensors")} == before


def test_a_run_is_not_overwritten_without_resume(uninterrupted: tuple[Path, Path]) -> None:
    _, out = uninterrupted
    with pytest.raises(CheckpointError, match="--resume"):
        train(RunDirectory(out).recipe(), out)


def test_a_folder_with_other_files_is_not_written_to(world: TinyWorld, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("...")
    for resume in (False, True):
        with pytest.raises(CheckpointError, match="not empty"):
            train(world.recipe(), tmp_path, resume=resume)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_cannot_be_resumed_with_another_recipe(
    uninterrupted: tuple[Path, Path], world: TinyWorld
) -> None:
    _, out = uninterrupted
    recipe = RunDirectory(out).recipe()
    changed = recipe.model_copy(
        update={"optimizer": recipe.optimizer.model_copy(update={"lr": 0.5})}
    )
    with pytest.raises(RecipeError, match=r"optimizer.lr: 0.01 in the run, 0.5 given"):
        train(changed, out, resume=True)


def test_truncated_metrics_are_refused(world: TinyWorld, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(world.recipe(training__epochs=None, training__steps=2), out)
    (out / "metrics.jsonl").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"metrics.jsonl has 0 bytes"):
        train(RunDirectory(out).recipe(), out, resume=True)


def test_a_checkpoint_before_the_next_line_has_the_size_of_the_kept_lines(tmp_path: Path) -> None:
    """A killed run leaves lines after its checkpoint, which the resumed one removes."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"kept\nlost\n")
    metrics = MetricsLog(path, keep_bytes=5)
    assert metrics.sync() == 5
    metrics.write(1, {"loss": 0.5})
    assert metrics.sync() == path.stat().st_size
    metrics.close()
    assert path.read_bytes() == b'kept\n{"step": 1, "loss": 0.5}\n'
