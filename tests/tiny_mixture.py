"""The tiny world with all four tasks, and caption scores without Java."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image
from tiny_run import COLOURS, TRAIN_IMAGES, TinyWorld

from eval._java import JavaError
from feature_extraction.encoders.encoder import build_encoder
from feature_extraction.extract import extract
from vl_lst.recipes import Recipe, resolve_recipe

TASKS = ("vqa", "gqa", "nlvr2", "caption")
TRAIN_PAIRS, VALIDATION_PAIRS = 6, 4
GQA_VALIDATION = 5


def add_tasks(world: TinyWorld) -> Path:
    """Add GQA, NLVR2 and captions to a world; return the feature file of NLVR2's images."""
    colours = [list(COLOURS)[place % len(COLOURS)] for place in range(TRAIN_IMAGES)]
    train = [f"COCO_train2014_{number:012d}" for number in range(1, 1 + TRAIN_IMAGES)]
    validation = [f"COCO_val2014_{number:012d}" for number in range(101, 101 + GQA_VALIDATION)]
    _write_gqa(world.root / "gqa", "train", dict(zip(train, colours, strict=True)))
    _write_gqa(world.root / "gqa", "val", dict(zip(validation, colours, strict=False)))
    _write_captions(world.root / "coco" / "annotations", "train2014", train, colours)
    _write_captions(world.root / "coco" / "annotations", "val2014", validation, colours)
    pictures = world.root / "images" / "nlvr2"
    pictures.mkdir()
    _write_nlvr2(world.root / "nlvr2", pictures, "train", TRAIN_PAIRS)
    _write_nlvr2(world.root / "nlvr2", pictures, "dev", VALIDATION_PAIRS)
    features = world.root.parent / "nlvr2.h5"
    extract(pictures, features, build_encoder(world.encoder, device="cpu"))
    return features


def mixture_recipe(world: TinyWorld, pairs: Path, **overrides: object) -> Recipe:
    """Return a recipe that trains all four tasks for one epoch; see `TinyWorld.recipe`."""
    single = world.recipe()
    fields = single.model_dump(mode="json") | {
        "task": ",".join(TASKS),
        "features": [*map(str, single.features), str(pairs)],
        "head": {"gqa": "generate"},
    }
    settings = {
        "training__batch_size": {"vqa": 8, "gqa": 6, "nlvr2": 4, "caption": 6},
        "training__epochs": 1,
        "generation__beams": 1,
        "generation__max_length__caption": 5,
        **overrides,
    }
    return resolve_recipe(
        fields, [(name.replace("__", "."), value) for name, value in settings.items()]
    )


def score_captions_without_java(patch: pytest.MonkeyPatch) -> None:
    """Tokenise captions at spaces, and skip the metrics that need Java."""

    class NoMeteor:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def __enter__(self) -> "NoMeteor":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def score(self, *_: object, **__: object) -> None:
            raise JavaError("left out")

    def split(texts: Sequence[str], **_: object) -> list[str]:
        return [" ".join(text.lower().split()) for text in texts]

    def nothing(*_: object, **__: object) -> bytes:
        return b""

    patch.setattr("eval.caption.running_meteor", NoMeteor)
    patch.setattr("eval.caption.spice", NoMeteor().score)
    patch.setattr("eval.caption.tokenize", split)
    patch.setattr("tasks.caption.run_java", nothing)


def _write_gqa(folder: Path, tier: str, colours: dict[str, str]) -> None:
    folder.mkdir(exist_ok=True)
    questions = {
        f"0{number}": {"question": "what color is it?", "imageId": image, "answer": colour}
        for number, (image, colour) in enumerate(colours.items(), 100 if tier == "train" else 200)
    }
    for question in questions.values():
        question |= {
            "isBalanced": True,
            "types": {"structural": "query", "semantic": "attr", "detailed": "color"},
            "semantic": [{"operation": "query", "dependencies": [], "argument": "color"}],
            "groups": {"global": "color", "local": "color"},
            "entailed": [],
            "equivalent": [],
        }
    (folder / f"{tier}_balanced_questions.json").write_text(json.dumps(questions))


def _write_captions(folder: Path, split: str, images: list[str], colours: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [int(image.rpartition("_")[2]) for image in images]
    listed = [
        {"id": number, "file_name": f"{image}.png"}
        for number, image in zip(numbers, images, strict=True)
    ]
    # Lengths differ, so that the mean over tokens is not the mean over captions.
    annotations = [
        {
            "id": number,
            "image_id": number,
            "caption": f"a {colour} thing" + " of other color" * (place % 2),
        }
        for place, (number, colour) in enumerate(zip(numbers, colours, strict=False))
    ]
    document = {"images": listed, "annotations": annotations}
    (folder / f"captions_{split}.json").write_text(json.dumps(document))


def _write_nlvr2(folder: Path, pictures: Path, split: str, pairs: int) -> None:
    folder.mkdir(exist_ok=True)
    lines = []
    for pair in range(pairs):
        colours = list(COLOURS)[pair % 3], list(COLOURS)[pair % 2]
        for side, colour in enumerate(colours):
            picture = Image.new("RGB", (50, 40 + pair), COLOURS[colour])
            picture.save(pictures / f"{split}-{pair}-0-img{side}.png")
        for number, colour in enumerate(("red", "green")):
            lines.append(
                {
                    "identifier": f"{split}-{pair}-0-{number}",
                    "sentence": f"a {colour} thing",
                    "label": str(colour in colours),
                }
            )
    (folder / f"{split}.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
