"""Write the shapes world: images on disk, annotations in the official formats."""

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

from PIL import Image

from eval.outputs import atomic_path
from vl_lst.demo.coco import write_coco
from vl_lst.demo.gqa.writer import write_gqa
from vl_lst.demo.nlvr2 import write_nlvr2
from vl_lst.demo.rendering import render
from vl_lst.demo.scenes import Scene
from vl_lst.demo.splits import (
    PAIR_SPLITS,
    PICTURE_SIZE,
    SPLITS,
    PairSplit,
    Split,
    picture_path,
)
from vl_lst.demo.vqa import write_vqa

__all__ = ["PAIR_SPLITS", "SPLITS", "PairSplit", "Split", "WorldProgress", "write_world"]

JPEG_QUALITY = 92
# Shapes compress well at any level; higher levels only take longer.
PNG_LEVEL = 1

WorldProgress = Callable[[int, int, str], None]


def write_world(
    folder: Path,
    *,
    splits: tuple[Split, ...] = SPLITS,
    pair_splits: tuple[PairSplit, ...] = PAIR_SPLITS,
    report: WorldProgress = lambda done, total, note: None,
) -> None:
    """Write the images and the annotations of all tasks; the files are always the same.

    `folder` becomes a data root: images in `images/`, annotations in `vqa/`, `gqa/`, `nlvr2/` and
    `coco/annotations/`. `vl_lst.demo.splits.picture_path` returns the path of an image.

    Args:
        folder: Data root; created if it does not exist. Existing files are replaced.
        splits: Splits of VQA, GQA and captions.
        pair_splits: Splits of NLVR2.
        report: Called with the number of images written, the total and the split's name.
    """
    pictures = [*_pictures(splits), *_pairs(pair_splits)]
    for done, (name, image_id, scene) in enumerate(pictures, start=1):
        _write_picture(render(scene, PICTURE_SIZE), picture_path(folder, image_id))
        report(done, len(pictures), name)
    for split in splits:
        write_vqa(folder, split)
        write_gqa(folder, split)
        write_coco(folder, split)
    for pair_split in pair_splits:
        write_nlvr2(folder, pair_split)


def _pictures(splits: tuple[Split, ...]) -> Iterator[tuple[str, str, Scene]]:
    for split in splits:
        for number in range(split.images):
            yield split.name, split.stem(number), split.scene(number)


def _pairs(splits: tuple[PairSplit, ...]) -> Iterator[tuple[str, str, Scene]]:
    for split in splits:
        for set_number in range(split.sets):
            for pair_number, scenes in enumerate(split.pairs(set_number)):
                stems = split.stems(set_number, pair_number)
                for stem, scene in zip(stems, scenes, strict=True):
                    yield f"nlvr2 {split.name}", stem, scene


def _write_picture(picture: Image.Image, path: Path) -> None:
    encoded = BytesIO()
    if path.suffix == ".png":
        picture.save(encoded, "PNG", compress_level=PNG_LEVEL)
    else:
        picture.save(encoded, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.getvalue())
