"""The benchmark's captions in the format of COCO."""

from pathlib import Path
from random import Random
from typing import Any

from eval.outputs import write_json
from vl_lst.demo.captions import caption
from vl_lst.demo.scenes import Scene
from vl_lst.demo.splits import PICTURE_SIZE, Split
from vl_lst.demo.vqa import INFO, LICENSE

__all__ = ["captions_split", "write_coco"]

CAPTIONS_PER_IMAGE = 5
# Pictures of one object have few distinct captions.
MAX_TRIES = 20
LICENSE_ID = 1


def write_coco(data_root: Path, split: Split) -> None:
    """Write a split's captions to `coco/annotations/` in the official format."""
    path = data_root / "coco" / "annotations" / f"captions_{split.name}.json"
    write_json(path, captions_split(split), indent=None)


def captions_split(split: Split) -> dict[str, Any]:
    """Return a split's captions document: five captions per picture of the VQA split."""
    rng = Random(f"captions {split.name}")
    images, annotations = [], []
    for number in range(split.images):
        image_id = split.first_image_id + number
        images.append(
            {
                "license": LICENSE_ID,
                "url": f"https://example.com/{split.stem(number)}.jpg",
                "file_name": f"{split.stem(number)}.jpg",
                "height": PICTURE_SIZE,
                "width": PICTURE_SIZE,
                "date_captured": INFO["date_created"],
                "id": image_id,
            }
        )
        annotations += [
            {"image_id": image_id, "id": image_id * 10 + position, "caption": text}
            for position, text in enumerate(_captions(split.scene(number), rng))
        ]
    return {
        "info": INFO,
        "type": "captions",
        "images": images,
        "licenses": [{**LICENSE, "id": LICENSE_ID}],
        "annotations": annotations,
    }


def _captions(scene: Scene, rng: Random) -> list[str]:
    """Return five captions, distinct where `MAX_TRIES` attempts allow it."""
    texts: list[str] = []
    for attempt in range(MAX_TRIES):
        # Which positions a model names varies with its seed, and CIDEr with it.
        text = caption(scene, rng, positions=False)
        if text not in texts or attempt >= MAX_TRIES - CAPTIONS_PER_IMAGE:
            texts.append(text)
        if len(texts) == CAPTIONS_PER_IMAGE:
            break
    return [f"{text[0].upper()}{text[1:]}." for text in texts]
