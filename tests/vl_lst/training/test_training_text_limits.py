"""Texts that do not fit: what is cut is counted and said, and runs read what they trained on."""

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
from tasks import Example, get_task
from vl_lst.backbones.loading import load_backbone
from vl_lst.backbones.tokenizer import CachingTokenizer as Texts
from vl_lst.data.examples import task_of
from vl_lst.data.task_data import batch_task, load_examples, text_samples
from vl_lst.data.text_limits import count_losses, list_losses, split_notes
from vl_lst.recipes import Recipe
from vl_lst.run import load_run
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.record import RunRecord, read_record
from vl_lst.training.session import train

DEFAULT_LIMIT = get_task("vqa").max_prompt_tokens


class Letters:
    """A tokenizer with a token for each known letter, which forgets their case."""

    pad_token_id, eos_token_id, unk_token_id = 0, 1, 2

    def __call__(self, texts: Sequence[str], **_: object) -> SimpleNamespace:
        return SimpleNamespace(input_ids=[[self._id(each) for each in text] for text in texts])

    def decode(self, ids: Sequence[int], **_: object) -> str:
        return "".join(map(chr, ids))

    def _id(self, letter: str) -> int:
        return ord(letter.lower()) if letter.isascii() else self.unk_token_id


@pytest.fixture
def letters() -> Texts:
    return Texts(Letters())


def own_recipe(
    world: TinyWorld,
    folder: Path,
    questions: dict[int, str],
    answer: str | None = None,
    **more: Any,
) -> Recipe:
    """A recipe on a user's own files, in which some training and validation questions differ."""
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


def test_losses_are_counted_for_each_text(letters: Texts) -> None:
    losses = count_losses(
        ["q: ab", "q: ab", "q: abcd", "q: é", "q: "], letters, limit=6, prefix="q: "
    )
    assert (losses.texts, losses.longest, losses.cut) == (5, 8, 1)
    assert (losses.unknown, losses.unknown_text, losses.blank) == (1, "q: é", 1)
    said = losses.describe("prompts", cut="are cut")
    assert said is not None
    assert said.startswith("1 of 5 prompts exceed 6 tokens and are cut (the longest has 8); 1 of 5")
    assert count_losses(["ab"], letters, limit=3).describe("prompts", cut="are cut") is None


def test_listed_answers_that_cannot_be_told_apart_or_spelled_are_counted(letters: Texts) -> None:
    losses = list_losses(["red", "Red", "é", "ü", "blue"], get_task("gqa"), letters, limit=4)
    assert (losses.texts, losses.cut, losses.unknown) == (5, 1, 2)
    assert (losses.altered, losses.altered_text) == (1, "Red")
    assert (losses.shared, losses.shared_text) == (2, "Red")
    people = list_losses(["Red"], get_task("vqa"), letters, limit=4)
    assert people.altered == 0, "case makes no difference to VQA's rules"


@pytest.mark.parametrize("question", ["", " ", "\t\n", "\u3000"])
def test_questions_of_nothing_but_spaces_are_blank(question: str) -> None:
    texts = Texts(load_backbone("demo").tokenizer)
    asked = ["vqa: " + question, "vqa: ?"]
    assert count_losses(asked, texts, limit=20, prefix="vqa: ").blank == 1
    answers = ["", " ", "red"]
    assert list_losses(answers, get_task("vqa"), texts, limit=4).blank == 1, "a list may hold ''"


def test_long_texts_bring_no_warning_of_the_tokenizer_s_library(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    texts = Texts(load_backbone("demo").tokenizer)
    assert len(texts.encode("red " * 2000, 20)) == 20
    assert count_losses(["red " * 2000], texts, limit=20).longest > 2000
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_prompts_fit_by_default_up_to_a_bound(world: TinyWorld, tmp_path: Path) -> None:
    """A batch is padded to its longest prompt, so the bound is one of memory too."""
    recipe = own_recipe(world, tmp_path, LONG)
    reader = SimpleNamespace(
        missing=lambda _: [],
        read=lambda images: np.zeros((len(images), 4, 32), dtype=np.float16),
    )
    texts = Texts(load_backbone(str(world.backbone)).tokenizer)
    data = batch_task(recipe, load_examples(recipe, "vqa", reader), reader, texts)  # type: ignore[arg-type]
    prompts = [data.train[[(0, row)]].prompt_ids_UT for row in range(3)]
    assert [ids.shape[1] for ids in prompts] == [43, 8, DEFAULT_LIMIT]
    assert data.validation[[(0, 2)]].prompt_ids_UT.shape[1] == DEFAULT_LIMIT
    samples = text_samples({"vqa": data}, texts, seed=0)
    lengths = {next(samples)[0].shape[1] for _ in range(100)}
    assert lengths == {8, 43, DEFAULT_LIMIT}, "Fisher information reads what training reads"


def test_training_says_how_many_prompts_are_cut_and_to_what(
    world: TinyWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = {4: "is it 猫 ?"}
    recipe = own_recipe(world, tmp_path, LONG | unknown, training__epochs=1)
    train(recipe, tmp_path / "run")
    expected = (
        f"vqa train: 1 of 18 prompts exceed {DEFAULT_LIMIT} tokens and are cut (the longest has "
        "607); 1 of 18 prompts contain unknown characters, such as 'vqa: is it 猫 ?'. Raise "
        "data.max_prompt_tokens.vqa to read more of them"
    )
    assert expected in logged(tmp_path / "run")
    assert expected in caplog.messages, "the console shows what the log keeps"
    assert "vqa val: 1 of 6 prompts exceed" in logged(tmp_path / "run")


def test_nothing_is_said_on_the_console_where_all_fits(
    world: TinyWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="vl_lst")
    train(own_recipe(world, tmp_path, {}, training__epochs=1), tmp_path / "run")
    assert "vqa train: 18 prompts of at most 8 tokens; none exceeds" in logged(tmp_path / "run")
    shown = [record for record in caplog.records if not hasattr(record, "only_in_file")]
    assert not any("prompts" in record.getMessage() for record in shown)


def former_run(world: TinyWorld, tmp_path: Path, **settings: Any) -> Path:
    """A run of an earlier version, which cut prompts to 20 tokens and did not say so."""
    out = tmp_path / "former"
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


def test_an_earlier_run_answers_and_resumes_as_it_was_trained(
    world: TinyWorld, tmp_path: Path
) -> None:
    out = former_run(world, tmp_path)
    was = json.loads((out / "predictions" / "vqa-val.json").read_text())
    run = load_run(out)
    assert run.task().max_prompt_tokens == 20
    assert run.task("gqa", official=True).max_prompt_tokens == 20, "the head's, not the task's"
    evaluation = run.evaluate("val")
    assert [{"id": id_, "answer": given} for id_, given in evaluation.predictions.items()] == was
    assert evaluation.notes == (
        "2 of 6 prompts exceed 20 tokens and are cut, as in training (the longest has 607)",
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


def test_predict_says_that_its_question_is_cut(world: TinyWorld, tmp_path: Path) -> None:
    train(world.recipe(training__epochs=1, data__max_prompt_tokens=10), tmp_path / "run")
    run = load_run(tmp_path / "run")

    def notes(question: str) -> tuple[str, ...]:
        return run.predict(world.image("red"), question, encoder_weights=world.tower).notes

    assert notes("is it red?") == ()
    (cut,) = notes("is it " + "red " * 10 + "?")
    assert "found 16 tokens, expected at most 10" in cut
    (unknown,) = notes("is it 猫?")
    assert "does not know" in unknown


@pytest.mark.parametrize("constrained", [False, True])
def test_answers_that_can_never_be_generated_whole_are_counted(
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
        assert not (out / "checkpoints").exists(), "training does not begin in vain"
    else:
        train(recipe, out)
        (note,) = load_run(out).evaluate("val").notes
        assert note.startswith("6 of 6 answers exceed 5 tokens and can never be generated whole")
    expected = "vqa train: 18 of 18 answers exceed 5 tokens and can never be generated whole (the "
    assert f"{expected}longest has 6). Raise generation.max_length.vqa" in logged(out)
    assert ("vqa: 1 of 1 listed answers exceed 5" in logged(out)) == constrained


def test_a_larger_limit_of_generation_lets_longer_answers_train(world: TinyWorld) -> None:
    usual, raised = (
        task_of(world.recipe(generation__max_length=limit), "vqa").max_answer_tokens
        for limit in (5, 30)
    )
    assert (usual, raised) == (get_task("vqa").max_answer_tokens, 30)


def test_a_low_coverage_of_the_answer_list_is_warned_of_and_recorded(
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
    assert f"(2 answers; {answers}) holds 66.6 % of the training answers and 66.6 %" in warning
    assert "The others can never be given: take another list (data.answer_list.vqa)" in warning
    (note,) = load_run(out).evaluate("val").notes
    assert "holds 66.6 % of the right answers" in note


def test_own_examples_too_few_for_a_count_of_nine_classify(
    world: TinyWorld, tmp_path: Path
) -> None:
    recipe = own_recipe(world, tmp_path, {}, training__epochs=1, data__min_answer_count=None)
    out = tmp_path / "run"
    assert train(recipe, out).answer_coverage == {"vqa": 100.0}
    assert RunDirectory(out).card().answers["vqa"] == ["blue", "green", "red"]
    assert "counted from the training examples) holds 100.0 % of the training" in logged(out)
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


def test_captions_of_validation_are_references_and_not_counted(letters: Texts) -> None:
    caption, examples = get_task("caption"), [Example("1", ("i",), "caption:", (("long", 1.0),))]
    settings: Any = SimpleNamespace(
        head={"caption": "generate"}, generation=SimpleNamespace(max_length={"caption": 2})
    )
    table: Any = examples
    assert split_notes(settings, caption, table, letters, None, "caption") == ()
