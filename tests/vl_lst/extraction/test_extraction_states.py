"""States extracted into a file, and runs that train on them without the backbone."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
import torch
from kill_at_call import in_child
from killed_training import main as train_until
from safetensors.torch import load_file, save_file
from tiny_run import TinyWorld
from tiny_texts import TextWorld

from feature_extraction.errors import FeatureError, StoreError
from feature_extraction.store import open_features
from feature_extraction.store.hdf5_text import write_text_attribute
from feature_extraction.store.outputs import partial_folder
from feature_extraction.store.shards import Shard
from vl_lst.backbones.states.index import join_states
from vl_lst.backbones.states.reader import StateReader
from vl_lst.backbones.states.table import StateTable, Texts
from vl_lst.backbones.stored import StoredBackbone
from vl_lst.data.examples import load_examples
from vl_lst.data.stored_texts import stored_states
from vl_lst.data.task_data import build_task_data
from vl_lst.errors import CheckpointError, ModelError, RecipeError
from vl_lst.extraction import extract_states
from vl_lst.models.batch import Batch
from vl_lst.recipes import Recipe, dump_recipe
from vl_lst.recipes.building import BuiltModel, build_model
from vl_lst.run import load_run
from vl_lst.training.session import train

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)
FP32 = {"training__precision": "fp32", "backbone__precision": "fp32"}


def losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / "last" / "model.safetensors")


def first_batch(recipe: Recipe, rows: list[int]) -> tuple[BuiltModel, Batch]:
    """A model, and a batch of its training examples."""
    reader = None
    if recipe.features:
        reader = open_features(recipe.features)
    name = recipe.tasks[0]
    examples = load_examples(recipe, name, reader)
    built = build_model(recipe, reader.spec if reader else None, {name: examples.answers})
    data = build_task_data(
        recipe,
        examples,
        reader,
        built.tokenizer,
        backbone_reads_images=built.model.backbone_reads_images,
        states=stored_states(recipe, built, examples.task),
    )
    return built, data.train[[(0, row) for row in rows]]


@pytest.fixture(scope="module")
def state_files(
    world: TinyWorld,
    text_world: TextWorld,
    reader_world: TinyWorld,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Files of states by the name of a case in `recipe_of`."""
    folder = tmp_path_factory.mktemp("states")
    files = {}
    worlds = {"vqa": world, "images": reader_world, "text": text_world}
    for case in ("vqa classify", "vqa generate", "images classify", "images generate", "text stsb"):
        files[case] = folder / f"{case.replace(' ', '-')}.h5"
        extract_states(recipe_of(worlds, case), files[case], batch_size=4)
    return files


def recipe_of(worlds: dict[str, TinyWorld | TextWorld], case: str, **more: object) -> Recipe:
    """The recipe of a case, such as `vqa classify`."""
    name, head = case.split()
    if name == "text":
        return worlds[name].recipe(task=head, head="regress", **FP32, **more)
    return worlds[name].recipe(head=head, **FP32, **more)


@pytest.fixture(scope="module")
def worlds(
    world: TinyWorld, text_world: TextWorld, reader_world: TinyWorld
) -> dict[str, TinyWorld | TextWorld]:
    return {"vqa": world, "images": reader_world, "text": text_world}


@pytest.mark.parametrize(
    "case", ["vqa classify", "vqa generate", "images classify", "images generate", "text stsb"]
)
def test_a_batch_of_equal_lengths_gives_the_same_bits(
    worlds: dict[str, TinyWorld | TextWorld], state_files: dict[str, Path], case: str
) -> None:
    """And one of several lengths the same up to rounding, since padding changes attention sums."""
    for rows, is_exact in (([0, 2, 4, 6], True), ([0, 1, 2, 3, 4], False)):
        results = []
        for more in ({}, {"states": str(state_files[case])}):
            built, batch = first_batch(recipe_of(worlds, case, **more), rows)
            assert (batch.states is not None) == bool(more)
            loss = built.model.eval()(batch)
            loss.backward()
            gradients = [p.grad for p in built.trainable.values()]
            results.append((loss.detach(), gradients))
        assert isinstance(built.model.backbone, StoredBackbone)
        (loss, gradients), (stored_loss, stored_gradients) = results
        if is_exact:
            assert len({*(batch.prompt_ids_UT != 0).sum(1).tolist()}) == 1
            assert batch.labels_BL is None or (batch.labels_BL >= 0).all()
            assert torch.equal(loss, stored_loss)
            assert all(map(torch.equal, gradients, stored_gradients))
        torch.testing.assert_close(stored_loss, loss, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(stored_gradients, gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["vqa classify", "images generate", "text stsb"])
def test_a_run_on_states_ends_like_one_with_the_backbone(
    worlds: dict[str, TinyWorld | TextWorld],
    state_files: dict[str, Path],
    tmp_path: Path,
    case: str,
) -> None:
    # At a high learning rate, Adam turns the last bits of gradients near zero into whole steps.
    slow = {"optimizer__lr": 1e-4}
    expected = train(recipe_of(worlds, case, **slow), tmp_path / "backbone")
    recipe = recipe_of(worlds, case, states=str(state_files[case]), training__workers=2, **slow)
    record = train(recipe, tmp_path / "states")
    assert losses(tmp_path / "states") == pytest.approx(losses(tmp_path / "backbone"), rel=1e-4)
    assert record.scores.keys() == expected.scores.keys()
    assert record.parameters == expected.parameters
    assert record.backbone_fingerprint == expected.backbone_fingerprint
    assert record.states_sha256
    assert expected.states_sha256 is None
    saved, memory = record.memory_bytes, expected.memory_bytes
    assert saved is not None
    assert memory is not None
    assert saved.saved_for_backward == memory.saved_for_backward
    assert saved.parameters < memory.parameters
    weights = tensors(tmp_path / "states")
    torch.testing.assert_close(weights, tensors(tmp_path / "backbone"), rtol=1e-3, atol=1e-3)


def without_weights(world: TinyWorld, folder: Path) -> TinyWorld:
    """The world with a copy of its backbone."""
    return replace(world, backbone=shutil.copytree(world.backbone, folder))


def test_a_classifier_trains_and_is_evaluated_after_the_weights_are_taken_away(
    world: TinyWorld, tmp_path: Path
) -> None:
    moved = without_weights(world, tmp_path / "t5")
    extract_states(moved.recipe(head="classify", **FP32), tmp_path / "states.h5")
    (moved.backbone / "model.safetensors").unlink()
    recipe = moved.recipe(head="classify", states=str(tmp_path / "states.h5"), **FP32)
    record = train(recipe, tmp_path / "run")
    evaluation = load_run(tmp_path / "run").evaluate("val2014")
    assert evaluation.score is not None
    assert evaluation.score.metrics["accuracy"] == record.scores["vqa"]["val2014"]["accuracy"]
    shutil.copy(world.backbone / "model.safetensors", moved.backbone)
    (tmp_path / "states.h5").unlink()
    again = load_run(tmp_path / "run").evaluate("val2014")
    assert again.predictions == evaluation.predictions


def test_evaluation_of_other_texts_loads_the_backbone_and_says_so(
    world: TinyWorld,
    state_files: dict[str, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recipe = world.recipe(states=str(state_files["vqa classify"]), training__steps=1, **FP32)
    train(recipe, tmp_path / "run")
    run = load_run(tmp_path / "run")
    own = tmp_path / "own.jsonl"
    example = {
        "id": "1",
        "images": ["COCO_val2014_000000000101"],
        "prompt": "is it blue?",
        "answers": ["yes"],
    }
    own.write_text(json.dumps(example) + "\n")
    caplog.set_level("INFO")
    run.evaluate(own)
    assert "loading the backbone" in caplog.text
    assert "lacks states of texts of vqa" in caplog.text
    caplog.clear()
    answer = load_run(tmp_path / "run").predict(
        world.image("red"), "is it red?", encoder_weights=world.encoder
    )
    assert answer.answer
    assert "a new question has no states in a file" in caplog.text


def test_an_initialisation_from_weights_loads_the_backbone_once(
    world: TinyWorld, state_files: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"method__options__initialisation": "magnitude", "training__steps": 1, **FP32}
    caplog.set_level("INFO")
    train(world.recipe(**settings), tmp_path / "backbone")
    assert "loading the backbone" not in caplog.text
    train(world.recipe(states=str(state_files["vqa classify"]), **settings), tmp_path / "states")
    assert caplog.text.count("loading the backbone") == 1
    weights = tensors(tmp_path / "states")
    torch.testing.assert_close(weights, tensors(tmp_path / "backbone"), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"method__name": "full"}, RecipeError, "found full, which runs the backbone"),
        ({"method__options__backbone_dropout": 0.1}, ModelError, "backbone_dropout is 0.1"),
        ({"backbone__precision": "bf16"}, StoreError, "found fp32, expected bf16"),
        ({"data__prompt_prefix": "what: "}, StoreError, "other data, prompts, limits or answers"),
        ({"data__validation_split": "train2014", "head": "generate"}, StoreError, "output layer"),
        ({"method__options__merge_last": True}, StoreError, "the final states of the decoder"),
    ],
    ids=lambda value: next(iter(value), None) if isinstance(value, dict) else None,
)
def test_other_states_than_the_recipe_needs_are_refused(
    world: TinyWorld,
    state_files: dict[str, Path],
    tmp_path: Path,
    changes: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    settings = {**FP32, "states": str(state_files["vqa classify"]), **changes}
    with pytest.raises(error, match=message):
        train(world.recipe(**settings), tmp_path / "run")


def test_states_of_other_layers_are_refused_and_of_more_layers_taken(
    world: TinyWorld, state_files: dict[str, Path], tmp_path: Path
) -> None:
    one = {"method__options__encoder_layers": [1], "method__options__decoder_layers": [0], **FP32}
    extract_states(world.recipe(**one), tmp_path / "one.h5")
    with pytest.raises(StoreError, match=r"lack layers \[0\] of the encoder \(it has \[1\]\)"):
        train(world.recipe(states=str(tmp_path / "one.h5"), **FP32), tmp_path / "all")
    for name, file in (("one", tmp_path / "one.h5"), ("more", state_files["vqa classify"])):
        train(world.recipe(states=str(file), training__steps=2, **one), tmp_path / name)
    left, right = tensors(tmp_path / "one"), tensors(tmp_path / "more")
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_states_of_another_backbone_are_refused(
    world: TinyWorld,
    text_world: TextWorld,
    state_files: dict[str, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By tokenizer and sizes; by the weights before training, if a head generates."""
    file = str(state_files["vqa generate"])
    other = world.recipe(
        states=file, head="generate", backbone__name=str(text_world.backbone), **FP32
    )
    with pytest.raises(StoreError, match=r"tokenizer: found .*, expected"):
        train(other, tmp_path / "other")
    changed = without_weights(world, tmp_path / "t5")
    weights = load_file(changed.backbone / "model.safetensors")
    name = next(iter(weights))
    weights[name] += 1
    save_file(weights, changed.backbone / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="other weights than the one whose states"):
        train(changed.recipe(states=file, head="generate", **FP32), tmp_path / "weights")
    assert not (tmp_path / "weights" / "metrics.jsonl").exists()
    # Another head never loads them, so a warning has to do.
    file = str(state_files["vqa classify"])
    train(changed.recipe(states=file, training__steps=1, **FP32), tmp_path / "classify")
    assert "weights are not compared until they are loaded" in caplog.text


def test_a_run_is_not_resumed_with_other_states(
    world: TinyWorld, state_files: dict[str, Path], tmp_path: Path
) -> None:
    file = state_files["vqa classify"]
    settings = {"training__steps": 2, **FP32}
    train(world.recipe(states=str(file), **settings), tmp_path / "run")
    moved = Path(shutil.copy(file, tmp_path / "moved.h5"))
    train(world.recipe(states=str(moved), **settings), tmp_path / "run", resume=True)
    extract_states(world.recipe(**settings), tmp_path / "bf16.h5", precision="bf16")
    for other in (str(tmp_path / "bf16.h5"), None):
        with pytest.raises(CheckpointError, match="trained on other states of the backbone"):
            train(world.recipe(states=other, **settings), tmp_path / "run", resume=True)


def test_states_of_another_length_than_their_text_are_refused(
    world: TinyWorld, state_files: dict[str, Path], tmp_path: Path
) -> None:
    """A damaged table could otherwise give a text the states of its neighbour."""
    path = Path(shutil.copy(state_files["vqa classify"], tmp_path / "damaged.h5"))
    table = StateReader(path)
    with h5py.File(path, "r+") as file:
        lengths = file["encoder_length"][:][::-1]
        file["encoder_length"][:] = lengths
        texts = StateTable(
            Texts(file["encoder_key"][:], lengths),
            Texts(file["decoder_key"][:], file["decoder_length"][:]),
        )
        record = file.attrs["texts"].decode().replace(table.texts_sha256, texts.sha256)
        del file.attrs["texts"]
        write_text_attribute(file, "texts", record)
    with pytest.raises(StoreError, match=r"states of \d tokens for 'vqa .*it is damaged"):
        train(world.recipe(states=str(path), **FP32), tmp_path / "run")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_states_of_16_bits_give_close_losses_and_gradients(
    world: TinyWorld, tmp_path: Path, precision: str
) -> None:
    small = extract_states(world.recipe(**FP32), tmp_path / "small.h5", precision=precision)  # type: ignore[arg-type]
    assert small.spec.dtype == {"bf16": "bfloat16", "fp16": "float16"}[precision]
    results = []
    for more in ({}, {"states": str(tmp_path / "small.h5")}):
        built, batch = first_batch(world.recipe(**FP32, **more), [0, 1, 2, 3])
        loss = built.model.eval()(batch)
        loss.backward()
        gradients = torch.cat([p.grad.flatten() for p in built.trainable.values()])
        results.append((loss.item(), gradients))
    (expected, exact), (found, rounded) = results
    assert 0 < abs(found - expected) < 1e-2
    assert 0 < (exact - rounded).norm() < 0.2 * exact.norm()


def test_shards_joined_hold_the_states_of_one_file(
    world: TinyWorld, state_files: dict[str, Path], tmp_path: Path
) -> None:
    out, recipe = tmp_path / "states.h5", world.recipe(**FP32)
    shards = [Shard(1, 2), Shard(2, 2)]
    parts = [extract_states(recipe, out, batch_size=1, shard=shard).path for shard in shards]
    join_states(parts, out)
    assert StateReader(out).texts_sha256 == StateReader(state_files["vqa classify"]).texts_sha256
    for name, file in (("shards", out), ("one", state_files["vqa classify"])):
        train(world.recipe(states=str(file), training__steps=2, **FP32), tmp_path / name)
    torch.testing.assert_close(tensors(tmp_path / "shards"), tensors(tmp_path / "one"))
    with pytest.raises(FeatureError, match="2 batches of texts cannot be divided into 3 shards"):
        extract_states(recipe, tmp_path / "more.h5", batch_size=1, shard=Shard(1, 3))


def test_a_finished_file_is_kept_and_one_of_other_states_refused(
    world: TinyWorld, tmp_path: Path
) -> None:
    out = tmp_path / "states.h5"
    assert extract_states(world.recipe(**FP32), out).computed == 2
    before = out.read_bytes()
    # As if the process had been killed when the file was in its place.
    partial_folder(out).mkdir()
    (partial_folder(out) / "journal.jsonl").touch()
    assert extract_states(world.recipe(**FP32), out).computed == 0
    assert out.read_bytes() == before
    assert not partial_folder(out).exists()
    with pytest.raises(StoreError, match=r"holds other states \(dtype: found float32"):
        extract_states(world.recipe(**FP32), out, precision="bf16")
    with pytest.raises(StoreError, match="the texts differ"):
        extract_states(world.recipe(data__prompt_prefix="what ", **FP32), out)


@pytest.mark.slow
def test_a_killed_run_on_states_resumes_to_the_same_bits(
    world: TinyWorld, state_files: dict[str, Path], tmp_path: Path
) -> None:
    """With a head that generates, whose backbone is loaded for each validation."""
    recipe = world.recipe(
        head="generate",
        states=str(state_files["vqa generate"]),
        training__epochs=2,
        training__checkpoint_every_steps=4,
        method__options__dropout=0.2,
        **FP32,
    )
    dump_recipe(recipe, tmp_path / "recipe.yaml")
    train(recipe, tmp_path / "whole")
    for event in (30, 26):

        def work(event: int = event) -> None:
            train_until(tmp_path / "recipe.yaml", tmp_path / "run", event)

        assert in_child(work) == -signal.SIGKILL
    train(recipe, tmp_path / "run", resume=True)
    for name in ("metrics.jsonl", "checkpoints/last/model.safetensors", "model.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
