"""Several tasks trained together: heads, checkpoints, scores and answers."""

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import pytest
import torch
from safetensors.torch import load_file
from tiny_mixture import TASKS, add_tasks, mixture_recipe, score_captions_without_java
from tiny_run import TinyWorld, tiny_world

from eval.errors import InputError
from tasks import get_task
from vl_lst.cli import main
from vl_lst.errors import CheckpointError
from vl_lst.models.initialisation.pruning import fisher_importance
from vl_lst.recipes import Recipe
from vl_lst.run import load_run
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.record import read_record
from vl_lst.training.session import train


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyWorld]:
    with (
        tiny_world(tmp_path_factory.mktemp("mixed")) as made,
        pytest.MonkeyPatch.context() as patch,
    ):
        score_captions_without_java(patch)
        yield made


@pytest.fixture(scope="module")
def recipe(world: TinyWorld) -> Recipe:
    return mixture_recipe(world, add_tasks(world), training__epochs=2)


@pytest.fixture(scope="module")
def finished(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    train(recipe, out)
    return out


def lines(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_the_record_has_the_score_of_each_task_and_their_mean(
    finished: Path, recipe: Recipe
) -> None:
    record = read_record(RunDirectory(finished))
    assert record is not None
    assert record.tasks == list(TASKS)
    primary = []
    for name in TASKS:
        task = get_task(name)
        metrics = record.scores[name][recipe.data.validation_split[name]]
        primary.append(task.metric.percent(metrics[task.primary_metric]))
        assert record.protocol[name]
    assert record.mean_score == pytest.approx(fmean(primary))
    assert record.best_step in (14, 28)
    assert record.best_step_of_task.keys() == set(TASKS)
    assert (record.steps, record.total_steps) == (28, 28)


def test_nlvr2_and_captions_are_scaled_to_percent() -> None:
    factors = {name: get_task(name).metric.factor for name in TASKS}
    assert factors == {"vqa": 1, "gqa": 1, "nlvr2": 100, "caption": 100}


def test_metrics_name_the_task(finished: Path) -> None:
    evaluations = [line for line in lines(finished) if "task" in line]
    assert [line["task"] for line in evaluations] == [*TASKS, *TASKS]
    means = [line["mean_percent"] for line in lines(finished) if "mean_percent" in line]
    assert len(means) == 2
    steps = [line for line in lines(finished) if "loss" in line]
    losses = {name for line in steps for name in line if name.startswith("loss_")}
    assert losses == {f"loss_{name}" for name in TASKS}


def test_each_task_has_its_own_head_and_best_checkpoint(finished: Path) -> None:
    folders = sorted(folder.name for folder in (finished / "checkpoints").iterdir())
    assert folders == ["best", *(f"best-{name}" for name in sorted(TASKS)), "last"]
    weights = load_file(finished / "checkpoints" / "best" / "model.safetensors")
    heads = {name.split(".")[1] for name in weights if name.startswith("classifiers.")}
    assert heads == {"vqa", "nlvr2"}
    assert weights["classifiers.nlvr2.layers.3.bias"].shape == (2,)
    assert "side.upsample.weight" in weights, "generative heads share the vocabulary output"
    answers = RunDirectory(finished).card().answers
    assert answers["nlvr2"] is not None
    assert sorted(answers["nlvr2"]) == ["false", "true"]
    assert answers["gqa"] is answers["caption"] is None


def test_every_task_can_be_evaluated_and_predicted(
    finished: Path, world: TinyWorld, recipe: Recipe
) -> None:
    record = read_record(RunDirectory(finished))
    assert record is not None
    run = load_run(finished)
    for name in TASKS:
        split = recipe.data.validation_split[name]
        evaluation = run.evaluate(split, task_name=name)
        assert evaluation.score is not None
        assert evaluation.score.metrics == record.scores[name][split]
        assert evaluation.num_trained_on == 0
        assert get_task(name).read_predictions(evaluation.path).keys() == (
            evaluation.predictions.keys()
        )
    assert (finished / "predictions" / "nlvr2-dev.csv").read_text().startswith("dev-0-0-0,")
    red, blue = world.image("red"), world.image("blue")
    weights = {"encoder_weights": world.encoder}
    assert run.predict(red, "is it red?", task_name="vqa", **weights).ranked
    both = run.predict([red, blue], "a red thing", task_name="nlvr2", **weights)
    assert both.answer in ("true", "false")
    assert run.predict(red, task_name="caption", **weights).ranked is None
    with pytest.raises(InputError, match="caption takes no question"):
        run.predict(red, "is it red?", task_name="caption", **weights)
    with pytest.raises(InputError, match="gqa takes a question"):
        run.predict(red, task_name="gqa", **weights)


def test_the_command_line_requires_a_task(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(finished), "--split", "dev"]) == 1
    assert "trained on vqa, gqa, nlvr2, caption; found no task" in capsys.readouterr().err
    arguments = ["evaluate", str(finished), "--task", "nlvr2", "--split", "dev"]
    assert main([*arguments, "--checkpoint", "best-nlvr2"]) == 0
    assert "nlvr2-dev.csv" in capsys.readouterr().out
    assert main([*arguments, "--checkpoint", "best-of-all"]) == 1
    assert "expected one of: best, last, best-vqa" in capsys.readouterr().err


def test_one_task_has_one_best_checkpoint(world: TinyWorld, tmp_path: Path) -> None:
    train(world.recipe(training__epochs=1), tmp_path / "run")
    with pytest.raises(CheckpointError, match="expected one of: best, last; did you mean best"):
        load_run(tmp_path / "run", checkpoint="best-vqa")


@pytest.mark.parametrize("after", [3, 14, 17, 25])
def test_an_interrupted_mixture_resumes_exactly(
    recipe: Recipe, finished: Path, tmp_path: Path, after: int
) -> None:
    def interrupt(done: int, total: int, note: str = "") -> None:
        if done == after and note.startswith("loss"):
            raise KeyboardInterrupt

    often = recipe.model_copy(
        update={"training": recipe.training.model_copy(update={"checkpoint_every_steps": 4})}
    )
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(often, out, report=interrupt)
    train(often, out, resume=True)
    for name in (
        "metrics.jsonl",
        *(f"checkpoints/{n}/model.safetensors" for n in ("best", "last")),
    ):
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name


def test_without_java_captions_are_refused_before_training(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eval._java import run_java

    monkeypatch.setattr("tasks.caption.run_java", run_java)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="cider: .*Java.*install"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def first_weights(world: TinyWorld, out: Path, initialisation: str) -> dict[str, torch.Tensor]:
    """Return the weights after one step with a learning rate close to 0."""
    recipe = world.recipe(
        head="generate",
        training__epochs=None,
        training__steps=1,
        optimizer__lr=1e-30,
        method__options__initialisation=initialisation,
        method__options__initialisation_samples=5,
    )
    train(recipe, out)
    return load_file(out / "checkpoints" / "last" / "model.safetensors")


def test_a_side_network_can_be_initialised_from_the_backbone(
    world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples: list[tuple[torch.Tensor, torch.Tensor]] = []

    def measured(backbone, pairs):  # type: ignore[no-untyped-def]
        samples.extend(pairs)
        return fisher_importance(backbone, samples)

    monkeypatch.setattr("vl_lst.methods.lst.fisher_importance", measured)
    kinds = ("random", "magnitude", "fisher")
    weights = {kind: first_weights(world, tmp_path / kind, kind) for kind in kinds}
    name = "side.encoder.blocks.0.self_attention.qkv"
    assert not any(
        torch.equal(weights[one][name], weights[other][name])
        for one, other in (kinds[:2], kinds[1:], kinds[::2])
    )
    rungs = [weights[kind]["side.encoder.rungs.weight"] for kind in kinds]
    assert torch.equal(rungs[0], rungs[1]), "rungs are initialised at random"
    assert len(samples) == 5
    for prompt_ids, label_ids in samples:
        assert prompt_ids.shape[0] == label_ids.shape[0] == 1
        assert prompt_ids.ndim == label_ids.ndim == 2
        assert 0 not in prompt_ids, "samples are not padded"
        assert label_ids[0, -1] == 1

    def never(*_: object) -> None:
        raise AssertionError("initialised again")

    monkeypatch.setattr("vl_lst.methods.lst.initialise_side_network", never)
    train(RunDirectory(tmp_path / "fisher").recipe(), tmp_path / "fisher", resume=True)


@pytest.mark.parametrize("beams", [1, 2])
def test_generated_answers_can_be_constrained_to_the_list(
    world: TinyWorld, tmp_path: Path, beams: int
) -> None:
    recipe = world.recipe(
        head="generate",
        training__epochs=1,
        generation__beams=beams,
        generation__constrain_to_answers=True,
    )
    train(recipe, tmp_path / "run")
    run = load_run(tmp_path / "run")
    answers = RunDirectory(tmp_path / "run").card().answers["vqa"]
    assert answers is not None
    assert set(run.evaluate("val2014").predictions.values()) <= set(answers)
    answer = run.predict(world.image("red"), "is it red?", encoder_weights=world.encoder)
    assert answer.answer in answers
    assert answer.ranked is None


def test_the_command_line_trains_several_tasks(
    world: TinyWorld, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = world.train_arguments(tmp_path / "run", "--features", str(recipe.features[-1]))
    arguments[arguments.index("vqa")] = "vqa,nlvr2"
    assert main([*arguments, "--set", "training.epochs=1"]) == 0
    printed = capsys.readouterr()
    assert "training vqa,nlvr2: " in printed.err
    assert "vqa val2014: accuracy" in printed.out
    assert "nlvr2 dev: accuracy 0." in printed.out
    assert "mean of the primary metrics in percent: " in printed.out
