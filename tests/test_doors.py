"""Which package may import which: read from the sources, and seen in fresh interpreters."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
OURS = {"eval", "tasks", "feature_extraction", "vl_lst"}
FORBIDDEN = {
    "eval": {"torch"} | OURS - {"eval"},
    "tasks": {"torch"} | OURS - {"tasks", "eval"},
    "feature_extraction": OURS - {"feature_extraction", "eval"},
}
HEAVY = {"torch", "transformers", "open_clip", "h5py", "datasets", "accelerate"}


def imported_packages(source: str) -> set[str]:
    """Top-level names of all imports in a module, those inside functions included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def loaded_by(statement: str, names: set[str]) -> set[str]:
    """Which of `names` a fresh interpreter has loaded after a statement."""
    code = f"import sys; {statement}; print(*({names!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("package", FORBIDDEN)
def test_sources_import_only_what_their_package_may(package: str) -> None:
    files = sorted((REPOSITORY / package).rglob("*.py"))
    assert files
    for file in files:
        wrong = imported_packages(file.read_text(encoding="utf-8")) & FORBIDDEN[package]
        assert not wrong, f"{file.relative_to(REPOSITORY)} imports {wrong}"


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import eval.vqa, eval.submissions", FORBIDDEN["eval"] | HEAVY),
        ("import eval.leaderboard.tables, eval.report.page", FORBIDDEN["eval"] | HEAVY),
        (
            "import tasks; [tasks.get_task(name) for name in tasks.task_names()]",
            FORBIDDEN["tasks"] | HEAVY,
        ),
        ("import feature_extraction", FORBIDDEN["feature_extraction"]),
        ("import vl_lst.cli", HEAVY),
        ("import vl_lst.training.parallel_worker", HEAVY),
    ],
)
def test_importing_loads_nothing_heavy_or_forbidden(statement: str, absent: set[str]) -> None:
    assert loaded_by(statement, absent) == set()


def test_the_checks_can_fail() -> None:
    source = "def f():\n    import torch.nn\n    from tasks.vqa import TASK\n    from . import x\n"
    assert imported_packages(source) == {"torch", "tasks"}
    assert loaded_by("import eval.vqa", {"eval", "torch"}) == {"eval"}
