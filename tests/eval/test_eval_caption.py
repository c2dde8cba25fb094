"""The caption metrics give the official numbers and never mix up captions of different images."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pycocoevalcap
import pytest

from eval._meteor import running_meteor
from eval._ptb import tokenize
from eval.caption import METRICS, score_captions
from eval.errors import InputError, PredictionError

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")
OFFICIAL_NAMES = {
    "bleu_1": "Bleu_1",
    "bleu_2": "Bleu_2",
    "bleu_3": "Bleu_3",
    "bleu_4": "Bleu_4",
    "meteor": "METEOR",
    "rouge_l": "ROUGE_L",
    "cider": "CIDEr",
}
SEPARATORS = ["\r", "\r\n", "\x0b", "\x0c", "\u2028", "\u2029"]


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def case(folder: Path, data: str, system: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    annotations = read(folder / f"captions_{data}.json")
    references: dict[str, list[str]] = {str(image["id"]): [] for image in annotations["images"]}
    for each in annotations["annotations"]:
        references[str(each["image_id"])].append(each["caption"])
    results = read(folder / f"captions_{data}_{system}_results.json")
    return {str(each["image_id"]): each["caption"] for each in results}, references


def require_official_numbers(folder: Path, data: str, system: str) -> None:
    captions, references = case(folder, data, system)
    expected = read(folder / f"expected_{data}_{system}.json")
    scores = score_captions(captions, references)
    for name, official in OFFICIAL_NAMES.items():
        assert scores.metrics[name] == pytest.approx(expected["overall"][official], abs=1e-9)
        per_image = {id_: each[official] for id_, each in expected["per_image"].items()}
        assert scores.per_image[name] == pytest.approx(per_image, abs=1e-9)


def files_of_the_library() -> set[Path]:
    files = (path for folder in pycocoevalcap.__path__ for path in Path(folder).rglob("*"))
    return {path for path in files if "__pycache__" not in path.parts}


@needs_java
@pytest.mark.slow
@pytest.mark.parametrize("system", ["mixed", "plain"])
def test_official_numbers_on_awkward_captions(golden: Path, system: str) -> None:
    require_official_numbers(golden / "coco", "nasty", system)


@needs_java
@pytest.mark.slow
@pytest.mark.parametrize("system", ["magic", "topk", "zerocap"])
def test_official_numbers_on_real_captions(shared_data: Path, system: str) -> None:
    require_official_numbers(shared_data / "reference/evaluators/coco", "real", system)


@needs_java
def test_nothing_is_printed_or_left_behind(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The library's own classes print, and write to the installed package."""
    with running_meteor(0):
        pass  # It is kept, so that its own temporary folder is elsewhere.
    for folder in ("cwd", "tmp"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    before = files_of_the_library()
    score_captions(*case(golden / "coco", "nasty", "plain"))
    assert files_of_the_library() == before
    assert [*(tmp_path / "cwd").iterdir(), *(tmp_path / "tmp").iterdir()] == []
    assert capfd.readouterr() == ("", "")


@needs_java
def test_empty_captions_score_zero(golden: Path) -> None:
    _, references = case(golden / "coco", "nasty", "plain")
    scores = score_captions(dict.fromkeys(references, ""), references)
    for name in ("bleu_1", "bleu_4", "meteor", "cider"):
        assert scores.metrics[name] == pytest.approx(0, abs=1e-9)


@needs_java
def test_tokens_are_the_official_ones(golden: Path) -> None:
    captions, references = case(golden / "coco", "nasty", "mixed")
    expected = read(golden / "coco/expected_nasty_mixed.json")
    tokens = tokenize([captions[image] for image in references])
    assert tokens == [expected["tokenized_results"][image][0] for image in references]
    gold = tokenize([text for texts in references.values() for text in texts])
    assert gold == [text for texts in expected["tokenized_refs"].values() for text in texts]


@needs_java
def test_a_line_separator_does_not_shift_other_captions() -> None:
    captions = [text for mark in SEPARATORS for text in (f"a man{mark}eats", "The dog.")]
    assert tokenize(captions) == ["a man eats", "the dog"] * len(SEPARATORS)


@needs_java
def test_separators_at_the_ends_and_captions_without_words() -> None:
    captions = ["\u2028a cat", "a dog\r\n", "\n", "", "\x0b", "a cow", ""]
    assert tokenize(captions) == ["a cat", "a dog", "", "", "", "a cow", ""]
    assert tokenize(["", "", ""]) == ["", "", ""]
    assert tokenize([""]) == [""]


@needs_java
@pytest.mark.parametrize("mark", SEPARATORS)
def test_strict_tokenization_shifts_captions(mark: str) -> None:
    assert tokenize([f"a man{mark}eats", "the dog"], strict_official=True) == ["a man", "eats"]


@needs_java
def test_separators_are_reported_and_do_not_change_scores(
    golden: Path, caplog: pytest.LogCaptureFixture
) -> None:
    captions, references = case(golden / "coco", "nasty", "plain")
    separated = {
        id_: text.replace(" ", "\u2028", n % 2) for n, (id_, text) in enumerate(captions.items())
    }
    with caplog.at_level(logging.WARNING):
        plain = score_captions(captions, references)
        assert caplog.text == ""
        assert score_captions(separated, references) == plain
    assert "captions of 80 images contain line separators" in caplog.text
    assert score_captions(separated, references, strict_official=True) != plain


def test_captions_of_other_images_are_counted_before_java_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(PredictionError, match=r"1 has no prediction \(2\) and 1 pred.*\(3\)"):
        score_captions({"1": "a", "3": "b"}, {"1": ["a"], "2": ["b"]})


@needs_java
def test_texts_that_cannot_be_scored_are_explained() -> None:
    with pytest.raises(InputError, match=r"'a \\ud83d dog' is not valid Unicode"):
        score_captions({"1": "a \ud83d dog"}, {"1": ["a dog"]})
    with pytest.raises(InputError, match="the reference captions of 1 image contain no words"):
        score_captions({"1": "a dog"}, {"1": ["...", ""]})


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        score_captions({}, {})
    with pytest.raises(ValueError, match="a reference caption for each"):
        score_captions({"1": "a"}, {"1": []})


def test_importing_is_light() -> None:
    code = "import sys, eval.caption; print({'numpy', 'pycocoevalcap', 'pdb'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_metrics_are_named_in_the_official_order() -> None:
    assert METRICS == (*OFFICIAL_NAMES, "spice")
