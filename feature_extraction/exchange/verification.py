"""Whether a store's features are what its encoder makes of the photographs.

A sample is extracted again and compared with what is stored. Numbers of one tower differ in their
last bits between devices, batch sizes and library versions, and far more when the weights, the
activation, the resize rule or the photographs are others. A value may differ by a twentieth of
itself and a twentieth of the root mean square of all values stored for its image together; by a
quarter of both where the tower ran in bf16.
"""

import hashlib
import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from feature_extraction.encoders.encoder import Encoder, encode_image
from feature_extraction.errors import StoreError
from feature_extraction.images.finding import find_images
from feature_extraction.names import near_names_hint
from feature_extraction.spec import Precision
from feature_extraction.store.store import FeatureReader

if TYPE_CHECKING:
    from feature_extraction.extract import OnProgress

# V tokens, C channels

__all__ = ["TOLERANCE", "Difference", "Verification", "verify"]

TOLERANCE: dict[Precision, float] = {"fp32": 0.05, "bf16": 0.25}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The largest difference in one image.

    Args:
        image_id: The image.
        token: Where it is: the feature vector, in the order of the store.
        channel: Where it is in that vector.
        stored: The value in the store.
        made: The value made now.
        excess: How much the values of the image differ in relation to what is allowed, at most:
            more than 1 where it is not allowed.
    """

    image_id: str
    token: int
    channel: int
    stored: float
    made: float
    excess: float

    @property
    def absolute(self) -> float:
        """How much they differ; infinite where either is not a number."""
        difference = abs(self.stored - self.made)
        return math.inf if math.isnan(difference) else difference

    @property
    def is_allowed(self) -> bool:
        """Whether they agree as well as different machines can be expected to."""
        return self.excess <= 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a comparison found.

    Args:
        differences: Of each image compared, in the order of the store.
        absent: Images with features that are not in the folder.
        left_out: Number of files of the folder that may be photographs but were left out, by
            suffix.
        near_names: What the names of the absent images differ in from names in the folder; empty
            where they are others altogether.
    """

    differences: tuple[Difference, ...]
    absent: int
    left_out: Mapping[str, int]
    near_names: str = ""

    @property
    def largest(self) -> Difference:
        """The largest difference of all."""
        return max(self.differences, key=lambda difference: difference.absolute)

    @property
    def wrong(self) -> tuple[Difference, ...]:
        """Those that are larger than allowed."""
        return tuple(each for each in self.differences if not each.is_allowed)


def verify(
    store: FeatureReader,
    images: Path,
    encoder: Encoder,
    *,
    sample: int = 8,
    on_progress: "OnProgress | None" = None,
) -> Verification:
    """Extract the features of a few photographs again, and compare.

    Which photographs depends on their ids alone, so that the same are taken every time.

    Args:
        store: What is to be verified.
        images: The folder of photographs it was made of, or a part of them.
        encoder: The tower its spec names.
        sample: Most photographs to compare.
        on_progress: Called after each photograph.

    Raises:
        StoreError: No photograph in the folder has features in the store.
        ImageError: The folder has no photographs, or one cannot be decoded.
        EncoderError: The tower gives numbers that are not finite.
    """
    found = find_images(images)
    path_of = {file.image_id: file.path for file in found}
    present = [image_id for image_id in store if image_id in path_of]
    hint = near_names_hint(
        (image_id for image_id in store if image_id not in path_of),
        (image_id for image_id in path_of if image_id not in store),
        place="the folder",
    )
    if not present:
        raise StoreError(
            f"none of the {len(store):,} images with features is in {images}, "
            f"which has {len(path_of):,}, such as {next(iter(path_of))!r}; give the folder of the "
            f"photographs the features were made of.{hint}"
            + (f" Note: {found.note}." if found.note else "")
        )
    chosen = _sampled(present, sample)
    differences = []
    for done, image_id in enumerate(chosen, 1):
        differences.append(_difference(store, image_id, path_of[image_id], encoder))
        if on_progress is not None:
            on_progress(done, len(chosen))
    return Verification(
        differences=tuple(differences),
        absent=len(store) - len(present),
        left_out=found.left_out,
        near_names=hint,
    )


def _sampled(image_ids: Iterable[str], most: int) -> list[str]:
    return heapq.nsmallest(most, image_ids, key=lambda i: hashlib.sha256(i.encode()).digest())


def _difference(store: FeatureReader, image_id: str, path: Path, encoder: Encoder) -> Difference:
    stored_VC = store[image_id].astype(np.float64)
    made_VC = encode_image(path, encoder).astype(np.float64)
    difference_VC = np.abs(stored_VC - made_VC)
    scale_VC = np.abs(stored_VC) + np.sqrt(np.square(stored_VC).mean())
    allowed_VC = TOLERANCE[store.spec.precision] * scale_VC
    # Also where all is zero, the last bits of float16 may differ.
    excess_VC = difference_VC / np.maximum(allowed_VC, np.finfo(np.float16).tiny)
    # What is not a number is as different as can be, and argmax finds it.
    token, channel = np.unravel_index(int(difference_VC.argmax()), difference_VC.shape)
    return Difference(
        image_id=image_id,
        token=int(token),
        channel=int(channel),
        stored=float(stored_VC[token, channel]),
        made=float(made_VC[token, channel]),
        excess=float(np.nan_to_num(excess_VC, nan=np.inf).max()),
    )
