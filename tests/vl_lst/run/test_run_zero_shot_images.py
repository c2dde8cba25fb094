"""A backbone that reads images answers, without training, as the whole model does on the pixels."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_image_reader import image_reader, with_image_reader
from tiny_run import TinyWorld
from tiny_vision_language import NUM_QUERIES
from transformers import AutoImageProcessor, AutoTokenizer, GenerationConfig

import vl_lst
from eval.errors import InputError
from eval.run_files import RunRecord
from feature_extraction.store import open_features
from tasks import get_task
from vl_lst.cli import main
from vl_lst.run import load_run

PROMPT = "vqa : {} of ?"
MAX_LENGTH = 5


@pytest.fixture(scope="module")
def reader_world(world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    """The tiny world with a BLIP-2 and its language tokens of all photographs."""
    return with_image_reader(world, tmp_path_factory.mktemp("reader"))


class StockModel:
    """The whole Hugging Face model with its own image processor and tokenizer."""

    def __init__(self, folder: Path) -> None:
        self._model = type(image_reader()).from_pretrained(folder).eval()
        self._processor = AutoImageProcessor.from_pretrained(folder)
        self._tokenizer = AutoTokenizer.from_pretrained(folder)

    def answer(self, image: Path, prompt: str, *, beams: int = 1) -> str:
        """Answer as `generate` does, given the pixels and the image tokens before the prompt."""
        tokenizer = self._tokenizer
        text = tokenizer(prompt, add_special_tokens=False).input_ids
        image_ids = [self._model.config.image_token_index] * NUM_QUERIES
        ids = torch.tensor([[*image_ids, *text, tokenizer.eos_token_id]])
        pixels = self._processor(Image.open(image).convert("RGB"), return_tensors="pt")
        self._model.language_model.generation_config = GenerationConfig(
            max_length=MAX_LENGTH + 1,
            num_beams=beams,
            pad_token_id=0,
            eos_token_id=1,
            decoder_start_token_id=0,
        )
        generated: Any = self._model.generate(
            pixel_values=pixels.pixel_values, input_ids=ids, attention_mask=torch.ones_like(ids)
        )
        return str(tokenizer.decode(generated[0], skip_special_tokens=True)).strip()


@pytest.fixture(scope="module")
def stock(reader_world: TinyWorld) -> StockModel:
    return StockModel(reader_world.backbone)


def evaluate(world: TinyWorld, run: Path, *more: str, split: str = "val2014") -> int:
    return main(
        [
            *("evaluate", str(run), "--zero-shot", "--backbone", str(world.backbone)),
            *("--features", str(world.validation_features), "--task", "vqa"),
            *("--data-root", str(world.root), "--split", split, "--prompt", PROMPT),
            *("--set", f"generation.max_length={MAX_LENGTH}", "--set", "training.device=cpu"),
            *more,
        ]
    )


def photographs(world: TinyWorld, split: str) -> Iterator[tuple[str, Path, str]]:
    """Yield the id, the photograph and the prompt of each example."""
    for each in get_task("vqa").read_examples(world.root, split):
        (image,) = (world.root / "images" / split).glob(f"{each.image_ids[0]}.*")
        yield each.id, image, PROMPT.replace("{}", each.prompt)


@pytest.mark.parametrize("beams", [1, 3])
def test_answers_are_those_of_the_whole_model_on_the_photographs(
    reader_world: TinyWorld, stock: StockModel, tmp_path: Path, beams: int
) -> None:
    run = tmp_path / "zero-shot"
    assert evaluate(reader_world, run, "--set", f"generation.beams={beams}") == 0
    found = get_task("vqa").read_predictions(run / "predictions" / "vqa-val2014.json")
    expected = {
        name: stock.answer(image, prompt, beams=beams)
        for name, image, prompt in photographs(reader_world, "val2014")
    }
    assert found == expected
    assert len(set(expected.values())) > 1, "answers must depend on the input"
    record = RunRecord.model_validate_json((run / "record.json").read_text())
    spec = open_features(reader_world.validation_features).spec
    assert record.feature_spec_sha256 == spec.digest
    assert record.parameters is not None
    assert record.parameters.trainable == 0


def test_three_lines_answer_about_a_photograph(reader_world: TinyWorld, stock: StockModel) -> None:
    model = vl_lst.zero_shot(reader_world.backbone, prompt=PROMPT)
    for colour in ("red", "blue"):
        image = reader_world.image(colour)
        found = model.predict(image=image, question="is it red ?").answer
        # The default length is that of the task.
        expected = stock.answer(image, PROMPT.replace("{}", "is it red ?"))
        assert found.split()[:3] == expected.split()[:3]
    with pytest.raises(InputError, match="found 0, expected 1"):
        model.predict(question="is it red ?")


def test_a_run_without_training_predicts_from_pixels(
    reader_world: TinyWorld, stock: StockModel, tmp_path: Path
) -> None:
    run = tmp_path / "zero-shot"
    assert evaluate(reader_world, run) == 0
    image = reader_world.image("green")
    answer = load_run(run).predict(image=image, question="is it red ?").answer
    assert answer == stock.answer(image, PROMPT.replace("{}", "is it red ?"))


def test_features_of_another_encoder_are_refused(
    world: TinyWorld, reader_world: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "zero-shot"
    foreign = replace(reader_world, validation_features=world.validation_features)
    assert evaluate(foreign, run) == 1
    assert "not of its own image encoder" in capsys.readouterr().err
    assert not run.exists()


def test_without_features_the_command_that_makes_them_is_shown(
    reader_world: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", str(tmp_path / "run"), "--zero-shot", "--task", "vqa"]
    arguments += ["--backbone", str(reader_world.backbone), "--data-root", str(reader_world.root)]
    assert main([*arguments, "--split", "val2014"]) == 1
    error = capsys.readouterr().err
    assert f"--encoder {reader_world.backbone} --layer language" in error


def test_images_can_be_blanked(reader_world: TinyWorld, tmp_path: Path) -> None:
    run = tmp_path / "blind"
    assert evaluate(reader_world, run, "--set", "data.blind=true") == 0
    predictions = json.loads((run / "predictions" / "vqa-val2014.json").read_text())
    # The world has two questions.
    assert len({each["answer"] for each in predictions}) <= 2


def test_missing_photographs_are_refused(
    reader_world: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert evaluate(reader_world, run, split="train2014") == 1
    assert "18 of the 18 images of train2014 have no features" in capsys.readouterr().err
    assert not (run / "recipe.yaml").exists()
