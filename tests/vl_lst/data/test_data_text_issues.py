"""Texts that do not fit are counted and reported, and runs read what they were trained on."""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file
from tiny_mixture import add_tasks, mixture_recipe, score_captions_without_java
from tiny_run import COLOURS, TinyWorld, tiny_world

from eval.errors import InputError
from eval.run_files import RunRecord
from tasks import Example, get_task
from vl_lst.backbones.loading import load_backbone
from vl_lst.backbones.tokenizer import CachingTokenizer
from vl_lst.data.examples import load_examples
from vl_lst.data.task_data import build_task_data, sample_examples
from vl_lst.data.text_issues import answer_list_issues, count_text_issues
from vl_lst.data.text_warnings import split_notes
from vl_lst.recipes import Recipe
from vl_lst.run import load_run
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.record import read_record
from vl_lst.training.session import train

DEFAULT_LIMIT = get_task("vqa").max_prompt_tokens


class Letters:
    """Tokenizer with a token per ASCII letter, which ignores case."""

    pad_token_id, eos_token_id, unk_token_id = 0, 1, 2

    def __call__(self, texts: Sequence[str], **_: object) -> SimpleNamespace:
        return SimpleNamespace(input_ids=[[self._id(each) for each in text] for text in texts])

    def decode(self, ids: Sequence[int], **_: object) -> str:
        return "".join(map(chr, ids))

    def _id(self, letter: str) -> int:
        return ord(letter.lower()) if letter.isascii() else self.unk_token_id


@pytest.fixture
def letters() -> CachingTokenizer:
    return CachingTokenizer(Letters())


def own_recipe(
    world: TinyWorld,
    folder: Path,
    questions: dict[int, str],
    answer: str | None = None,
    **more: Any,
) -> Recipe:
    """Return a recipe on own files, with `questions` at some places of both splits."""
    for name, split in (("train", "train2014"), ("val", "val2014")):
        lines = []
        for number, picture in enumerate(sorted((world.root / "images" / split).iterdir())):
            colour = list(COLOURS)[number % len(COLOURS)]
            prompt = questions.get(number, "what color is it?")
            line = {"id": number, "images": [picture.name], "prompt": prompt}
            lines.append({**line, "answers": [answer or colour]})
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return world.recipe(
        data__root=None,
        data__train_file=str(folder / "train.jsonl"),
        data__validation_file=str(folder / "val.jsonl"),
        **more,
    )


def logged(out: Path) -> str:
    return (out / "log.txt").read_text(encoding="utf-8")


LONG = {0: "is it " + "a thing of " * 12 + "red?", 2: "is it " + "a thing of " * 200 + "red?"}


def test_issues_are_counted_per_text(letters: CachingTokenizer) -> None:
    issues = count_text_issues(
        ["q: ab", "q: ab", "q: abcd", "q: é", "q: "], letters, limit=6, prefix="q: "
    )
    assert (issues.texts, issues.longest, issues.too_long) == (5, 8, 1)
    assert (issues.unknown, issues.unknown_text, issues.blank) == (1, "q: é", 1)
    found = issues.describe("prompts", consequence="are truncated")
    assert found is not None
    assert found.startswith("1 of 5 prompts exceed 6 tokens and are truncated (the longest has 8)")
    assert (
        count_text_issues(["ab"], letters, limit=3).describe("prompts", consequence="are truncated")
        is None
    )


def test_listed_answers_that_are_ambiguous_or_altered_are_counted(
    letters: CachingTokenizer,
) -> None:
    issues = answer_list_issues(["red", "Red", "é", "ü", "blue"], get_task("gqa"), letters, limit=4)
    assert (issues.texts, issues.too_long, issues.unknown) == (5, 1, 2)
    assert (issues.altered, issues.altered_text) == (1, "Red")
    assert (issues.ambiguous, issues.ambiguous_text) == (2, "Red")
    people = answer_list_issues(["Red"], get_task("vqa"), letters, limit=4)
    assert people.altered == 0, "VQA's rules ignore case"


@pytest.mark.parametrize("question", ["", " ", "\t\n", "\u3000"])
def test_questions_of_spaces_only_are_blank(question: str) -> None:
    tokenizer = CachingTokenizer(load_backbone("demo").tokenizer)
    questions = ["vqa: " + question, "vqa: ?"]
    assert count_text_issues(questions, tokenizer, limit=20, prefix="vqa: ").blank == 1
    answers = ["", " ", "red"]
    assert answer_list_issues(answers, get_task("vqa"), tokenizer, limit=4).blank == 1, (
        "a list may contain ''"
    )


def test_the_tokenizer_does_not_warn_about_long_texts(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    tokenizer = CachingTokenizer(load_backbone("demo").tokenizer)
    assert len(tokenizer.encode_prompt("red " * 2000, 20)) == 20
    assert count_text_issues(["red " * 2000], tokenizer, limit=20).longest > 2000
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_prompts_are_truncated_at_the_default_limit(world: TinyWorld, tmp_path: Path) -> None:
    """A batch is padded to its longest prompt, so the limit also bounds memory."""
    recipe = own_recipe(world, tmp_path, LONG)
    reader = SimpleNamespace(
        missing=lambda _: [],
        read=lambda images: np.zeros((len(images), 4, 32), dtype=np.float16),
    )
    tokenizer = CachingTokenizer(load_backbone(str(world.backbone)).tokenizer)
    examples = load_examples(recipe, "vqa", reader)  # type: ignore[arg-type]
    data = build_task_data(recipe, examples, reader, tokenizer)  # type: ignore[arg-type]
    prompts = [data.train[[(0, row)]].prompt_ids_UT for row in range(3)]
    assert [ids.shape[1] for ids in prompts] == [43, 8, DEFAULT_LIMIT]
    assert data.validation[[(0, 2)]].prompt_ids_UT.shape[1] == DEFAULT_LIMIT
    samples = sample_examples({"vqa": data}, tokenizer, seed=0)
    lengths = {next(samples)[0].shape[1] for _ in range(100)}
    assert lengths == {8, 43, DEFAULT_LIMIT}, "Fisher information uses the same prompts as training"


def test_samples_keep_the_suffix_of_a_truncated_prompt(world: TinyWorld, tmp_path: Path) -> None:
    """As in training."""
    recipe = own_recipe(world, tmp_path, LONG, data__prompt_suffix=" what color ?")
    reader = SimpleNamespace(
        missing=lambda _: [],
        read=lambda images: np.zeros((len(images), 4, 32), dtype=np.float16),
    )
    tokenizer = CachingTokenizer(load_backbone(str(world.backbone)).tokenizer)
    examples = load_examples(recipe, "vqa", reader)  # type: ignore[arg-type]
    data = build_task_data(recipe, examples, reader, tokenizer)  # type: ignore[arg-type]
    trained = {tuple(data.train[[(0, row)]].prompt_ids_UT[0].tolist()) for row in range(18)}
    samples = sample_examples({"vqa": data}, tokenizer, seed=0)
    assert {tuple(next(samples)[0][0].tolist()) for _ in range(100)} <= trained


def test_training_warns_about_truncated_prompts(
    world: TinyWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = {4: "is it 猫 ?"}
    recipe = own_recipe(world, tmp_path, LONG | unknown, training__epochs=1)
    train(recipe, tmp_path / "run")
    expected = (
        f"vqa train: 1 of 18 prompts exceed {DEFAULT_LIMIT} tokens and are truncated (the "
        "longest has 607); 1 of 18 prompts contain unknown characters, such as 'vqa: is it 猫 ?'. "
        "This is the default limit of the task; to read them whole, raise "
        "data.max_prompt_tokens.vqa"
    )
    assert expected in logged(tmp_path / "run")
    assert expected in caplog.messages, "the console shows the same as the log"
    assert "vqa val: 1 of 6 prompts exceed" in logged(tmp_path / "run")


def test_the_console_shows_nothing_if_all_prompts_fit(
    world: TinyWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="vl_lst")
    train(own_recipe(world, tmp_path, {}, training__epochs=1), tmp_path / "run")
    assert "vqa train: 18 prompts of at most 8 tokens; none exceeds" in logged(tmp_path / "run")
    shown = [record for record in caplog.records if not hasattr(record, "only_in_file")]
    assert not any("prompts" in record.getMessage() for record in shown)


def earlier_run(world: TinyWorld, tmp_path: Path, **settings: Any) -> Path:
    """Return a run as an earlier version wrote it, with a limit of 20 tokens per prompt."""
    out = tmp_path / "earlier"
    train(own_recipe(world, tmp_path, LONG, data__max_prompt_tokens=20, **settings), out)
    path = out / "recipe.yaml"
    saved = yaml.safe_load(path.read_text())
    del saved["data"]["max_prompt_tokens"]
    saved["data"]["min_answer_count"] = 1
    path.write_text(yaml.safe_dump(saved, sort_keys=False))
    record = json.loads((out / "record.json").read_text())
    del record["answer_coverage"]
    (out / "record.json").write_text(json.dumps(record))
    return out


def test_an_earlier_run_answers_and_resumes_with_its_own_limit(
    world: TinyWorld, tmp_path: Path
) -> None:
    out = earlier_run(world, tmp_path)
    before = json.loads((out / "predictions" / "vqa-val.json").read_text())
    run = load_run(out)
    assert run.task().max_prompt_tokens == 20
    assert run.task("gqa", official=True).max_prompt_tokens == 20, (
        "the limit of the head, not of the task"
    )
    evaluation = run.evaluate("val")
    assert [{"id": id_, "answer": given} for id_, given in evaluation.predictions.items()] == before
    assert evaluation.notes == (
        "2 of 6 prompts exceed 20 tokens and are truncated (the longest has 607)",
    )
    record = read_record(RunDirectory(out))
    assert record is not None
    assert record.answer_coverage == {}

    weights = load_file(out / "checkpoints" / "last" / "model.safetensors")
    metrics = (out / "metrics.jsonl").read_bytes()
    # As if it had been killed before its first checkpoint.
    shutil.rmtree(out / "checkpoints")
    (out / "record.json").unlink()
    resumed = train(RunDirectory(out).recipe(), out, resume=True)
    assert (out / "metrics.jsonl").read_bytes() == metrics
    again = load_file(out / "checkpoints" / "last" / "model.safetensors")
    assert all(again[name].equal(weight) for name, weight in weights.items())
    assert resumed.answer_coverage == {"vqa": 100.0}


def test_predict_notes_a_truncated_question(world: TinyWorld, tmp_path: Path) -> None:
    train(world.recipe(training__epochs=1, data__max_prompt_tokens=10), tmp_path / "run")
    run = load_run(tmp_path / "run")

    def notes(question: str) -> tuple[str, ...]:
        return run.predict(world.image("red"), question, encoder_weights=world.encoder).notes

    assert notes("is it red?") == ()
    (cut,) = notes("is it " + "red " * 10 + "?")
    assert "found 16 tokens, expected at most 10" in cut
    (unknown,) = notes("is it 猫?")
    assert "does not know" in unknown


@pytest.mark.parametrize("constrained", [False, True])
def test_answers_that_can_never_be_generated_in_full_are_counted(
    world: TinyWorld, tmp_path: Path, constrained: bool
) -> None:
    recipe = own_recipe(
        world,
        tmp_path,
        {},
        "red thing of other color",
        head="generate",
        training__epochs=1,
        generation__max_length=5,
        generation__constrain_to_answers=constrained,
    )
    out = tmp_path / "run"
    if constrained:
        with pytest.raises(InputError, match=r"at most 5 tokens; raise generation.max_length.vqa"):
            train(recipe, out)
        assert not (out / "checkpoints").exists(), "training does not start"
    else:
        train(recipe, out)
        (note,) = load_run(out).evaluate("val").notes
        assert note.startswith("6 of 6 answers exceed 5 tokens and can never be generated in full")
    expected = (
        "vqa train: 18 of 18 answers exceed 5 tokens and can never be generated in full (the "
    )
    assert f"{expected}longest has 6). Raise generation.max_length.vqa" in logged(out)
    assert ("vqa: 1 of 1 listed answers exceed 5" in logged(out)) == constrained


def test_a_larger_generation_limit_allows_longer_training_answers(world: TinyWorld) -> None:
    usual, raised = (
        world.recipe(generation__max_length=limit).configured_task("vqa").max_answer_tokens
        for limit in (5, 30)
    )
    assert (usual, raised) == (get_task("vqa").max_answer_tokens, 30)


def test_low_coverage_of_the_answer_list_is_reported_and_recorded(
    world: TinyWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answers = tmp_path / "answers.json"
    answers.write_text('["red", "green"]')
    out = tmp_path / "run"
    recipe = own_recipe(world, tmp_path, {}, training__epochs=1, data__answer_list=str(answers))
    assert train(recipe, out).answer_coverage == {"vqa": pytest.approx(200 / 3)}
    saved = RunRecord.model_validate_json((out / "record.json").read_bytes())
    assert saved.answer_coverage == {"vqa": pytest.approx(200 / 3)}
    (warning,) = (message for message in caplog.messages if "answer list" in message)
    assert f"(2 answers; {answers}) covers 66.6 % of the training answers and 66.6 %" in warning
    assert (
        "The model can never give the others: choose another list (data.answer_list.vqa)" in warning
    )
    (note,) = load_run(out).evaluate("val").notes
    assert "covers 66.6 % of the correct answers" in note


def test_few_own_examples_give_an_answer_list(world: TinyWorld, tmp_path: Path) -> None:
    recipe = own_recipe(world, tmp_path, {}, training__epochs=1, data__min_answer_count=None)
    out = tmp_path / "run"
    assert train(recipe, out).answer_coverage == {"vqa": 100.0}
    assert RunDirectory(out).card().answers["vqa"] == ["blue", "green", "red"]
    assert "counted from the training examples) covers 100.0 % of the training" in logged(out)
    rare = own_recipe(world, tmp_path, {}, data__min_answer_count=9)
    with pytest.raises(InputError, match=r"lower the minimum count \(data.min_answer_count"):
        train(rare, tmp_path / "other")


def test_gqa_without_the_official_list_keeps_its_rare_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_captions_without_java(monkeypatch)
    with tiny_world(tmp_path / "mixed") as world:
        recipe = mixture_recipe(world, add_tasks(world), head={"gqa": "classify"})
        file = world.root / "gqa" / "train_balanced_questions.json"
        questions = json.loads(file.read_text())
        next(iter(questions.values()))["answer"] = "rare"
        file.write_text(json.dumps(questions))
        record = train(recipe, tmp_path / "run")
        assert "rare" in (RunDirectory(tmp_path / "run").card().answers["gqa"] or ())
    assert record.answer_coverage == {"vqa": 100.0, "gqa": 100.0, "nlvr2": 100.0}


def test_validation_captions_are_references_and_not_counted(letters: CachingTokenizer) -> None:
    caption, examples = get_task("caption"), [Example("1", ("i",), "caption:", (("long", 1.0),))]
    settings: Any = SimpleNamespace(
        head={"caption": "generate"}, generation=SimpleNamespace(max_length={"caption": 2})
    )
    table: Any = examples
    assert split_notes(settings, caption, table, letters, None, "caption") == ()
