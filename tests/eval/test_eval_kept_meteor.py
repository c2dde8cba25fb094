"""METEOR's program is started once, serves many sets of captions, and never outlives its owner.

A Python script called `java` stands in for it; each start adds its process ID to a file.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier

import pytest

from eval._java import JavaError
from eval._meteor import close_kept_meteor, running_meteor

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = """#!{python}
import os, pathlib, sys, time
with open({starts!r}, "a") as file:
    file.write(f"{{os.getpid()}}\\n")
for line in sys.stdin:
    while os.path.exists({hang!r}):
        time.sleep(0.01)
    answers = 1 if line.startswith("SCORE") else line.count("|||") + 1
    print("0.5\\n" * answers, end="", flush=True)
"""
# A suite that runs in the background ignores Ctrl-C, and so would the programs that it starts.
SCORE = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from eval._meteor import running_meteor
with running_meteor(1) as program:
    program.score(["a dog"], [["a cat"]])
"""


@pytest.fixture(autouse=True)
def fake_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    text = SCRIPT.format(
        python=sys.executable, starts=str(tmp_path / "starts"), hang=str(tmp_path / "hang")
    )
    (tmp_path / "java").write_text(text)
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    close_kept_meteor()
    yield
    (tmp_path / "hang").unlink(missing_ok=True)
    close_kept_meteor()


@pytest.fixture
def started(tmp_path: Path) -> Callable[[], list[int]]:
    """Return a function that lists the process IDs of all programs, in the order of their start."""
    return lambda: [int(line) for line in (tmp_path / "starts").read_text().split()]


def score(time_limit: float | None = None) -> int:
    """Score one caption and return the process ID of the program."""
    with running_meteor(1, time_limit=time_limit) as program:
        assert program.score(["a dog"], [["a cat"]]) == (0.5, [0.5])
        return program.process_id


def is_alive(process_id: int) -> bool:
    status = Path(f"/proc/{process_id}/stat")
    try:
        # A killed process without a parent may stay a zombie.
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def require_gone(process_id: int) -> None:
    deadline = time.monotonic() + 20
    while is_alive(process_id):
        assert time.monotonic() < deadline, f"process {process_id} is still there"
        time.sleep(0.02)


def test_sets_of_captions_share_a_program_with_its_own_limits() -> None:
    """The limit of one set must not end the program during the next, nor while it waits."""
    first = score(time_limit=1)
    time.sleep(1.1)
    assert [score(time_limit=60), score()] == [first, first]
    close_kept_meteor()
    require_gone(first)


def test_a_program_that_died_while_no_one_used_it_is_replaced() -> None:
    first = score()
    os.kill(first, signal.SIGKILL)
    require_gone(first)
    assert score() != first


def test_a_program_that_failed_or_was_interrupted_is_not_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answers to the first set may still come, and would be taken for those to the next."""
    first = score()
    (tmp_path / "hang").touch()
    with pytest.raises(JavaError, match="METEOR did not finish within 1 seconds"):
        score(time_limit=1)
    (tmp_path / "hang").unlink()
    second = score()
    with monkeypatch.context() as patch:
        patch.setattr("eval._meteor.Meteor.request", interrupt)
        with pytest.raises(KeyboardInterrupt):
            score()
    require_gone(first)
    require_gone(second)
    assert score() not in (first, second)


def interrupt(*_: object, **__: object) -> list[str]:
    raise KeyboardInterrupt


def test_an_error_outside_the_program_keeps_it() -> None:
    first = score()
    with pytest.raises(ZeroDivisionError), running_meteor(1):
        raise ZeroDivisionError
    assert score() == first


def test_another_java_is_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = score()
    (tmp_path / "other").mkdir()
    (tmp_path / "java").rename(tmp_path / "other" / "java")
    with pytest.raises(JavaError, match="no `java` on the PATH"):
        score()
    monkeypatch.setenv("PATH", str(tmp_path / "other"))
    assert score() != first


def test_two_threads_have_a_program_each_and_one_is_kept(
    started: Callable[[], list[int]],
) -> None:
    barrier = Barrier(2)

    def use() -> int:
        with running_meteor(1) as program:
            barrier.wait(20)
            program.score(["a dog"], [["a cat"]])
            return program.process_id

    with ThreadPoolExecutor(2) as pool:
        used = {future.result() for future in [pool.submit(use) for _ in range(2)]}
    assert used == set(started())
    kept = score()
    (other,) = used - {kept}
    require_gone(other)


def test_a_program_without_work_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval._meteor.MAX_IDLE_SECONDS", 0.05)
    require_gone(score())


@pytest.mark.parametrize(
    "ending",
    [
        "",
        "raise KeyboardInterrupt",
        "os._exit(3)",
        "os.kill(os.getpid(), signal.SIGTERM)",
        "os.kill(os.getpid(), signal.SIGKILL)",
        # A child that lives on, such as a data worker, holds no pipe to the program.
        "os.fork() == 0 and (time.sleep(60), os._exit(0)); os.kill(os.getpid(), signal.SIGKILL)",
    ],
)
def test_the_program_ends_with_its_owner(ending: str, started: Callable[[], list[int]]) -> None:
    done = subprocess.Popen(
        [sys.executable, "-c", SCORE + ending],
        cwd=REPOSITORY,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    try:
        done.wait(60)
        (program,) = started()
        require_gone(program)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(done.pid, signal.SIGKILL)


def test_ctrl_c_while_captions_are_scored_leaves_no_program(
    started: Callable[[], list[int]], tmp_path: Path
) -> None:
    (tmp_path / "hang").touch()
    process = subprocess.Popen(
        [sys.executable, "-c", SCORE], cwd=REPOSITORY, stderr=subprocess.DEVNULL
    )
    while not ((tmp_path / "starts").exists() and started()):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.wait(60)
    require_gone(started()[0])


def test_a_forked_child_leaves_the_program_to_its_parent(
    started: Callable[[], list[int]],
) -> None:
    """The child starts its own, and its exit neither ends nor disturbs the parent's."""
    fork = """
child = os.fork()
with running_meteor(1) as program:
    program.score(["a dog"], [["a cat"]])
if child == 0:
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
with running_meteor(1) as program:
    program.score(["a dog"], [["a cat"]])
    print(program.process_id, os.path.isdir(program._folder))
"""
    done = subprocess.run(
        [sys.executable, "-c", SCORE + fork], cwd=REPOSITORY, check=True, capture_output=True
    )
    parents, _ = started()
    assert done.stdout.split() == [str(parents).encode(), b"True"]
    for process_id in started():
        require_gone(process_id)
