"""Splits of the shapes world: their sizes and the paths of their pictures.

VQA, GQA and captions share pictures, so features are extracted once. NLVR2 has its own, in pairs.
"""

from dataclasses import dataclass
from pathlib import Path

from vl_lst.demo.scenes import (
    BENCHMARK_COLOURS,
    BENCHMARK_SHAPES,
    Purpose,
    Scene,
    sample_scene,
    scene_seed,
)

__all__ = [
    "PAIRS_PER_SET",
    "PAIR_COLOURS",
    "PAIR_SPLITS",
    "PICTURE_SIZE",
    "SPLITS",
    "PairSplit",
    "Split",
    "directory_of",
    "picture_path",
]

PICTURE_SIZE = 128
# Mostly one object: the demo has only a minute or two to learn to use the image.
OBJECT_COUNTS = (1, 1, 1, 2)
# Statements about pairs also count and compare, so some pictures need more objects.
PAIR_OBJECT_COUNTS = (1, 1, 1, 1, 2)
# Pairs use even fewer shapes and colours, so that many statements are true for some pairs of a set
# and false for others. NLVR2's sets, each about one kind of object, have the same effect.
PAIR_SHAPES = BENCHMARK_SHAPES[:3]
PAIR_COLOURS = BENCHMARK_COLOURS[:3]
PAIRS_PER_SET = 4
SETS_PER_DIRECTORY = 10


@dataclass(frozen=True, slots=True)
class Split:
    """A split of VQA, GQA and captions.

    Args:
        name: COCO's name of the split, also its image folder.
        purpose: Seed range of its scenes.
        images: Number of pictures.
        questions_per_image: Maximum number of VQA questions per picture.
        first_image_id: Id of the first picture.
    """

    name: str
    purpose: Purpose
    images: int
    questions_per_image: int
    first_image_id: int

    @property
    def gqa_name(self) -> str:
        """GQA's name of the split: COCO's without the year."""
        return self.name.removesuffix("2014")

    def scene(self, number: int) -> Scene:
        """Return the scene of the split's `number`-th picture."""
        return sample_scene(
            scene_seed(self.purpose, number),
            counts=OBJECT_COUNTS,
            shapes=BENCHMARK_SHAPES,
            colours=BENCHMARK_COLOURS,
        )

    def stem(self, number: int) -> str:
        """Return the official stem of the split's `number`-th picture."""
        return f"COCO_{self.name}_{self.first_image_id + number:012d}"


@dataclass(frozen=True, slots=True)
class PairSplit:
    """A split of NLVR2.

    A set is four pairs of pictures; each of its sentences is labelled for every pair.

    Args:
        name: NLVR2's name of the split, also its image folder.
        purpose: Seed range of its scenes.
        sets: Number of sets.
        sentences_per_set: Maximum number of sentences per set.
        in_directories: Whether pictures are in numbered folders, as in NLVR2's "train".
    """

    name: str
    purpose: Purpose
    sets: int
    sentences_per_set: int
    in_directories: bool

    def pairs(self, set_number: int) -> tuple[tuple[Scene, Scene], ...]:
        """Return the left and the right scene of each pair of a set."""
        first = set_number * PAIRS_PER_SET * 2
        scenes = [
            sample_scene(
                scene_seed(self.purpose, index),
                counts=PAIR_OBJECT_COUNTS,
                shapes=PAIR_SHAPES,
                colours=PAIR_COLOURS,
            )
            for index in range(first, first + PAIRS_PER_SET * 2)
        ]
        return tuple(zip(scenes[::2], scenes[1::2], strict=True))

    def stems(self, set_number: int, pair_number: int) -> tuple[str, str]:
        """Return the official stems of a pair's left and right picture."""
        pair = f"{self.name}-{set_number}-{pair_number}"
        return f"{pair}-img0", f"{pair}-img1"


SPLITS = (
    Split("train2014", Purpose.BENCHMARK_TRAIN, 1200, 6, 1),
    Split("val2014", Purpose.BENCHMARK_VAL, 250, 8, 100_001),
)
PAIR_SPLITS = (
    PairSplit("train", Purpose.BENCHMARK_PAIRS_TRAIN, 150, 6, in_directories=True),
    PairSplit("dev", Purpose.BENCHMARK_PAIRS_VAL, 30, 6, in_directories=False),
)


def directory_of(set_number: int) -> int:
    """Return the number of the folder that holds the training pictures of a set."""
    return set_number // SETS_PER_DIRECTORY


def picture_path(data_root: Path, image_id: str) -> Path:
    """Return the path of a picture.

    Args:
        data_root: Data root of the shapes world.
        image_id: Stem of the picture's file, an entry of `Example.image_ids`.

    Raises:
        ValueError: The shapes world has no such picture.
    """
    images = data_root / "images"
    for split in SPLITS:
        if image_id.startswith(f"COCO_{split.name}_"):
            return images / split.name / f"{image_id}.jpg"
    for pair_split in PAIR_SPLITS:
        name, _, rest = image_id.partition("-")
        if name == pair_split.name:
            folder = images / "nlvr2" / name
            if pair_split.in_directories:
                folder /= str(directory_of(int(rest.partition("-")[0])))
            return folder / f"{image_id}.png"
    raise ValueError(f"the shapes world has no picture {image_id!r}")
