"""Which module may import which: read from the sources, and observed in fresh interpreters."""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("eval", "tasks", "feature_extraction", "vl_lst")
OURS = set(PACKAGES)
FORBIDDEN = {
    "eval": {"torch"} | OURS - {"eval"},
    "tasks": {"torch"} | OURS - {"tasks", "eval"},
    "feature_extraction": OURS - {"feature_extraction", "eval"},
    "vl_lst": set(),
}
# Development only: nothing that users install may import these.
DEVELOPMENT = {"unittest", "pytest", "tests", "benchmarks", "tools"}
HEAVY = {"torch", "transformers", "open_clip", "h5py", "datasets", "accelerate"}
# Packages that need a moment, and modules with many imports of their own, that help does without.
NOT_FOR_HELP = {"numpy", "pydantic", "yaml", "PIL", "eval.caption", "tasks._download"}
# Rooms from top to bottom: each may import the rooms below it. Modules at the root of a package
# that are not listed are below all of its rooms.
ROOMS = {
    "feature_extraction": "exchange extract pipeline encoders images store".split(),
    "vl_lst": (
        "__main__ cli demo plugins run profiling training extraction generation data hub runs "
        "recipes methods models backbones"
    ).split(),
}


def module_files() -> dict[str, Path]:
    """The file of each of our modules, by the module's full name."""
    files = {}
    for package in PACKAGES:
        for file in (REPOSITORY / package).rglob("*.py"):
            name = ".".join(file.relative_to(REPOSITORY).with_suffix("").parts)
            files[name.removesuffix(".__init__")] = file
    return files


FILES = module_files()
SOURCES = {name: file.read_text(encoding="utf-8") for name, file in FILES.items()}


def imported_modules(source: str, known: Iterable[str] = ()) -> set[str]:
    """Full names of what a module imports, also in functions and for type checking.

    `from package import name` is `package.name` if that is a known module, otherwise `package`.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import, expected a full name"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner in known else str(node.module))
    return names


def imported_packages(source: str) -> set[str]:
    """Top-level names of all imports in a module."""
    return {name.partition(".")[0] for name in imported_modules(source)}


def import_graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """For each module, those of the given modules that it imports."""
    return {name: imported_modules(text, sources) & set(sources) for name, text in sources.items()}


def find_circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, the first of them repeated at the end."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def upward_imports(
    package: str, rooms: list[str], graph: Mapping[str, set[str]]
) -> list[tuple[str, str]]:
    """Imports within a package that do not go from a room to one below it."""

    def height(module: str) -> int:
        room = module.removeprefix(f"{package}.").partition(".")[0]
        return len(rooms) - rooms.index(room) if room in rooms else 0

    return [
        (module, imported)
        for module, all_imported in sorted(graph.items())
        for imported in sorted(all_imported)
        if module.startswith(f"{package}.") and imported.startswith(f"{package}.")
        if height(imported) > height(module)
    ]


def run_command(line: str) -> str:
    """A statement that runs a command of `vl-lst`."""
    return f"from vl_lst.cli import main; main({line.split()!r})"


def loaded_by(statement: str, names: set[str]) -> set[str]:
    """Which of `names` a fresh interpreter has loaded after a statement."""
    code = f"import sys; {statement}; print(*({names!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    # The statement may print, too.
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_it_may(package: str) -> None:
    modules = [name for name in SOURCES if name.partition(".")[0] == package]
    assert modules
    for name in modules:
        wrong = imported_packages(SOURCES[name]) & (FORBIDDEN[package] | DEVELOPMENT)
        assert not wrong, f"{name} imports {wrong}"


@pytest.mark.parametrize("package", ROOMS)
def test_imports_run_from_room_to_room_in_one_direction(package: str) -> None:
    folders = {path.parent.name for path in (REPOSITORY / package).glob("*/__init__.py")}
    assert folders <= set(ROOMS[package]), "a new room needs its place in ROOMS and CONTRIBUTING.md"
    assert upward_imports(package, ROOMS[package], import_graph(SOURCES)) == []


@pytest.mark.parametrize("package", ROOMS)
def test_the_guide_for_contributors_lists_the_rooms_in_order(package: str) -> None:
    guide = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = guide.split(f"| room of `{package}/` |")[1].split("\n\n")[0]
    cells = [row.split("|")[1] for row in table.splitlines()[2:]]
    listed = [room for cell in cells for room in re.findall(r"`(\w+)(?:/|\.py)`", cell)]
    assert listed == [room for room in ROOMS[package] if room != "__main__"]


def test_no_modules_import_each_other() -> None:
    assert find_circle(import_graph(SOURCES)) == []


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
        ("import vl_lst", HEAVY | {"numpy", "pydantic"}),
        ("import vl_lst.cli", HEAVY),
        (run_command("--help"), HEAVY | NOT_FOR_HELP),
        (run_command("train --help"), HEAVY | NOT_FOR_HELP),
        (run_command("features info --help"), HEAVY | NOT_FOR_HELP),
        ("import vl_lst.training.parallel_worker", HEAVY),
        ("import feature_extraction.images.decoding_process", HEAVY),
        (run_command("extract-features --images nowhere --out features.h5"), {"torch"}),
        (run_command("score --task caption --file nowhere --predictions nowhere"), HEAVY),
        (run_command("leaderboard nowhere"), HEAVY),
    ],
)
def test_importing_loads_nothing_heavy_or_forbidden(statement: str, absent: set[str]) -> None:
    assert loaded_by(statement, absent) == set()


FIRST_LINE = "importing PyTorch and Transformers"


@pytest.mark.parametrize(
    ("line", "printed"),
    [
        ("train --out run --recipe x", [FIRST_LINE]),
        ("train --out run --recipe x --quiet", []),
        ("evaluate run --split dev", [FIRST_LINE]),
    ],
)
def test_a_command_speaks_before_it_imports_anything_heavy(line: str, printed: list[str]) -> None:
    """Importing a heavy package interrupts the command here, so that it prints nothing more."""
    code = f"""
import sys
class Interrupt:
    def find_spec(self, name, *others):
        if name in {HEAVY!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
{run_command(line)}
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert done.stderr.splitlines() == [*printed, "interrupted"]


def test_importing_shows_no_warning_of_libraries() -> None:
    """Importing `vl_lst` hides it the same way, since it imports `feature_extraction`."""
    done = subprocess.run(
        [sys.executable, "-c", "import feature_extraction.encoders.registry"],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_the_checks_of_packages_can_fail() -> None:
    source = "def f():\n    import torch.nn\n    from tasks.vqa import TASK\nimport unittest.mock"
    assert imported_packages(source) == {"torch", "tasks", "unittest"}
    assert loaded_by("import eval.vqa", {"eval", "torch"}) == {"eval"}


def test_the_checks_of_rooms_can_fail() -> None:
    graph = import_graph(
        {
            "house.roof.tiles": "from house.cellar import wine",
            "house.cellar.wine": "def f():\n    from house.roof import tiles",
            "house.errors": "import house.cellar.wine",
        }
    )
    assert upward_imports("house", ["roof", "cellar"], graph) == [
        ("house.cellar.wine", "house.roof.tiles"),
        ("house.errors", "house.cellar.wine"),
    ]
    circle = find_circle(graph)
    assert (len(circle), circle[0]) == (3, circle[-1])
    assert set(circle) == {"house.roof.tiles", "house.cellar.wine"}


def test_an_import_for_type_checking_closes_a_circle_too() -> None:
    hidden = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a import one\n"
    assert find_circle(import_graph({"a.one": "import a.two", "a.two": hidden}))
    assert not find_circle(import_graph({"a.one": "import a.two", "a.two": "import torch"}))


def test_modules_of_tests_have_different_names() -> None:
    """Their folders are all on `sys.path`, so that of two with one name only one is imported."""
    names = Counter(path.name for path in REPOSITORY.glob("tests/**/*.py"))
    names.pop("conftest.py")
    assert [name for name, count in names.items() if count > 1] == []
