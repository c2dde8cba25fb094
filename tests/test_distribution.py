"""The wheel and the source distribution: what they hold, and that the wheel works elsewhere."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

import vl_lst

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("eval", "feature_extraction", "tasks", "vl_lst")
PHOTOGRAPHS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}
OTHER_PYTHONS = ("3.12", "3.13")


@dataclass(frozen=True)
class Distribution:
    """Where the distribution is.

    Args:
        wheel: The wheel.
        source: The source distribution.
        installed: Folder that the wheel is installed into.
    """

    wheel: Path
    source: Path
    installed: Path

    def run(self, *words: str, cwd: Path) -> str:
        """Run `vl-lst` from the installed wheel, in a folder outside the checkout."""
        program = self.installed / "bin" / "vl-lst"
        done = subprocess.run(
            [sys.executable, program, *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd,
            env=os.environ | {"PYTHONPATH": str(self.installed)},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def build(source: Path, out: Path, *targets: str) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(out)]
    for target in targets:
        command += ["-t", target]
    subprocess.run(command, check=True, cwd=source)


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Distribution:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("distribution")
    build(REPOSITORY, folder)
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    installed = folder / "installed"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, "--target", installed, wheel], check=True)
    return Distribution(wheel, source, installed)


def members(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def files_of_packages() -> set[str]:
    """Files of the four packages in the checkout, by relative path."""
    return {
        path.relative_to(REPOSITORY).as_posix()
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_every_file_of_the_packages(distribution: Distribution) -> None:
    found = members(distribution.wheel)
    metadata = {name for name in found if ".dist-info/" in name}
    assert found - metadata == files_of_packages()
    assert {f"{package}/py.typed" for package in PACKAGES} <= found
    for suffix in ("demo/assets/t5/model.safetensors", "recipes/lst.yaml", "recipe.schema.json"):
        assert any(name.endswith(suffix) for name in found)
    assert any(name.endswith("licenses/LICENSE") for name in metadata)


def test_the_source_distribution_makes_the_same_wheel(
    distribution: Distribution, tmp_path: Path
) -> None:
    with tarfile.open(distribution.source) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    assert (folder / "tests" / Path(__file__).name).is_file()
    build(folder, tmp_path, "wheel")
    (wheel,) = tmp_path.glob("*.whl")
    assert members(wheel) == members(distribution.wheel)


def test_the_version_has_one_place(distribution: Distribution, tmp_path: Path) -> None:
    assert distribution.run("--version", cwd=tmp_path) == f"vl-lst {vl_lst.__version__}\n"
    assert f"vl_lst-{vl_lst.__version__}-py3-none-any.whl" == distribution.wheel.name
    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [vl_lst.__version__]


def test_the_wheel_trains_outside_the_checkout(distribution: Distribution, tmp_path: Path) -> None:
    """A few steps of the demo's recipe, on photographs, and the page about them."""
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for name, colour in PHOTOGRAPHS.items():
        Image.new("RGB", (64, 64), colour).save(photographs / f"{name}.png")
    lines = [
        {"id": name, "images": [f"{name}.png"], "prompt": "what color is it?", "answers": [name]}
        for name in PHOTOGRAPHS
    ]
    examples = tmp_path / "examples.jsonl"
    examples.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    command = ["train", "--task", "vqa", "--train-file", examples.name, "--val-file", examples.name]
    command += ["--images", "photographs", "--backbone", "demo", "--out", "runs/own"]
    command += ["--steps", "3", "--device", "cpu", "--quiet"]
    assert "vqa val: accuracy" in distribution.run(*command, cwd=tmp_path)
    distribution.run("leaderboard", "runs", "--out", "page.html", "--quiet", cwd=tmp_path)
    assert "</html>" in (tmp_path / "page.html").read_text(encoding="utf-8")


def find_python(version: str) -> str | None:
    """Return a Python of a version that runs: on the path, or installed beside this one."""
    beside = Path(sys.base_prefix).parent.glob(f"{version}*/bin/python{version}")
    for program in (shutil.which(f"python{version}"), *map(str, beside)):
        if program and subprocess.run([program, "-c", ""], capture_output=True).returncode == 0:
            return program
    return None


@pytest.mark.parametrize("version", OTHER_PYTHONS)
def test_other_versions_of_python_read_the_packages(version: str, tmp_path: Path) -> None:
    if (program := find_python(version)) is None:
        pytest.skip(f"no Python {version} here")
    environment = os.environ | {"PYTHONPYCACHEPREFIX": str(tmp_path)}
    folders = [str(REPOSITORY / package) for package in PACKAGES]
    # Warnings tell of syntax that a later version refuses.
    subprocess.run(
        [program, "-W", "error", "-m", "compileall", "-q", "-j", "1", *folders],
        check=True,
        env=environment,
    )
    # Its modules need no other package.
    subprocess.run(
        [program, "-W", "error", "-c", "import eval.text, eval.vqa, tasks._suites"],
        check=True,
        env=environment | {"PYTHONPATH": str(REPOSITORY)},
    )


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    """Versions of `constraints-oldest.txt` that pyproject.toml does not name belong to others."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = dict(each.lower().split(">=") for each in project["dependencies"])
    text = (REPOSITORY / "constraints-oldest.txt").read_text(encoding="utf-8").lower()
    oldest = dict(line.split("==") for line in text.splitlines() if not line.startswith("#"))
    assert bounds.keys() <= oldest.keys()
    for name, bound in bounds.items():
        padded = f"{bound}.0.0.0"
        assert padded.startswith(f"{oldest[name]}."), (name, bound, oldest[name])
