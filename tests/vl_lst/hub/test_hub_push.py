"""`vl-lst push`: what is uploaded, again and after interruptions, and what never is."""

import json
from pathlib import Path

import pytest
import yaml
from loopback_hub import LoopbackHub, running_hub
from tiny_run import TinyWorld

from eval.errors import InputError
from vl_lst.cli import main
from vl_lst.errors import CheckpointError
from vl_lst.hub.push import push_run

BACKBONE = "someone/tiny-backbone"
NEEDED = {
    "README.md",
    "recipe.yaml",
    "model.json",
    "record.json",
    "checkpoints/best/manifest.json",
    "checkpoints/best/model.safetensors",
}


def test_it_uploads_what_is_needed_and_nothing_of_the_machine(
    world: TinyWorld, run: Path, model_hub: LoopbackHub, tmp_path: Path
) -> None:
    report = tmp_path / "push.json"
    command = ["push", str(run), "someone/run", "--backbone", BACKBONE, "--json", str(report)]
    assert main(command) == 0
    files = model_hub.files("someone/run")
    assert files.keys() == NEEDED | {"training_curve.png", ".gitattributes"}
    assert json.loads(report.read_text())["files"].keys() == files.keys() - {".gitattributes"}
    for name, content in files.items():
        for private in (str(world.root.parent), str(tmp_path), str(Path.home()), "alice"):
            assert private.encode() not in content, f"{name} holds {private}"
    weights = (run / "checkpoints" / "best" / "model.safetensors").read_bytes()
    assert files["checkpoints/best/model.safetensors"] == weights
    recipe = yaml.safe_load(files["recipe.yaml"])
    assert recipe["features"] == ["features-1.h5", "features-2.h5"]
    assert recipe["data"]["root"] == "data"
    assert json.loads(files["record.json"])["recipe"] == recipe
    assert files["training_curve.png"].startswith(b"\x89PNG")


def test_pushing_again_changes_only_what_differs(run: Path, model_hub: LoopbackHub) -> None:
    first = push_run(run, "someone/run", backbone=BACKBONE)
    again = push_run(run, "someone/run", backbone=BACKBONE)
    assert (first.is_changed, again.is_changed) == (True, False)
    assert again.commit == first.commit
    before = model_hub.files("someone/run")
    model_hub.add("someone/run", {**before, "notes.txt": b"mine", ".eval_results/vqa.yaml": b"[]"})
    uploads = model_hub.count("PUT", "large-files")
    third = push_run(run, "someone/run", backbone=BACKBONE, license_id="mit")
    assert third.is_changed
    after = model_hub.files("someone/run")
    assert {name for name in after if after[name] != before.get(name)} == {"README.md", "notes.txt"}
    assert ".eval_results/vqa.yaml" not in after, "scores that the run does not have"
    assert model_hub.count("PUT", "large-files") == uploads


def test_an_interrupted_push_continues(run: Path, model_hub: LoopbackHub) -> None:
    model_hub.drop_next("POST", "/commit/main")
    with pytest.raises(InputError, match=r"connection to .* failed .* it continues"):
        push_run(run, "someone/run", backbone=BACKBONE)
    assert "recipe.yaml" not in model_hub.files("someone/run"), "nobody sees a part of a run"
    uploads = model_hub.count("PUT", "large-files")
    assert uploads == 2
    push_run(run, "someone/run", backbone=BACKBONE)
    assert model_hub.files("someone/run").keys() >= NEEDED
    assert model_hub.count("PUT", "large-files") == uploads, "uploaded files are not sent again"


def test_private_repositories_stay_private(run: Path, model_hub: LoopbackHub) -> None:
    push_run(run, "someone/secret", backbone=BACKBONE, private=True)
    push_run(run, "someone/secret", backbone=BACKBONE)
    assert model_hub.repositories["models", "someone/secret"].private
    model_hub.add("someone/public", {"a": b"1"})
    with pytest.raises(InputError, match=r"already exists and is public, so nothing was uploaded"):
        push_run(run, "someone/public", backbone=BACKBONE, private=True)
    assert model_hub.files("someone/public") == {"a": b"1"}


def test_a_branch_is_created(run: Path, model_hub: LoopbackHub) -> None:
    push_run(run, "someone/run", backbone=BACKBONE, revision="seed-1")
    assert "recipe.yaml" in model_hub.files("someone/run", revision="seed-1")
    assert "recipe.yaml" not in model_hub.files("someone/run")


def test_what_cannot_be_pushed(run: Path, model_hub: LoopbackHub, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"local folder .*--backbone t5-base"):
        push_run(run, "someone/run")
    with pytest.raises(InputError, match=r"write access to other"):
        push_run(run, "other/run", backbone=BACKBONE)
    with pytest.raises(InputError, match="expected OWNER/NAME"):
        push_run(run, "run", backbone=BACKBONE)
    with pytest.raises(InputError, match="as --revision"):
        push_run(run, "someone/run@main", backbone=BACKBONE)
    with pytest.raises(InputError, match="license 'MIT\\\\n'"):
        push_run(run, "someone/run", backbone=BACKBONE, license_id="MIT\n")
    with pytest.raises(CheckpointError, match="holds no run"):
        push_run(tmp_path / "nothing", "someone/run")
    weights = run / "checkpoints" / "best" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="not complete"):
        push_run(run, "someone/run", backbone=BACKBONE)
    assert ("models", "someone/run") not in model_hub.repositories


def test_a_token_is_required(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running_hub(tmp_path, token=None) as hub:
        assert main(["push", str(run), "someone/run", "--backbone", BACKBONE]) == 1
        assert "found no token" in capsys.readouterr().err
        assert not hub.requests
