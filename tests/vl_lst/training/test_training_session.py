"""Training sessions from data to record: results, files and errors."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_run import TinyWorld

from eval.errors import InputError
from eval.run_files import RunRecord
from feature_extraction.errors import StoreError
from vl_lst.errors import CheckpointError, RecipeError, TrainingError
from vl_lst.models.ladder.model import LadderModel
from vl_lst.runs.checkpoint import MODEL, load_checkpoint
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.record import read_record
from vl_lst.training.session import train


def lines(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(trained, tmp_path_factory.mktemp("finished") / "run")


def test_the_run_directory_has_the_documented_files(finished: Path) -> None:
    found = sorted(str(p.relative_to(finished)) for p in finished.rglob("*") if p.is_file())
    assert found == [
        "checkpoints/best/manifest.json",
        "checkpoints/best/model.safetensors",
        "checkpoints/last/manifest.json",
        "checkpoints/last/model.safetensors",
        "checkpoints/last/training_state.safetensors",
        "log.txt",
        "metrics.jsonl",
        "model.json",
        "predictions/vqa-val2014.json",
        "predictions/vqa-val2014.scores.json",
        "recipe.yaml",
        "record.json",
    ]


def test_a_checkpoint_holds_exactly_the_trainable_parameters(finished: Path) -> None:
    record = read_record(RunDirectory(finished))
    assert record is not None
    assert record.parameters is not None
    tensors = load_checkpoint(finished / "checkpoints" / "best", MODEL).tensors[MODEL]
    assert sum(t.numel() for t in tensors.values()) == record.parameters.trainable
    assert not any(name.startswith("backbone.") for name in tensors)
    assert "side.upsample.weight" not in tensors  # a classifier does not need it


def test_the_record_reports_memory_and_speed(finished: Path) -> None:
    record = RunRecord.model_validate_json((finished / "record.json").read_bytes())
    assert record.status == "success"
    assert record.steps == record.total_steps == 10
    assert record.protocol == {"vqa": "vqa_v2 official"}
    assert record.scores["vqa"]["val2014"].keys() >= {"accuracy", "per_answer_type"}
    memory, parameters = record.memory_bytes, record.parameters
    assert memory is not None
    assert parameters is not None
    # The buffers hold the random order of image tokens, which is not trained.
    assert 4 * parameters.total < memory.parameters < 4.5 * parameters.total
    assert memory.gradients == 4 * parameters.trainable
    assert memory.optimizer_state is not None
    assert 8 * parameters.trainable <= memory.optimizer_state < 9 * parameters.trainable
    assert memory.saved_for_backward is not None
    assert sum(memory.saved_for_backward.values()) == 2 * memory.saved_for_backward["total"]
    assert not any(part.startswith("backbone") for part in memory.saved_for_backward)
    assert memory.peak_allocated is None
    assert record.examples_per_second is not None
    assert record.examples_per_second > 0


def test_metrics_contain_no_times(finished: Path) -> None:
    assert [sorted(line) for line in lines(finished)] == [
        ["epoch", "gradient_norm", "loss", "lr", "step"],
        ["epoch", "gradient_norm", "loss", "lr", "step"],
        ["accuracy", "lenient_accuracy", "split", "step", "task"],
        ["epoch", "gradient_norm", "loss", "lr", "step"],
        ["epoch", "gradient_norm", "loss", "lr", "step"],
        ["epoch", "gradient_norm", "loss", "lr", "step"],
        ["accuracy", "lenient_accuracy", "split", "step", "task"],
    ]
    assert lines(finished)[-2]["step"] == 10


def test_a_second_run_is_bit_identical(finished: Path, world: TinyWorld, tmp_path: Path) -> None:
    train(world.recipe(training__workers=2), tmp_path / "run")
    for name in ("metrics.jsonl", "checkpoints/last/model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("head", ["classify", "generate"])
def test_it_learns_from_the_image_unlike_a_blind_model(
    world: TinyWorld, tmp_path: Path, head: str
) -> None:
    scores = {}
    for blind in (False, True):
        recipe = world.recipe(
            head=head,
            data__blind=blind,
            training__epochs=60,
            training__evaluate_every=5,
            method__options__dropout=0.0,
        )
        record = train(recipe, tmp_path / f"{blind}")
        scores[blind] = record.scores["vqa"]["val2014"]["accuracy"]
    assert scores[True] <= 50
    assert scores[False] >= scores[True] + 25


# torch warns if a norm's weight is float32, as trainable weights are.
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize("head", ["classify", "generate"])
def test_bfloat16_arithmetic_trains_float32_weights(
    world: TinyWorld, tmp_path: Path, head: str
) -> None:
    recipe = world.recipe(
        head=head,
        training__precision="bf16",
        backbone__precision="bf16",
        generation__beams=3,
        training__epochs=None,
        training__steps=3,
    )
    record = train(recipe, tmp_path / "run")
    assert record.status == "success"
    tensors = load_file(tmp_path / "run" / "checkpoints" / "last" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_tensorboard_shows_metrics_and_speed(world: TinyWorld, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(world.recipe(training__tensorboard=True), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert {"loss", "lr", "vqa/accuracy", "examples_per_second"} <= set(events.Tags()["scalars"])


def test_progress_reports_loss_speed_and_memory(world: TinyWorld, tmp_path: Path) -> None:
    reports: list[tuple[int, int, str]] = []
    train(
        world.recipe(),
        tmp_path / "run",
        report=lambda done, total, note="": reports.append((done, total, note)),
    )
    assert reports[0][:2] == (1, 10)
    notes = [note for *_, note in reports if note.startswith("loss")]
    assert all(word in notes[3] for word in ("examples/s", "GiB"))
    assert not any("left" in note for note in notes), "the progress bar shows that"
    assert any(note.startswith("evaluating vqa val2014") for *_, note in reports)


def test_missing_images_are_one_error_before_training(world: TinyWorld, tmp_path: Path) -> None:
    recipe = world.recipe(features=[str(world.train_features)])
    with pytest.raises(StoreError) as caught:
        train(recipe, tmp_path / "run")
    message = str(caught.value)
    assert "6 of the 6 images of val2014" in message
    assert "COCO_val2014_000000000105, ... (1 more)" in message
    assert "vl-lst extract-features" in message
    record = read_record(RunDirectory(tmp_path / "run"))
    assert record is not None
    assert (record.status, record.error) == ("failed", message)
    assert record.memory_bytes is None


def test_a_split_without_labels_cannot_validate(world: TinyWorld, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="test2015 of vqa has no labels"):
        train(world.recipe(data__validation_split="test2015"), tmp_path / "run")


def test_a_loss_that_is_not_finite_is_an_error_with_step_and_examples(
    world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = LadderModel.forward
    steps = 0

    def broken(self: LadderModel, *arguments: object) -> torch.Tensor:
        nonlocal steps
        steps += 1
        loss: torch.Tensor = original(self, *arguments)  # type: ignore[arg-type]
        return loss * float("nan") if steps == 5 else loss  # the first call measures memory

    monkeypatch.setattr(LadderModel, "forward", broken)
    recipe = world.recipe(
        method__options__recompute=True,  # with `auto`, further calls compare memory
        training__checkpoint_every_steps=2,
    )
    with pytest.raises(TrainingError, match=r"the loss is nan at step 4, on the examples \d+,"):
        train(recipe, tmp_path / "run")
    weights = load_file(tmp_path / "run" / "checkpoints" / "last" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())
    record = read_record(RunDirectory(tmp_path / "run"))
    assert record is not None
    assert record.status == "failed"


def test_a_full_disk_is_one_error_and_the_last_checkpoint_stays(
    world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves = 0

    def full(tensors: dict[str, torch.Tensor], path: Path) -> None:
        nonlocal saves
        saves += 1
        if saves > 3:  # the best, and two files of the last
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, path)

    monkeypatch.setattr("vl_lst.runs.checkpoint.save_file", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        train(world.recipe(training__checkpoint_every_steps=2), tmp_path / "run")
    monkeypatch.undo()
    monkeypatch.setenv("VL_LST_CACHE", str(tmp_path / "cache"))
    assert train(RunDirectory(tmp_path / "run").recipe(), tmp_path / "run", resume=True)


def test_an_interrupted_run_is_recorded_as_cancelled_and_can_be_resumed(
    world: TinyWorld, tmp_path: Path, finished: Path
) -> None:
    def interrupt(done: int, total: int, note: str = "") -> None:
        if done == 7:
            raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(world.recipe(), out, report=interrupt)
    record = read_record(RunDirectory(out))
    assert record is not None
    assert (record.status, record.steps) == ("cancelled", 7)
    train(world.recipe(), out, resume=True)
    assert (out / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
    record = read_record(RunDirectory(out))
    assert record is not None
    assert record.status == "success"


def test_examples_without_answers_train_only_a_classifier(
    world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.vqa.answer_weights", _no_weights_for_maybe)
    monkeypatch.setenv("VL_LST_CACHE", str(tmp_path / "cache"))
    one_epoch = {"training__epochs": 1, "training__log_every_steps": 1}
    for head, steps in (("classify", 5), ("generate", 4)):
        train(world.recipe(head=head, **one_epoch), tmp_path / head)
        assert len(lines(tmp_path / head)) == steps + 1
    log = (tmp_path / "generate" / "log.txt").read_text()
    assert "8 of 36 training examples of vqa have no answer with a weight above zero" in log


def _no_weights_for_maybe(answers: list[dict[str, str]]) -> list[tuple[str, float]]:
    given = {answer["answer"] for answer in answers}
    return [] if "maybe" in given else [(answer, 1.0) for answer in given]


def test_a_run_cannot_be_resumed_with_another_backbone(
    finished: Path, world: TinyWorld, tmp_path: Path
) -> None:
    backbone = shutil.copytree(world.backbone, tmp_path / "t5")
    out = tmp_path / "run"
    train(world.recipe(backbone__name=str(backbone), training__epochs=1), out)
    weights = load_file(backbone / "model.safetensors")
    weights["shared.weight"] += 1
    save_file(weights, backbone / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="other weights"):
        train(RunDirectory(out).recipe(), out, resume=True)


@pytest.mark.parametrize("name", ["metrics.jsonl", "log.txt"])
def test_a_log_that_is_a_pipe_is_refused_before_training(
    world: TinyWorld, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "run"
    RunDirectory(out).prepare(world.recipe(), resume=False)
    os.mkfifo(out / name)
    with pytest.raises(InputError, match="is a named pipe: expected a regular file or none"):
        train(world.recipe(), out, resume=True)


def test_arguments_of_other_types_are_refused(world: TinyWorld, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="the recipe is a dict: expected"):
        train(world.recipe().model_dump(), tmp_path / "run")  # type: ignore[arg-type]
    for out in (None, 5, b"run"):
        with pytest.raises(InputError, match="the run's folder is"):
            train(world.recipe(), out)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="no folder can have such a name"):
        train(world.recipe(), f"{tmp_path}/a\0b")
    assert list(tmp_path.iterdir()) == []
