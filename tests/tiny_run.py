"""A tiny world for training: coloured images, VQA questions, a random image encoder and T5."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_t5_folder import write_t5

from feature_extraction.encoders.encoder import build_encoder
from feature_extraction.extract import extract
from vl_lst.recipes import Recipe, resolve_recipe

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}
TRAIN_IMAGES = 18
VALIDATION_IMAGES = 6
QUESTIONS = ("what color is it?", "is it red?")

CLIP_CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64},
    "text_cfg": {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1},
}
# Options of methods whose own do not fit the small backbones of command line tests.
FITTING: Mapping[str, Mapping[str, object]] = {"qst": {"reduction": 4}}
WORDS = (
    "<pad> </s> <unk> vqa : ? what color is it red green blue yes no maybe a thing of other".split()
)


def fitting_options(method: str) -> list[str]:
    """Return command line arguments that make a method fit a small backbone."""
    options = FITTING.get(method, {}).items()
    return [word for name, value in options for word in ("--set", f"method.options.{name}={value}")]


@dataclass(frozen=True)
class TinyWorld:
    """Paths of a tiny world.

    Args:
        root: Data root, with `vqa/` and `images/`.
        backbone: Folder of the T5.
        encoder: Folder of the image encoder.
        train_features: Feature file of the training images.
        validation_features: Feature file of the validation images.
    """

    root: Path
    backbone: Path
    encoder: Path
    train_features: Path
    validation_features: Path

    def recipe(self, **overrides: object) -> Recipe:
        """Return a recipe that trains in a second; `training__steps=3` sets `training.steps`."""
        fields = {
            "task": "vqa",
            "data": {"root": str(self.root), "min_answer_count": 1},
            "features": [str(self.train_features), str(self.validation_features)],
            "backbone": {"name": str(self.backbone)},
            "visual": {"pooled_grid": None},
        }
        return tiny_recipe(fields, overrides)

    def train_arguments(self, out: Path, *more: str) -> list[str]:
        """Return command line arguments that train the same recipe."""
        return [
            *("train", "--task", "vqa", "--data-root", str(self.root), "--out", str(out)),
            *("--features", str(self.train_features), str(self.validation_features)),
            *("--backbone", str(self.backbone), "--method", "lst", "--head", "classify"),
            *("--set", "data.min_answer_count=1", "--set", "visual.pooled_grid=null"),
            *("--set", "method.options.reduction=2", "--set", "training.epochs=2"),
            *("--set", "training.batch_size=8", "--set", "training.device=cpu"),
            *("--set", "training.workers=0", "--set", "training.precision=fp32", *more),
        ]

    def image(self, colour: str) -> Path:
        """Return the path of a training image of a colour."""
        return self.root / "images" / "train2014" / _file_name("train2014", _number(colour))


def tiny_recipe(fields: Mapping[str, object], overrides: Mapping[str, object]) -> Recipe:
    """Return a recipe that trains in a second.

    Args:
        fields: Its task, data and backbone.
        overrides: Values of other fields, such as `{"training__steps": 3}` for `training.steps`.
    """
    common = {
        "method": {"name": "lst", "options": {"reduction": 2}},
        "optimizer": {"lr": 1e-2},
        "training": {
            "epochs": 2,
            "batch_size": 8,
            "evaluation_batch_size": 16,
            "log_every_steps": 2,
            "device": "cpu",
            # The same on every machine.
            "precision": "fp32",
        },
    }
    return resolve_recipe(
        {**common, **fields},
        [(name.replace("__", "."), value) for name, value in overrides.items()],
    )


@contextmanager
def tiny_world(folder: Path) -> Iterator[TinyWorld]:
    """Make a world in an empty folder; compute in one thread, with the world's cache."""
    with tiny_settings(folder):
        yield make_world(folder)


@contextmanager
def tiny_settings(folder: Path) -> Iterator[None]:
    """Compute in one thread, with the cache of the world in `folder`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VL_LST_CACHE", str(folder / "cache"))
        yield
    torch.set_num_threads(threads)


def make_world(folder: Path) -> TinyWorld:
    """Write a world into an empty folder."""
    root = folder / "data"
    (root / "vqa").mkdir(parents=True)
    _write_split(root, "train2014", range(1, 1 + TRAIN_IMAGES))
    _write_split(root, "val2014", range(101, 101 + VALIDATION_IMAGES))
    _write_test_split(root)
    encoder = _write_encoder(folder / "encoder")
    built = build_encoder(encoder, device="cpu")
    features = {split: folder / f"{split}.h5" for split in ("train2014", "val2014")}
    for split, path in features.items():
        extract(root / "images" / split, path, built)
    backbone = write_backbone(folder / "t5")
    return TinyWorld(root, backbone, encoder, features["train2014"], features["val2014"])


def _number(colour: str) -> int:
    return 1 + list(COLOURS).index(colour)


def _file_name(split: str, number: int) -> str:
    return f"COCO_{split}_{number:012d}.png"


def _write_split(root: Path, split: str, numbers: range) -> None:
    folder = root / "images" / split
    folder.mkdir(parents=True)
    questions, annotations = [], []
    for place, number in enumerate(numbers):
        colour = list(COLOURS)[place % len(COLOURS)]
        Image.new("RGB", (40 + number, 50), COLOURS[colour]).save(
            folder / _file_name(split, number)
        )
        answers = (colour, "yes" if colour == "red" else "no")
        for turn, (question, answer) in enumerate(zip(QUESTIONS, answers, strict=True)):
            ids = {"question_id": number * 1000 + turn, "image_id": number}
            questions.append({**ids, "question": question})
            # Some annotators disagree, so that answers are sampled.
            given = [answer] * 7 + ["maybe"] * 3 if number % 4 == 0 else [answer] * 10
            annotations.append(
                {
                    **ids,
                    "question_type": question.split()[0],
                    "answer_type": "other" if turn == 0 else "yes/no",
                    "multiple_choice_answer": answer,
                    "answers": [
                        {"answer": text, "answer_id": n, "answer_confidence": "yes"}
                        for n, text in enumerate(given, 1)
                    ],
                }
            )
    _write(root / "vqa" / f"v2_OpenEnded_mscoco_{split}_questions.json", questions=questions)
    _write(root / "vqa" / f"v2_mscoco_{split}_annotations.json", annotations=annotations)


def _write_test_split(root: Path) -> None:
    questions = [{"question_id": 9000, "image_id": 1, "question": QUESTIONS[0]}]
    _write(root / "vqa" / "v2_OpenEnded_mscoco_test2015_questions.json", questions=questions)
    folder = root / "images" / "test2015"
    folder.mkdir(parents=True)
    Image.new("RGB", (50, 50), COLOURS["red"]).save(folder / _file_name("test2015", 1))


def _write(path: Path, **content: object) -> None:
    path.write_text(json.dumps({"info": {}, "license": {}, "data_subtype": "x", **content}))


def _write_encoder(folder: Path) -> Path:
    folder.mkdir()
    torch.manual_seed(5)
    # With the initial values, features would hardly differ from 0.
    clip = open_clip.CLIP(**json.loads(json.dumps(CLIP_CONFIG)))
    state = {
        name: tensor * 3 if tensor.ndim == 4 else tensor
        for name, tensor in clip.state_dict().items()
    }
    save_file(state, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP_CONFIG}))
    return folder


def write_backbone(folder: Path, words: Sequence[str] = (), **sizes: int) -> Path:
    """Write a T5 whose tokenizer knows `WORDS` and other words."""
    return write_t5(folder, (*WORDS, *words), splits_punctuation=True, **sizes)
