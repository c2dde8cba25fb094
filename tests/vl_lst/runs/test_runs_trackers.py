"""Experiment trackers, offline: each value arrives once, and their failures stop no training."""

import json
import logging
import sqlite3
import struct
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tiny_run import TinyWorld

from vl_lst.errors import TrainingError
from vl_lst.recipes import Recipe
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.record import read_record
from vl_lst.runs.trackers import Trackers, require_trackers
from vl_lst.training.session import train

Values = list[tuple[int, str, float]]
# Not among the development tools, since it holds Pillow back.
HAS_TRACKIO = find_spec("trackio") is not None
# Not part of metrics.jsonl.
COSTS = {"examples_per_second", "memory_bytes"}


def in_tensorboard(out: Path) -> Values:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    return [
        (event.step, name, event.value)
        for name in events.Tags()["scalars"]
        for event in events.Scalars(name)
    ]


def records_in(content: bytes) -> Iterator[bytes]:
    """Yield the records of a log in the format of LevelDB, after a header of seven bytes."""
    block, header = 32_768, 7
    position, record = header, b""
    while position + header < len(content):
        left = block - position % block
        if left < header:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        position += header
        record += content[position : position + length]
        position += length
        # Whole, or last part.
        if kind in (1, 4):
            yield record
            record = b""


def in_wandb(out: Path) -> tuple[Values, dict[str, Any], set[str]]:
    """Return the values, the configuration, and the run IDs of all sessions."""
    from wandb.proto import wandb_internal_pb2

    values: Values = []
    config: dict[str, Any] = {}
    identities = set()
    for path in sorted((out / "wandb").glob("offline-run-*/run-*.wandb")):
        for data in records_in(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "run":
                identities.add(record.run.run_id)
                updates = record.run.config.update
            elif record.WhichOneof("record_type") == "config":
                updates = record.config.update
            else:
                updates = []
                row = {
                    item.key or item.nested_key[0]: item.value_json for item in record.history.item
                }
                values += [
                    (int(row["_step"]), name, float(value))
                    for name, value in row.items()
                    if not name.startswith("_")
                ]
            config |= {item.key or item.nested_key[0]: item.value_json for item in updates}
    return values, config, identities


def in_trackio(folder: Path) -> tuple[Values, set[str]]:
    with sqlite3.connect(folder / "vl-lst.db") as database:
        rows = database.execute("select run_name, step, metrics from metrics").fetchall()
    database.close()
    values = [
        (step, name, value)
        for _, step, metrics in rows
        for name, value in json.loads(metrics).items()
    ]
    return values, {name for name, *_ in rows}


def expected(out: Path) -> set[tuple[int, str, float]]:
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return {
        (line["step"], f"{line['task']}/{name}" if "task" in line else name, value)
        for line in lines
        for name, value in line.items()
        if name not in ("step", "task", "split")
    }


@pytest.fixture(scope="module")
def tracked(world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that was interrupted three steps after its last checkpoint, and Trackio's folder."""
    folder = tmp_path_factory.mktemp("tracked")
    out = folder / "run"
    recipe = world.recipe(
        training__trackers=["tensorboard", "wandb", *(["trackio"] if HAS_TRACKIO else [])],
        training__log_every_steps=1,
        training__checkpoint_every_steps=4,
    )

    def interrupt(done: int, _total: int, _note: str = "") -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("TRACKIO_DIR", str(folder / "trackio"))
        patch.chdir(folder.parent)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, out, report=interrupt)
        patch.chdir(folder)
        train(recipe, out, resume=True)
    return out, folder / "trackio"


def check(values: Values, out: Path) -> None:
    places = [(step, name) for step, name, _ in values]
    assert len(set(places)) == len(places), "no value is sent twice"
    numbers = {(step, name): value for step, name, value in values if name not in COSTS}
    assert numbers == {(s, n): pytest.approx(v, rel=1e-6) for s, n, v in expected(out)}
    assert {name for _, name, _ in values} >= COSTS | {"vqa/accuracy", "loss"}


def test_tensorboard_gets_each_value_once(tracked: tuple[Path, Path]) -> None:
    check(in_tensorboard(tracked[0]), tracked[0])


def test_wandb_gets_each_value_once_in_one_run_with_the_recipe(tracked: tuple[Path, Path]) -> None:
    out, _ = tracked
    values, config, identities = in_wandb(out)
    check(values, out)
    assert identities == {json.loads((out / "trackers.json").read_text())["id"]}
    assert json.loads(config["optimizer.lr"]) == 1e-2
    assert json.loads(config["method.name"]) == "lst"


@pytest.mark.skipif(not HAS_TRACKIO, reason="trackio is not installed")
def test_trackio_gets_each_value_once_in_one_run(tracked: tuple[Path, Path]) -> None:
    values, names = in_trackio(tracked[1])
    check(values, tracked[0])
    assert len(names) == 1
    assert next(iter(names)).startswith(f"{tracked[0].parent.name}/run ")


@pytest.fixture
def recipe(world: TinyWorld) -> Recipe:
    return world.recipe(
        training__trackers=["wandb"], training__epochs=1, training__log_every_steps=1
    )


class Broken:
    """Tracker that fails as one without a connection does.

    Args:
        fails_at: Name of the method that fails.
    """

    name = "wandb"

    def __init__(self, fails_at: str) -> None:
        self._fails_at = fails_at
        self.calls: list[str] = []

    def __call__(self, **_: object) -> "Broken":
        return self

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name == self._fails_at:
            raise ConnectionError("no route to api.wandb.ai\nmore lines")

    def start(self) -> None:
        self._call("start")

    def store_init_configuration(self, values: Mapping[str, object]) -> None:
        self._call("store")

    def log(self, values: Mapping[str, object], step: int) -> None:
        self._call("log")

    def finish(self) -> None:
        self._call("finish")


def install(monkeypatch: pytest.MonkeyPatch, fails_at: str) -> Broken:
    tracker = Broken(fails_at)
    monkeypatch.setitem(
        __import__("accelerate.tracking").tracking.LOGGER_TYPE_TO_CLASS, "wandb", tracker
    )
    return tracker


@pytest.mark.parametrize("fails_at", ["log", "finish"])
def test_a_tracker_that_fails_later_is_one_warning(
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fails_at: str,
) -> None:
    tracker = install(monkeypatch, fails_at)
    with caplog.at_level(logging.WARNING, "vl_lst"):
        assert train(recipe, tmp_path / "run").status == "success"
    messages = [record.getMessage() for record in caplog.records]
    assert [m for m in messages if "wandb failed" in m and "no route to api.wandb.ai." in m]
    assert len(messages) == 1
    assert tracker.calls.count("log") == (1 if fails_at == "log" else 6)


def test_a_tracker_that_cannot_start_is_an_error_in_a_new_run_only(
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A job that a scheduler starts again, perhaps without a connection, continues."""
    out = tmp_path / "run"
    install(monkeypatch, "start")
    with pytest.raises(TrainingError, match=r"wandb cannot start: .*WANDB_MODE=offline"):
        train(recipe, out)
    record = read_record(RunDirectory(out))
    assert record is not None
    assert record.status == "failed"
    install(monkeypatch, "none")

    def interrupt(done: int, _total: int, _note: str = "") -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, out, resume=True, report=interrupt)
    install(monkeypatch, "start")
    with caplog.at_level(logging.WARNING, "vl_lst"):
        assert train(recipe, out, resume=True).status == "success"
    assert "the tracker wandb failed" in caplog.text


def test_a_tracker_that_is_not_installed_is_named_before_training(
    world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "wandb" or None)
    with pytest.raises(TrainingError, match=r"lists trackio, .*pip install 'vl-lst\[trackio\]'"):
        train(world.recipe(training__trackers=["wandb", "trackio"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    require_trackers(["wandb"])


def test_a_damaged_state_starts_a_new_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = install(monkeypatch, "none")
    file = tmp_path / "trackers.json"
    file.write_text('{"id": "../../x", "name": "x", "logged_bytes": 0}')
    Trackers(["wandb"], file, {}).start()
    assert "trackers.json cannot be read" in caplog.text
    assert tracker.calls == ["start", "store"]
