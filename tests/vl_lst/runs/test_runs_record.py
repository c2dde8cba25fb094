"""The record of a run is never lost, and contains code, processes and precision."""

import errno
import json
import shutil
from pathlib import Path

import pytest
from tiny_run import TinyWorld

from eval.errors import InputError
from eval.run_files import Forgetting, GitState, RunRecord
from tasks import Score
from vl_lst.errors import CheckpointError
from vl_lst.progress import ProgressReport
from vl_lst.run import load_run
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.git import git_state
from vl_lst.runs.record import add_forgetting, add_scores, read_record, update_record
from vl_lst.training import recorder
from vl_lst.training.session import train

SCORE = Score(metrics={"accuracy": 2.0}, per_example={}, protocol="vqa_v2 official", examples=1)

FORGETTING = Forgetting(
    objective="span corruption",
    text_sha256="0" * 64,
    seed=0,
    tokens=3,
    loss_before=1.0,
    loss_after=1.5,
    is_by_construction=False,
)


def record_of(out: Path) -> RunRecord:
    record = read_record(RunDirectory(out))
    assert record is not None
    return record


def small_files(out: Path) -> dict[str, bytes]:
    return {
        name: (out / name).read_bytes()
        for name in ("record.json", "recipe.yaml", "model.json", "metrics.jsonl")
    }


def interrupt_at(step: int) -> ProgressReport:
    def report(done: int, _total: int, _note: str = "") -> None:
        if done == step:
            raise KeyboardInterrupt

    return report


def test_a_failed_resume_does_not_change_a_finished_run(
    finished: Path, world: TinyWorld, tmp_path: Path
) -> None:
    before = small_files(finished)
    recipe = world.recipe(data__root=str(tmp_path / "nowhere"))
    with pytest.raises(InputError):
        train(recipe, finished, resume=True)
    assert small_files(finished) == before
    assert "nowhere" in (finished / "log.txt").read_text()


@pytest.mark.parametrize("content", [None, "{", '{"schema_version": 2}'])
def test_a_failed_resume_does_not_change_an_unreadable_record(
    finished: Path, world: TinyWorld, tmp_path: Path, content: str | None
) -> None:
    """A record of a later version, for example."""
    record = finished / "record.json"
    record.unlink()
    if content is not None:
        record.write_text(content)
    with pytest.raises(InputError):
        train(world.recipe(data__root=str(tmp_path / "nowhere")), finished, resume=True)
    assert (record.read_text() if record.exists() else None) == content


def test_an_unreadable_record_is_kept_under_another_name(
    finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = record_of(finished)
    (finished / "record.json").write_text('{"schema_version": 2}')
    train(RunDirectory(finished).recipe(), finished, resume=True)
    assert record_of(finished).scores == before.scores
    assert (finished / "record.unreadable.json").read_text() == '{"schema_version": 2}'
    assert "renamed to record.unreadable.json" in caplog.text


@pytest.mark.parametrize("resume", [False, True])
def test_a_finished_run_without_its_card_is_not_started_again(
    finished: Path, world: TinyWorld, tmp_path: Path, resume: bool
) -> None:
    (finished / "model.json").unlink()
    before = (finished / "recipe.yaml").read_bytes()
    with pytest.raises(InputError if resume else CheckpointError):
        train(world.recipe(data__root=str(tmp_path / "nowhere")), finished, resume=resume)
    assert (finished / "recipe.yaml").read_bytes() == before


def test_a_card_of_other_tasks_is_refused(finished: Path) -> None:
    card = finished / "model.json"
    card.write_text(card.read_text().replace('"vqa": {', '"gqa": {'))
    for call in (
        lambda: train(RunDirectory(finished).recipe(), finished, resume=True),
        lambda: load_run(finished),
    ):
        with pytest.raises(CheckpointError, match="found the tasks gqa, expected vqa"):
            call()


def test_another_number_of_processes_is_refused_and_changes_nothing(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = finished / "checkpoints" / "last" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["state"]["processes"] = 2
    manifest.write_text(json.dumps(content))
    before = small_files(finished)
    with pytest.raises(CheckpointError, match="processes"):
        train(RunDirectory(finished).recipe(), finished, resume=True)
    assert small_files(finished) == before


def test_resuming_a_finished_run_changes_nothing_and_says_so(
    finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_scores(
        RunDirectory(finished), "vqa", "mine", SCORE, best_step=record_of(finished).best_step
    )  # type: ignore[arg-type]
    before = small_files(finished)
    record = train(RunDirectory(finished).recipe(), finished, resume=True)
    assert record.scores["vqa"].keys() == {"val2014", "mine"}
    assert small_files(finished) == before
    assert "the run was finished at step 10" in caplog.text


def test_a_finished_run_without_its_last_checkpoint_is_not_trained_from_scratch(
    finished: Path,
) -> None:
    shutil.rmtree(finished / "checkpoints" / "last")
    before = small_files(finished)
    with pytest.raises(CheckpointError, match="is finished, but .*last.* is missing"):
        train(RunDirectory(finished).recipe(), finished, resume=True)
    assert small_files(finished) == before
    assert load_run(finished)


@pytest.mark.parametrize("is_renamed", [True, False])
def test_resuming_cleans_up_after_a_run_that_was_killed_at_its_end(
    finished: Path, is_renamed: bool
) -> None:
    """Killed between the renames of its last checkpoint, or after them."""
    last = finished / "checkpoints" / "last"
    names = {path.name for path in last.parent.iterdir()}
    shutil.copytree(last, last.with_name(".last.old"))
    if not is_renamed:
        last.rename(last.with_name(".last.new"))
    train(RunDirectory(finished).recipe(), finished, resume=True)
    assert {path.name for path in last.parent.iterdir()} == names


def test_resuming_without_a_checkpoint_says_that_training_starts(
    world: TinyWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(world.recipe(), tmp_path / "run", resume=True)
    assert "has no checkpoint to resume from: training starts from scratch" in caplog.text


def test_scores_added_during_training_stay_if_the_best_checkpoint_does(
    world: TinyWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every new best checkpoint has a record, to which `evaluate` adds."""
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(world.recipe(), out, report=interrupt_at(7))
    add_scores(RunDirectory(out), "vqa", "mine", SCORE, best_step=5)
    record = train(world.recipe(), out, resume=True)
    assert record.best_step == 5, "the first evaluation is the best in this world"
    assert record.scores["vqa"].keys() == {"val2014", "mine"}
    assert record_of(out) == record

    directory = RunDirectory(out)
    update_record(directory, record.model_copy(update={"best_step": 10, "scores": {"vqa": {}}}))
    assert "mine" not in record_of(out).scores["vqa"]
    assert "the scores of vqa mine belong to the checkpoint of step 5" in caplog.text
    add_scores(directory, "vqa", "late", SCORE, best_step=5)
    assert "late" not in record_of(out).scores["vqa"]
    assert "are not added to the record" in caplog.text


def test_costs_that_were_added_stay_if_the_best_checkpoint_does(finished: Path) -> None:
    """Answering costs only those of the split that chose the checkpoint."""
    directory, before = RunDirectory(finished), record_of(finished)
    assert before.best_step is not None
    assert before.checkpoint_bytes
    own = before.inference["vqa"]
    assert (own.split, own.num_processes) == ("val2014", 1)
    slower = own.model_copy(update={"seconds_per_example": 100.0})
    for split in ("val2014", "mine"):
        add_scores(directory, "vqa", split, SCORE, best_step=before.best_step, inference=slower)
        slower = slower.model_copy(update={"seconds_per_example": 1000.0})
    add_forgetting(directory, FORGETTING, best_step=before.best_step)
    added = record_of(finished)
    assert added.inference["vqa"].seconds_per_example == 100.0
    assert (added.forgetting, added.checkpoint_bytes) == (FORGETTING, before.checkpoint_bytes)
    assert update_record(directory, before).forgetting == FORGETTING
    better = before.model_copy(update={"best_step": before.best_step + 1})
    assert update_record(directory, better).forgetting is None, "of another checkpoint"


def test_the_record_of_a_killed_run_does_not_claim_success(
    world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder.RunRecorder, "_record_failure", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        train(world.recipe(), tmp_path / "run", report=interrupt_at(7))
    record = record_of(tmp_path / "run")
    assert (record.status, record.steps) == ("cancelled", 5)
    assert record.scores["vqa"]["val2014"]


def test_the_checkout_at_the_start_is_recorded_and_changes_are_noted(
    world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = GitState(commit="a" * 40, dirty=False)
    states = iter([start, replace_state(start, dirty=True)])
    monkeypatch.setattr(recorder, "git_state", lambda: next(states))
    record = train(world.recipe(), tmp_path / "run")
    assert record.git == replace_state(start, changed_during_run=True)
    assert record.earlier_git == []


def test_sessions_of_different_commits_are_all_recorded(
    world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the first session was killed and wrote no record."""
    first, second = (GitState(commit=letter * 40, dirty=False) for letter in "ab")
    monkeypatch.setattr(recorder, "git_state", lambda: first)
    with pytest.raises(KeyboardInterrupt):
        train(world.recipe(), tmp_path / "run", report=interrupt_at(7))
    (tmp_path / "run" / "record.json").unlink()
    monkeypatch.setattr(recorder, "git_state", lambda: second)
    record = train(world.recipe(), tmp_path / "run", resume=True)
    assert (record.git, record.earlier_git) == (second, [first])


def test_the_checkout_of_a_run_started_by_an_older_version_is_kept(
    world: TinyWorld, tmp_path: Path
) -> None:
    """Its checkpoint does not contain the commit, but its record does."""
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(world.recipe(), out, report=interrupt_at(7))
    manifest = out / "checkpoints" / "last" / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["state"]["checkouts"]
    manifest.write_text(json.dumps(content))
    record = json.loads((out / "record.json").read_text())
    record["git"] = {"commit": "c" * 40, "dirty": False}
    (out / "record.json").write_text(json.dumps(record))
    resumed = train(world.recipe(), out, resume=True)
    assert resumed.earlier_git == [GitState(commit="c" * 40, dirty=False)]


def test_scores_are_returned_even_if_the_record_cannot_be_locked(
    finished: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a file system without locks: the evaluation may have taken hours."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", no_locks)
    before = (finished / "record.json").read_bytes()
    assert load_run(finished).evaluate("train2014").score is not None
    assert (finished / "record.json").read_bytes() == before
    assert "are not added to the record" in caplog.text
    assert "does not support locks" in caplog.text


def replace_state(state: GitState, **changes: object) -> GitState:
    return state.model_copy(update=changes)


def test_variables_of_git_do_not_change_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = git_state()
    monkeypatch.setenv("GIT_DIR", str(tmp_path))
    assert git_state() == before
    (tmp_path / "file.py").write_text("")
    assert git_state(tmp_path / "file.py") is None


def test_a_record_contains_processes_and_precision_variables(
    world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.delenv("ONEDNN_DEFAULT_FPMATH_MODE", raising=False)
    recipe = world.recipe(training__epochs=None, training__steps=1)
    record = train(recipe, tmp_path / "run")
    assert record.num_processes == 1
    assert record.environment == {"NVIDIA_TF32_OVERRIDE": "0"}
    assert "NVIDIA_TF32_OVERRIDE=0" in (tmp_path / "run" / "log.txt").read_text()


def test_records_of_older_versions_are_read(finished: Path) -> None:
    content = json.loads((finished / "record.json").read_text())
    for name in ("num_processes", "earlier_git", "environment"):
        del content[name]
    content["git"] = {"commit": "c" * 40, "dirty": True}
    (finished / "record.json").write_text(json.dumps(content))
    record = record_of(finished)
    assert record.num_processes is None
    assert record.git == GitState(commit="c" * 40, dirty=True)


def test_a_run_trained_on_cuda_says_once_that_it_runs_on_the_cpu(
    finished: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    load_run(finished)
    assert "CUDA" not in caplog.text
    content = json.loads((finished / "record.json").read_text())
    (finished / "record.json").write_text(json.dumps(content | {"device": "cuda: some GPU"}))
    load_run(finished)
    assert caplog.text.count("the run was trained on CUDA") == 1
