"""`load_run`, `evaluate` and `predict` with a run on the Hub."""

import json
import os
from pathlib import Path

import pytest
from huggingface_hub import constants
from loopback_hub import LoopbackHub, running_hub
from loopback_hub_server import CHUNK
from tiny_run import TinyWorld

from eval.errors import InputError
from vl_lst.cli import main
from vl_lst.errors import CheckpointError
from vl_lst.hub.push import push_run
from vl_lst.run import load_run

BACKBONE = "someone/tiny-backbone"


@pytest.fixture
def pushed(
    run: Path, model_hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The commit of a run on the Hub; the working directory holds nothing of it."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("VL_LST_CACHE", str(tmp_path / "cache"))
    commit = push_run(run, "someone/run", backbone=BACKBONE).commit
    model_hub.requests.clear()
    return commit


def test_a_run_of_the_hub_evaluates_and_predicts_as_the_local_one(
    world: TinyWorld,
    run: Path,
    pushed: str,
    model_hub: LoopbackHub,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--data-root", str(world.root), "--features", str(world.validation_features)]
    for given in (str(run), "someone/run"):
        report = Path(f"{given.count('/')}.json")
        arguments = ["evaluate", given, "--split", "val2014", *options, "--json", str(report)]
        assert main(arguments) == 0
    local, remote = (json.loads(path.read_text()) for path in sorted(Path().glob("*.json"))[::-1])
    assert (remote.pop("repository"), remote.pop("commit")) == ("someone/run", pushed)
    assert remote == local
    printed = capsys.readouterr()
    assert f"someone/run: commit {pushed}" in printed.err
    [line] = [line for line in printed.out.splitlines() if "someone--run" in line]
    predictions = Path(line.removeprefix("predictions: "))
    assert predictions.is_file()
    assert not predictions.is_relative_to(constants.HF_HUB_CACHE), "the cache stays as it is"
    source = json.loads((predictions.parents[1] / "hub.json").read_text())
    assert source == {"repository": "someone/run", "commit": pushed}
    assert not any("README" in line or ".png" in line for line in model_hub.requests)
    asked = ["--image", str(world.image("red")), "--question", "is it red?"]
    asked += ["--encoder-weights", str(world.encoder), "--json", "answer.json"]
    assert main(["predict", f"someone/run@{pushed}", *asked]) == 0
    answer = json.loads(Path("answer.json").read_text())
    assert (answer["run"], answer["commit"]) == (f"someone/run@{pushed}", pushed)


def test_a_revision_selects_the_commit(run: Path, pushed: str) -> None:
    later = push_run(run, "someone/run", backbone=BACKBONE, license_id="mit").commit
    assert load_run("someone/run", revision=pushed).pulled.commit == pushed
    assert load_run("someone/run").pulled.commit == later
    with pytest.raises(InputError, match="has no revision 'gone'"):
        load_run("someone/run@gone")
    with pytest.raises(InputError, match="already names a revision"):
        load_run("someone/run@main", revision="main")


def test_a_local_folder_comes_first(run: Path, pushed: str) -> None:
    os.makedirs("someone")
    with pytest.raises(CheckpointError, match=r"does not exist.*write hf://someone/run"):
        load_run("someone/run")
    os.symlink(run, "someone/run")
    assert load_run("someone/run").pulled is None
    assert load_run("hf://someone/run").pulled.commit == pushed
    with pytest.raises(InputError, match="only runs on the Hub have revisions"):
        load_run("someone/run", revision="main")


def test_without_a_connection_the_cache_is_used(
    pushed: str, model_hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_run("someone/run")
    requests = len(model_hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_run("someone/run").pulled.commit == pushed
    assert len(model_hub.requests) == requests
    with pytest.raises(InputError, match="offline mode is on"):
        load_run("someone/another")


def test_a_dropped_connection_resumes(pushed: str, model_hub: LoopbackHub) -> None:
    model_hub.drop_next("GET", "large-files", after_bytes=20_000)
    load_run("someone/run")
    assert model_hub.ranges == [f"bytes={CHUNK}-"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "is not a run of vl-lst: found no files, expected recipe.yaml"),
        ({"config.json": b"{}", "model.safetensors": b"1"}, "found config.json, model.safetensors"),
        ({"recipe.yaml": b"", "pytorch_model.bin": b"1"}, "pickles alone.*not downloaded"),
        ({"recipe.yaml": b"a", "model.json": b"{}"}, "lacks checkpoints/best/manifest.json"),
    ],
)
def test_repositories_that_hold_no_run(
    hub: LoopbackHub,
    files: dict[str, bytes],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    hub.add("someone/thing", files)
    with pytest.raises(CheckpointError, match=expected):
        load_run("someone/thing")
    assert not any(line.endswith(".bin") for line in hub.requests)


def test_a_checkpoint_that_was_not_uploaded(pushed: str) -> None:
    with pytest.raises(CheckpointError, match=r"lacks checkpoints/last/.* checkpoints are: best"):
        load_run("someone/run", checkpoint="last")


def test_weights_that_were_changed_are_refused(pushed: str, model_hub: LoopbackHub) -> None:
    files = dict(model_hub.files("someone/run"))
    name = "checkpoints/best/model.safetensors"
    files[name] = files[name][:-4] + b"\0\0\0\1"
    model_hub.add("someone/run", files)
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        load_run("someone/run")


def test_a_private_run_requires_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with running_hub(tmp_path, token=None) as hub:
        hub.add("someone/secret", {"recipe.yaml": b""}, private=True)
        assert main(["evaluate", "someone/secret", "--split", "val2014"]) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "someone/secret (no folder here, so from the Hub): the Hub has no public" in line
