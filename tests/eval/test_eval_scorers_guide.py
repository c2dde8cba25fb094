"""The examples in the guide to the scorers are right, and the scorers agree with `score_*`."""

import doctest
import re
import shutil
from pathlib import Path

import pytest

from eval.errors import PredictionError
from eval.glue import glue_metrics

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "scorers.md"
BLOCKS = re.findall(r"^```pycon\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.M)


def test_the_examples_of_the_guide_give_what_it_shows() -> None:
    has_java = shutil.which("java") is not None
    blocks = [each for each in BLOCKS if has_java or "caption_metrics" not in each]
    assert len(BLOCKS) == 6
    runner = doctest.DocTestRunner(verbose=False)
    names: dict[str, object] = {}
    shown: list[str] = []
    for number, block in enumerate(blocks):
        test = doctest.DocTestParser().get_doctest(block, names, f"{number}", str(GUIDE), 0)
        runner.run(test, out=shown.append, clear_globs=False)
        names = test.globs
    assert runner.summarize(verbose=False).failed == 0, "".join(shown)


def test_glue_takes_dictionaries_or_lists_but_not_both() -> None:
    given, correct = {"a": "1", "b": "0"}, {"b": "0", "a": "0"}
    assert glue_metrics("cola", given, correct) == glue_metrics("cola", ["0", "1"], ["0", "0"])
    with pytest.raises(PredictionError, match=r"1 has no prediction \(b\)"):
        glue_metrics("rte", {"a": "1"}, correct)
    with pytest.raises(PredictionError, match="expected two dictionaries, or two lists"):
        glue_metrics("rte", given, ["1", "0"])
    with pytest.raises(PredictionError, match="predictions are a list: expected a dictionary"):
        glue_metrics("rte", ["1", "0"], correct)
