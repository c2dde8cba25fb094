"""`vl-lst evaluate --zero-shot`: a backbone as it is, in a folder like that of a trained run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from tiny_run import TinyWorld
from transformers import AutoTokenizer, T5ForConditionalGeneration

from eval.run_files import RunRecord
from tasks import get_task
from vl_lst.cli import main

Evaluate = Callable[..., int]
PROMPT = "vqa : {} it ?"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "zero-shot"


@pytest.fixture
def evaluate(world: TinyWorld, run: Path) -> Evaluate:
    """Function that evaluates a split with the tiny T5 and returns the exit code."""

    def call(*more: str, split: str = "val2014", new: bool = True) -> int:
        settings = ["--backbone", str(world.backbone), "--data-root", str(world.root)]
        settings += ["--task", "vqa", "--prompt", PROMPT, "--set", "training.device=cpu"]
        settings += ["--backbone-precision", "fp32"]  # the same on every machine
        arguments = ["evaluate", str(run), "--zero-shot", "--split", split]
        return main([*arguments, *(settings if new else []), *more])

    return call


def record_of(run: Path) -> RunRecord:
    return RunRecord.model_validate_json((run / "record.json").read_text())


def stock_answers(world: TinyWorld, prompts: dict[str, str], **settings: object) -> dict[str, str]:
    """Return the answers of the Hugging Face model itself, by example id."""
    model = T5ForConditionalGeneration.from_pretrained(world.backbone).eval()
    tokenizer = AutoTokenizer.from_pretrained(world.backbone)
    answers = {}
    for name, prompt in prompts.items():
        ids = [*tokenizer(prompt, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        generated = model.generate(torch.tensor([ids]), max_new_tokens=10, **settings)
        answers[name] = tokenizer.decode(generated[0], skip_special_tokens=True).strip()
    return answers


@pytest.mark.parametrize("beams", [1, 3])
def test_answers_are_those_of_the_stock_model(
    world: TinyWorld, run: Path, evaluate: Evaluate, beams: int
) -> None:
    assert evaluate("--set", f"generation.beams={beams}") == 0
    task = get_task("vqa")
    prompts = {
        each.id: PROMPT.replace("{}", each.prompt)
        for each in task.read_examples(world.root, "val2014")
    }
    found = task.read_predictions(run / "predictions" / "vqa-val2014.json")
    assert found == stock_answers(world, prompts, num_beams=beams, do_sample=False)


def test_a_short_option_is_recorded_like_a_setting(run: Path, evaluate: Evaluate) -> None:
    assert evaluate("--precision", "bf16") == 0
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert recipe["training"]["precision"] == "bf16"


def test_the_folder_is_like_that_of_a_trained_run(run: Path, evaluate: Evaluate) -> None:
    """What was not measured is null, and nothing says that anything was trained."""
    assert evaluate() == 0
    record = record_of(run)
    assert (record.method, record.status, record.tasks) == ("zero-shot", "success", ["vqa"])
    assert record.parameters is not None
    assert (record.parameters.trainable, record.parameters.percent_of_total) == (0, 0)
    assert record.memory_bytes is not None
    assert record.memory_bytes.parameters
    assert record.memory_bytes.saved_for_backward is record.memory_bytes.gradients is None
    assert record.steps is record.total_steps is record.best_step is None
    assert record.feature_spec_sha256 is None
    assert set(record.scores["vqa"]) == {"val2014"}
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert recipe == record.recipe
    assert recipe["data"]["prompt_prefix"] == {"vqa": "vqa : "}
    assert recipe["data"]["prompt_suffix"] == {"vqa": " it ?"}
    assert not {"optimizer", "visual", "head"} & recipe.keys()
    assert not {"epochs", "steps", "batch_size", "seed"} & recipe["training"].keys()
    assert {path.name for path in run.iterdir()} == {
        *("recipe.yaml", "model.json", "record.json", "predictions")
    }


def test_another_split_and_task_are_added(
    world: TinyWorld, run: Path, evaluate: Evaluate, tmp_path: Path
) -> None:
    """The settings of the run are kept, so only the split has to be given again."""
    assert evaluate() == 0
    assert evaluate(split="train2014", new=False) == 0
    assert main(["evaluate", str(run), "--split", "train2014"]) == 0, "also without --zero-shot"
    own = tmp_path / "own.jsonl"
    own.write_text('{"id": "1", "images": ["i"], "prompt": "is it red ?", "answers": ["yes"]}\n')
    arguments = ["evaluate", str(run), "--zero-shot", "--file", str(own)]
    assert main([*arguments, "--task", "gqa", "--prompt", "what {}"]) == 0
    record = record_of(run)
    assert {task: set(splits) for task, splits in record.scores.items()} == {
        "vqa": {"val2014", "train2014"},
        "gqa": {"own.jsonl"},
    }
    assert record.recipe["data"]["prompt_prefix"] == {"vqa": "vqa : ", "gqa": "what "}
    assert record.recipe["data"]["validation_split"]["vqa"] == "val2014"


def test_the_first_split_is_the_one_that_leaderboards_compare(
    run: Path, evaluate: Evaluate
) -> None:
    assert evaluate(split="train2014") == 0
    assert record_of(run).validation_split("vqa") == "train2014"
    digests = json.loads((run / "model.json").read_text())["tasks"]["vqa"]
    assert digests["validation_examples_sha256"]
    assert digests["train_examples"] is digests["train_examples_sha256"] is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--prompt", "{} ?"), "data.prompt_prefix.vqa: 'vqa : ' in the run, '' given"),
        (("--set", "generation.beams=2"), "generation.beams.vqa: 1 in the run, 2 given"),
        (("--backbone-precision", "bf16"), "backbone.precision: 'fp32' in the run, 'bf16' given"),
    ],
)
def test_other_settings_are_refused(
    run: Path,
    evaluate: Evaluate,
    more: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert evaluate() == 0
    before = (run / "record.json").read_bytes()
    assert evaluate(*more, split="train2014", new=False) == 1
    assert message in capsys.readouterr().err
    assert (run / "record.json").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--prompt", "no place"), "has {} 0 times: expected exactly one"),
        (("--prompt", "{} {}"), "has {} 2 times: expected exactly one"),
        (("--task", "caption", "--prompt", "a {}"), "has {} 1 times: expected none"),
        (("--set", "optimizer.lr=1"), "optimizer.lr: found a value, expected none"),
        (("--set", "generation.beam=1"), "no such field; did you mean generation.beams"),
        (("--device", "cpu", "--set", "training.device=cpu"), "which set the same field"),
        (("--set", "backbone.precision=bf16"), "found --backbone-precision and --set"),
        (("--set", "data={root: elsewhere}"), "found --data-root and --set data"),
        (
            ("--prompt", "{}?", "--set", "data.prompt_suffix.vqa=!"),
            "found --prompt and --set data.prompt_suffix.vqa, which set the same field",
        ),
        (("--prompt", "{}?", "--set", "data.prompt_prefix=Q"), "found --prompt and --set"),
        (("--set", "task=gqa"), "found --task and --set task"),
        (("--backbone", "/nowhere"), "cannot load the backbone"),
    ],
)
def test_bad_settings_are_refused_and_leave_nothing_behind(
    run: Path,
    evaluate: Evaluate,
    more: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert evaluate(*more) == 1
    assert message in capsys.readouterr().err
    assert not run.exists()


def test_a_report_does_not_replace_a_file_of_the_run(
    run: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("--json", str(run / "record.json")) == 1
    assert "which is part of the run in" in capsys.readouterr().err
    assert not run.exists()


def test_a_file_in_place_of_the_folder_is_refused(
    run: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    run.write_text("notes")
    assert evaluate() == 1
    assert "expected a folder" in capsys.readouterr().err
    run.unlink()
    run.mkdir()
    (run / "notes.txt").write_text("notes")
    assert evaluate() == 1
    assert "is not empty and holds no run: expected a run, or a new" in capsys.readouterr().err


def test_a_text_only_backbone_takes_no_features(
    world: TinyWorld, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("--features", str(world.validation_features)) == 1
    assert "reads the text alone: found --features, expected none" in capsys.readouterr().err


def test_the_folder_of_another_run_is_refused(
    trained: Path, world: TinyWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", str(trained), "--zero-shot", "--split", "val2014"]
    assert main([*arguments, "--task", "vqa", "--backbone", str(world.backbone)]) == 1
    assert "holds a run of the method lst: expected a zero-shot run" in capsys.readouterr().err


def test_a_zero_shot_run_cannot_be_trained(
    run: Path, world: TinyWorld, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate() == 0
    pointer = "zero-shot is no method to train with, since it trains nothing: use `vl-lst evaluate"
    assert main(["train", "--out", str(run), "--resume"]) == 1
    assert pointer in capsys.readouterr().err
    assert main(world.train_arguments(run.parent / "new", "--method", "zero-shot")) == 1
    assert pointer in capsys.readouterr().err


def test_options_of_a_run_without_training_need_zero_shot(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", str(trained), "--split", "val2014"]
    assert main([*arguments, "--prompt", "{}"]) == 2
    assert "--prompt requires --zero-shot" in capsys.readouterr().err
    assert main([*arguments, "--zero-shot", "--checkpoint", "last"]) == 2


def test_answers_can_be_constrained_to_a_list(
    run: Path, evaluate: Evaluate, tmp_path: Path
) -> None:
    listed = tmp_path / "answers.json"
    listed.write_text(json.dumps(["red", "blue"]))
    given = ["--set", "generation.constrain_to_answers=true"]
    assert evaluate(*given, "--set", f"data.answer_list={listed}") == 0
    predictions = json.loads((run / "predictions" / "vqa-val2014.json").read_text())
    assert {each["answer"] for each in predictions} <= {"red", "blue"}
    listed.unlink()
    assert evaluate(split="train2014", new=False) == 0, "the list is part of the run"


def test_a_killed_first_evaluation_does_not_block_the_folder(run: Path, evaluate: Evaluate) -> None:
    assert evaluate() == 0
    (run / "record.json").unlink()
    assert evaluate("--set", "generation.beams=2") == 0
    assert record_of(run).recipe["generation"]["beams"] == {"vqa": 2}


def test_a_split_without_labels_gives_a_record_without_scores(
    run: Path, evaluate: Evaluate
) -> None:
    assert evaluate("--submission", split="test2015") == 0
    assert record_of(run).scores == {}
    assert list((run / "submission").iterdir())


def test_predict_answers_from_the_text_alone(
    run: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str], world: TinyWorld
) -> None:
    from vl_lst.run import load_run

    assert evaluate() == 0
    answer = load_run(run).predict(question="is it red ?").answer
    prompts = {"": PROMPT.replace("{}", "is it red ?")}
    assert answer == stock_answers(world, prompts, do_sample=False)[""]
    capsys.readouterr()
    assert main(["predict", str(run), "--question", "is it red ?"]) == 0
    assert capsys.readouterr().out.strip() == answer
    assert main(["predict", str(run), "--question", "is it red ?", "--image", "i.png"]) == 1
    assert "found 1, expected 0, since the model reads the text alone" in capsys.readouterr().err
