"""Training on text alone, and on a mixture of tasks with and without images."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_image_reader import with_image_reader
from tiny_run import TinyWorld, tiny_world
from tiny_t5_folder import write_t5
from tiny_texts import WORDS, TextWorld, write_text_tasks

from eval.errors import InputError
from tasks import Example, get_task
from vl_lst.data.examples import examples_digest, load_examples
from vl_lst.data.targets import AnswerValues, require_numbers
from vl_lst.errors import CheckpointError, RecipeError
from vl_lst.models.batch import Batch
from vl_lst.recipes import Recipe, resolve_recipe
from vl_lst.run import load_run
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.record import read_record
from vl_lst.training.session import train
from vl_lst.training.trainer import Trainer

FILES = ("metrics.jsonl", "checkpoints/last/model.safetensors", "recipe.yaml")
MIXTURE = ("vqa", "rte", "stsb")
SPLITS = {"vqa": "val2014", "rte": "dev", "stsb": "dev"}


def interrupt_after(steps: int) -> Any:
    def report(done: int, total: int, note: str = "") -> None:
        if done == steps and note.startswith("loss"):
            raise KeyboardInterrupt

    return report


def require_exact_resume(recipe: Recipe, folder: Path, *, after: int) -> Path:
    """Train straight and with an interruption; compare the bytes, and return the straight run."""
    whole, parts = folder / "whole", folder / "parts"
    train(recipe, whole)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, parts, report=interrupt_after(after))
    train(recipe, parts, resume=True)
    for name in FILES:
        assert (whole / name).read_bytes() == (parts / name).read_bytes(), name
    return whole


@pytest.mark.parametrize(
    ("task", "head", "method"),
    [
        ("rte", "generate", "lst"),
        ("rte", "classify", "lst"),
        ("stsb", "regress", "lst"),
        ("stsb", "generate", "full"),
        ("stsb", "regress", "side"),
    ],
)
def test_a_run_on_text_alone_resumes_exactly_and_has_no_trace_of_images(
    text_world: TextWorld, tmp_path: Path, task: str, head: str, method: str
) -> None:
    options = {"reduction": 2} if method != "full" else {}
    recipe = text_world.recipe(
        task,
        head=head,
        method={"name": method, "options": options},
        training__checkpoint_every_steps=2,
    )
    assert recipe.features == ()
    out = require_exact_resume(recipe, tmp_path, after=5)
    card = RunDirectory(out).card()
    record = read_record(RunDirectory(out))
    assert record is not None
    assert card.feature_spec is record.feature_spec_sha256 is None
    weights = load_file(out / "checkpoints" / "last" / "model.safetensors")
    assert not any(name.startswith("visual.") for name in weights)
    assert any(name.startswith("regressors.stsb.") for name in weights) == (head == "regress")
    assert record.memory_bytes is not None
    assert "visual embedding" not in (record.memory_bytes.saved_for_backward or {})
    assert (card.answers[task] is not None) == (head == "classify")
    assert record.answer_coverage.keys() == ({task} if head == "classify" else set())
    run = load_run(out)
    evaluation = run.evaluate("dev")
    assert evaluation.score is not None
    assert evaluation.score.metrics == record.scores[task]["dev"]
    assert evaluation.num_trained_on == 0, "line numbers of different splits are not compared"
    assert evaluation.num_selected_on is None, "a score on the validation split is known as one"
    seen = run.evaluate("train")
    assert (seen.num_trained_on, seen.num_selected_on) == (24, 0)
    half = run.evaluate("paper_test")
    assert (half.num_trained_on, half.num_selected_on) == (0, 6)
    last = load_run(out, checkpoint="last").evaluate("paper_test")
    assert last.num_selected_on is None
    example = get_task(task).load(text_world.root, "dev")[0]
    first, _, second = example.text.removeprefix("sentence1: ").partition(" sentence2: ")
    answer = run.predict(question=first, text2=second)
    assert answer.answer == evaluation.predictions[example.id]
    if head == "regress":
        assert 0 <= float(answer.answer) <= 5
        assert len(answer.answer.partition(".")[2]) == 3


@pytest.mark.parametrize(
    ("old", "new"), [("a red cup", "a red hat"), ("entailment\n", "not_entailment\n")]
)
def test_changed_texts_and_answers_of_the_same_ids_are_not_resumed(
    text_world: TextWorld, tmp_path: Path, old: str, new: str
) -> None:
    root = shutil.copytree(text_world.root, tmp_path / "data")
    recipe = text_world.recipe(data__root=str(root))
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", report=interrupt_after(2))
    path = root / "glue" / "RTE" / "train.tsv"
    lines = path.read_text()
    path.write_text(lines.replace(f"\t{old}", f"\t{new}", 1))
    assert path.read_text() != lines
    with pytest.raises(CheckpointError, match="the data of rte have changed"):
        train(recipe, tmp_path / "run", resume=True)


def test_the_digest_of_texts_does_not_depend_on_the_prefix_of_prompts(
    text_world: TextWorld,
) -> None:
    """Methods whose prompts have another prefix are compared."""
    task = get_task("rte")
    other = replace(task, prompt_prefix="")
    digests = [
        examples_digest(each, each.load(text_world.root, split))
        for each, split in ((task, "train"), (other, "train"), (task, "dev"))
    ]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("precision", ["bf16", "int8", "nf4"])
def test_numbers_are_learned_beside_a_backbone_of_low_precision(
    text_world: TextWorld, tmp_path: Path, precision: str
) -> None:
    recipe = text_world.recipe(
        "stsb",
        head="regress",
        backbone__precision=precision,
        training__precision="bf16",
        training__epochs=1,
    )
    train(recipe, tmp_path / "run")
    assert load_run(tmp_path / "run").evaluate("dev").score is not None


def test_numbers_are_learned(text_world: TextWorld, tmp_path: Path) -> None:
    """The training pairs, which a ladder next to a random backbone can learn by heart."""
    recipe = text_world.recipe(
        "stsb",
        head="regress",
        data__validation_split="train",
        method__options__dropout=0.0,
        training__epochs=40,
        training__evaluate_every=40,
    )
    train(recipe, tmp_path / "run")
    record = read_record(RunDirectory(tmp_path / "run"))
    assert record is not None
    pearson = record.scores["stsb"]["train"]["pearson"]
    assert isinstance(pearson, float)
    assert pearson > 80


def own_numbers(folder: Path, answer: str) -> dict[str, object]:
    """Write own examples, one of which has this answer; return the overrides of a recipe."""
    lines = [
        json.dumps({"id": n, "prompt": ["a cup", "a hat"], "answers": [text]})
        for n, text in enumerate(("2.5", answer))
    ]
    path = folder / "own.jsonl"
    path.write_text("\n".join(lines) + "\n")
    files = ("data__train_file", "data__validation_file")
    return {"data__root": None, "head": "regress", **dict.fromkeys(files, str(path))}


@pytest.mark.parametrize("answer", ["five", "nan", "inf", "5.1", "-0.5"])
def test_own_answers_that_the_head_cannot_give_are_refused_before_training(
    text_world: TextWorld, tmp_path: Path, answer: str
) -> None:
    recipe = text_world.recipe("stsb", **own_numbers(tmp_path, answer))
    with pytest.raises(InputError, match=r"own.jsonl.*line 2 .*expected a number from 0 to 5$"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "model.json").exists()


@pytest.mark.parametrize("answer", ["5", "0.0", "3.75"])
def test_own_answers_within_the_range_are_learned_as_they_are(
    text_world: TextWorld, tmp_path: Path, answer: str
) -> None:
    recipe = text_world.recipe("stsb", **own_numbers(tmp_path, answer))
    examples = load_examples(recipe, "stsb", None)
    assert [each.targets for each in examples.train] == [(("2.5", 1.0),), ((answer, 1.0),)]


@pytest.mark.parametrize("answer", ["five", "nan", "inf", "5.1", "-0.5"])
def test_answers_of_any_reader_are_checked(answer: str) -> None:
    """Also of a task whose own reader does not check them."""
    examples = [
        Example("1", (), "a", ()),
        Example("2", (), "b", (("1e0", 0.3), ("4.5", 0.7))),
        Example("3", (), "c", ((answer, 1.0),)),
    ]
    require_numbers("train", examples[:2], (0.0, 5.0))
    expected = f"example '3' of train has the answer '{answer}', .* a number from 0 to 5, or"
    with pytest.raises(InputError, match=expected):
        require_numbers("train", examples, (0.0, 5.0))
    values_B = AnswerValues().fields(examples[1:2], [(0, 0)], torch.tensor([0]))["values_B"]
    assert values_B.tolist() == [4.5], "the answer with the highest weight"


@pytest.fixture(scope="module")
def mixed_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyWorld]:
    folder = tmp_path_factory.mktemp("mixed")
    with tiny_world(folder) as world:
        write_text_tasks(world.root)
        yield world


def mixture(world: TinyWorld, backbone: Path | None = None, **overrides: object) -> Recipe:
    fields = world.recipe().model_dump(mode="json") | {"task": ",".join(MIXTURE)}
    settings = {
        "head": "classify",
        "training__batch_size": dict.fromkeys(MIXTURE, 8),
        "training__epochs": 1,
        "training__checkpoint_every_steps": 3,
        "backbone__name": str(backbone or world.backbone),
        **overrides,
    }
    return resolve_recipe(fields, [(k.replace("__", "."), v) for k, v in settings.items()])


@pytest.fixture(scope="module")
def finished(
    mixed_world: TinyWorld, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Batch]]:
    """A finished mixture, and the batches of its steps."""
    folder = tmp_path_factory.mktemp("mixture")
    backbone = write_t5(folder / "t5", WORDS)
    batches: list[Batch] = []
    take_step = Trainer._train_step

    def step(self: Trainer, batch: Batch) -> None:
        batches.append(batch)
        take_step(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_train_step", step)
        train(mixture(mixed_world, backbone), folder / "whole")
    return folder / "whole", batches


def test_a_head_for_all_is_one_that_needs_no_decoder_where_a_task_has_one(
    mixed_world: TinyWorld,
) -> None:
    assert mixture(mixed_world).head == {"vqa": "classify", "rte": "classify", "stsb": "regress"}
    written = mixture(mixed_world, head="generate").head
    assert set(written.values()) == {"generate"}


def test_batches_of_a_mixture_have_images_if_their_task_has(
    finished: tuple[Path, list[Batch]],
) -> None:
    _, batches = finished
    counts = {name: sum(each.task == name for each in batches) for name in MIXTURE}
    assert counts == {"vqa": 5, "rte": 3, "stsb": 3}
    assert [each.features_BINF is not None for each in batches] == [
        each.task == "vqa" for each in batches
    ]
    assert {len(each) for each in batches if each.task != "vqa"} == {8}


def test_every_task_of_a_mixture_is_evaluated_and_predicted(
    finished: tuple[Path, list[Batch]], mixed_world: TinyWorld
) -> None:
    out, _ = finished
    record, run = read_record(RunDirectory(out)), load_run(out)
    assert record is not None
    for name, split in SPLITS.items():
        evaluation = run.evaluate(split, task_name=name)
        assert evaluation.score is not None
        assert evaluation.score.metrics == record.scores[name][split]
    texts = {"question": "a red cup", "text2": "a red hat"}
    assert run.predict(task_name="rte", **texts).ranked
    assert run.predict(task_name="stsb", **texts).ranked is None
    weights = {"encoder_weights": mixed_world.encoder}
    assert run.predict(mixed_world.image("red"), "is it red?", task_name="vqa", **weights).answer
    with pytest.raises(InputError, match="found 1, expected 0"):
        run.predict(mixed_world.image("red"), task_name="rte", **texts)
    with pytest.raises(InputError, match="vqa takes a question; found"):
        run.predict(mixed_world.image("red"), task_name="vqa", **texts)
    with pytest.raises(InputError, match="rte takes a text and a second text; found text 'a'"):
        run.predict(question="a", task_name="rte")


@pytest.mark.parametrize("after", [2, 7])
def test_a_mixture_resumes_exactly(
    finished: tuple[Path, list[Batch]], tmp_path: Path, after: int
) -> None:
    out, _ = finished
    recipe = RunDirectory(out).recipe()
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", report=interrupt_after(after))
    train(recipe, tmp_path / "run", resume=True)
    for name in FILES:
        assert (out / name).read_bytes() == (tmp_path / "run" / name).read_bytes(), name


def test_the_text_of_a_blind_mixture_is_read(mixed_world: TinyWorld, tmp_path: Path) -> None:
    recipe = mixture(mixed_world, data__blind=True)
    train(recipe, tmp_path / "run")
    run = load_run(tmp_path / "run")
    values = {
        run.predict(question=f"a {color} thing", text2="a red thing", task_name="stsb").answer
        for color in ("red", "green", "blue")
    }
    assert len(values) == 3


@pytest.mark.parametrize("method", ["lst", "full"])
def test_a_backbone_that_reads_images_trains_on_a_mixture(
    mixed_world: TinyWorld, tmp_path: Path, method: str
) -> None:
    world = with_image_reader(mixed_world, tmp_path / "reader")
    options = {"reduction": 2} if method == "lst" else {}
    recipe = mixture(world, visual__pooled_grid=None, method={"name": method, "options": options})
    out = require_exact_resume(recipe, tmp_path, after=4)
    run = load_run(out)
    for name, split in SPLITS.items():
        assert run.evaluate(split, task_name=name).score is not None


def test_mixtures_without_features_name_the_tasks_that_need_them(mixed_world: TinyWorld) -> None:
    with pytest.raises(RecipeError, match=r"--features, since examples have images \(vqa\)$"):
        mixture(mixed_world, features=[])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"features": ["a.h5"]}, "features: found .*examples of rte have no images"),
        ({"data__blind": True}, "data.blind: found true; examples of rte have no images"),
        ({"visual__pooled_grid": 3}, "visual.pooled_grid: found 3; the examples have no images"),
        ({"visual__embedding": "learned"}, "visual.embedding: found learned; the examples have no"),
    ],
)
def test_settings_of_images_are_refused_for_text_alone(
    text_world: TextWorld, tmp_path: Path, settings: dict[str, object], expected: str
) -> None:
    with pytest.raises(RecipeError, match=expected):
        train(text_world.recipe(**settings), tmp_path / "run")
