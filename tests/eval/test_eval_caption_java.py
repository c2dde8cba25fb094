"""If Java is missing, dies, hangs or answers nonsense, metrics get a reason and nothing hangs.

A Python script called `java` stands in for the Java programs, so these tests need no Java.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eval._meteor import REQUESTS_PER_BATCH, Meteor, close_kept_meteor
from eval._ptb import remembered_tokens
from eval.caption import METRICS, CaptionScores, score_captions

IMAGES = 3 * REQUESTS_PER_BATCH
SCRIPT = """#!{python}
import os, signal, sys, time
def say(text):
    print(text, flush=True)
def tokenise():
    with open(sys.argv[-1], encoding="utf-8", newline="\\n") as file:
        sys.stdout.write(file.read().lower())
def answer(line):
    if line.startswith("SCORE"):
        return say("1.0 2.0")
    for _ in range(line.count("|||") + 1):
        say("0.5")
def converse():
    for line in sys.stdin:
        answer(line)
def spice():
    raise SystemExit("no SPICE here")
{change}
converse() if "-stdio" in sys.argv else spice() if "-subset" in sys.argv else tokenise()
"""
Fake = Callable[[str], None]


@pytest.fixture
def fake_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    """Return a function that puts a modified script called `java` on the PATH."""

    def install(change: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / "java").write_text(SCRIPT.format(python=sys.executable, change=change))
        (folder / "java").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    remembered_tokens.cache_clear()
    yield install
    close_kept_meteor()
    remembered_tokens.cache_clear()


def score(time_limit: float | None = None) -> CaptionScores:
    references = {str(n): [f"a dog number {n} runs", "a dog"] for n in range(IMAGES)}
    captions = {id_: f"a dog number {id_}" for id_ in references}
    return score_captions(captions, references, time_limit=time_limit)


def require_reason_for_all(scores: CaptionScores, *words: str) -> None:
    assert scores.metrics == dict.fromkeys(METRICS)
    assert scores.per_image == {}
    assert set(scores.reasons) == set(METRICS)
    for reason in scores.reasons.values():
        assert all(word in reason for word in words), reason


def require_reason_for_meteor(scores: CaptionScores, *words: str) -> None:
    assert [name for name, value in scores.metrics.items() if value is None] == ["meteor", "spice"]
    assert "meteor" not in scores.per_image
    assert all(word in scores.reasons["meteor"] for word in words), scores.reasons["meteor"]


def test_all_metrics_are_computed_if_java_works(fake_java: Fake) -> None:
    fake_java("")
    scores = score()
    assert list(scores.metrics) == list(METRICS)
    assert scores.metrics["meteor"] == 0.5
    assert set(scores.per_image["meteor"].values()) == {0.5}
    assert list(scores.reasons) == ["spice"]


def test_without_java_the_reason_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    require_reason_for_all(score(), "no `java` on the PATH", "apt install default-jre-headless")


def test_a_java_that_is_not_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "java").write_bytes(b"\x7fELF broken")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    require_reason_for_all(score(), "cannot be started")


def test_a_failing_virtual_machine_is_quoted(fake_java: Fake) -> None:
    """A virtual machine that cannot start reports the reason on standard output."""
    fake_java("print('Error occurred during initialization of VM\\nToo small heap'); sys.exit(1)")
    require_reason_for_all(score(), "exit code 1", "initialization of VM Too small heap")


def test_a_killed_tokenizer_is_reported(fake_java: Fake) -> None:
    fake_java("def tokenise(): os.kill(os.getpid(), signal.SIGKILL)")
    require_reason_for_all(score(), "the Stanford tokenizer was killed by SIGKILL")


def test_a_tokenizer_that_loses_a_line_is_refused(fake_java: Fake) -> None:
    fake_java("def tokenise(): say('a dog')")
    require_reason_for_all(score(), "2 lines for 96 captions", "'a dog'")


def test_a_hanging_tokenizer_is_killed_with_its_children(fake_java: Fake, tmp_path: Path) -> None:
    fake_java(
        "def tokenise():\n"
        "    child = os.fork()\n"
        f"    if child: open({str(tmp_path / 'child')!r}, 'w').write(str(child))\n"
        "    time.sleep(600)"
    )
    started = time.monotonic()
    require_reason_for_all(score(time_limit=1), "did not finish within 1 seconds")
    assert time.monotonic() - started < 20
    require_gone(int((tmp_path / "child").read_text()))


def require_gone(process_id: int) -> None:
    for _ in range(100):
        status = Path(f"/proc/{process_id}/stat")
        # A killed process without a parent may stay a zombie.
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    raise AssertionError(f"process {process_id} is still there")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("def converse(): sys.exit('no heap: Error 7')", ["exit code 1", "no heap: Error 7"]),
        (
            "def answer(line): say('Error: specify SCORE')",
            ["'Error: specify SCORE'", "expected a score"],
        ),
        ("def answer(line): say('')", ["expected a score"]),
        ("def converse(): sys.stdin.close(); time.sleep(600)", ["within 1 seconds"]),
        ("def converse(): time.sleep(600)", ["METEOR did not finish within 1 seconds"]),
        ("def answer(line): time.sleep(0.2); say('1.0')", ["within 1 seconds"]),
        (
            "def answer(line):\n"
            "    if line.startswith('EVAL'): os.kill(os.getpid(), signal.SIGKILL)\n"
            "    say('1.0')",
            ["METEOR was killed by SIGKILL"],
        ),
    ],
)
def test_a_failing_meteor_leaves_the_other_metrics(
    fake_java: Fake, change: str, words: list[str]
) -> None:
    fake_java(change)
    started = time.monotonic()
    require_reason_for_meteor(score(time_limit=1), *words)
    assert time.monotonic() - started < 20


def test_meteor_killed_between_two_answers(
    fake_java: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Victim(Meteor):
        requests = 0

        def request(self, lines: list[str], *, num_answers: int) -> list[str]:
            self.requests += 1
            if self.requests == 2:
                os.kill(self.process_id, signal.SIGKILL)
            return super().request(lines, num_answers=num_answers)

    fake_java("")
    monkeypatch.setattr("eval._meteor.Meteor", Victim)
    require_reason_for_meteor(score(), "METEOR was killed by SIGKILL")


def test_long_standard_error_neither_blocks_nor_is_shown(
    fake_java: Fake, capfd: pytest.CaptureFixture[str]
) -> None:
    fake_java("sys.stderr.write('Untokenizable\\n' * 100_000)")
    assert score().metrics["meteor"] == 0.5
    assert capfd.readouterr() == ("", "")


def test_long_requests_and_answers_do_not_block(fake_java: Fake) -> None:
    fake_java("")
    references = {str(n): ["a dog runs " * 400, f"cat {n}"] for n in range(IMAGES)}
    assert score_captions({id_: "a dog" for id_ in references}, references).metrics["meteor"] == 0.5


def spice_writes(scores: str) -> str:
    """Return a fake SPICE that gives image n the F-score `scores`, an expression in n."""
    return (
        "def spice():\n"
        "    import json\n"
        "    items = json.load(open(sys.argv[4]))\n"
        "    result = [{'image_id': item['image_id'], 'scores': {'All': {'f': "
        f"(lambda n: {scores})(item['image_id'])"
        "}}} for item in items]\n"
        "    json.dump(result[::-1], open(sys.argv[6], 'w'))"
    )


@pytest.fixture
def spice_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib").mkdir()
    for name in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"):
        (tmp_path / "lib" / name).touch()
    monkeypatch.setattr("eval._spice.library_folder", lambda _: tmp_path)


def test_without_its_models_spice_is_none_with_a_reason(fake_java: Fake) -> None:
    fake_java("")
    scores = score()
    assert scores.metrics["spice"] is None
    assert "get_stanford_models" in scores.reasons["spice"]


@pytest.mark.usefixtures("spice_models")
def test_spice_scores_are_matched_by_image(fake_java: Fake) -> None:
    fake_java(spice_writes(f"n / {IMAGES}"))
    scores = score()
    assert scores.reasons == {}
    assert scores.metrics["spice"] == pytest.approx((IMAGES - 1) / 2 / IMAGES)
    assert scores.per_image["spice"]["12"] == 12 / IMAGES


@pytest.mark.usefixtures("spice_models")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (spice_writes("float('nan') if n < 2 else 0.5"), "not a number for 2 captions"),
        (spice_writes("'x'"), "cannot be read"),
        ("def spice(): pass", "cannot be read"),
        ("", "SPICE failed with exit code 1: no SPICE here"),
        ("def spice(): time.sleep(600)", "SPICE did not finish within 1 seconds"),
    ],
)
def test_a_failing_spice_leaves_the_other_metrics(
    fake_java: Fake, change: str, reason: str
) -> None:
    fake_java(change)
    scores = score(time_limit=1)
    assert [name for name, value in scores.metrics.items() if value is None] == ["spice"]
    assert reason in scores.reasons["spice"]


def test_reasons_and_scores_are_serializable(fake_java: Fake) -> None:
    fake_java("")
    scores = score()
    json.dumps([scores.metrics, scores.per_image, scores.reasons], allow_nan=False)
    assert {type(value) for value in scores.metrics.values()} == {float, type(None)}
