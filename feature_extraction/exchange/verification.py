"""Check that a store holds the features that its encoder computes from the photographs.

A sample is extracted again and compared with the store. Values of the same encoder differ in their
last bits between devices, batch sizes and library versions, and by far more if the weights, the
activation, the resize rule or the photographs differ. A value v may differ by up to
`tolerance * (|v| + rms)`, where rms is the root mean square of the image's stored values; the
tolerance is 5 % for fp32 and 25 % for bf16.
"""

import hashlib
import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from feature_extraction.encoders.encoder import Encoder, encode_image
from feature_extraction.errors import StoreError
from feature_extraction.images.finding import find_images
from feature_extraction.names import near_names_hint
from feature_extraction.progress import OnProgress
from feature_extraction.spec import Precision
from feature_extraction.store.reader import FeatureReader

# V tokens, C channels

__all__ = ["TOLERANCE", "Difference", "Verification", "verify"]

TOLERANCE: dict[Precision, float] = {"fp32": 0.05, "bf16": 0.25}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The largest difference in one image.

    Args:
        image_id: Id of the image.
        token: Index of the feature vector.
        channel: Index in that vector.
        stored: Value in the store.
        computed: Value computed now.
        excess: Maximum over the image's values of difference / allowed difference; the image passes
            up to 1.
    """

    image_id: str
    token: int
    channel: int
    stored: float
    computed: float
    excess: float

    @property
    def absolute(self) -> float:
        """Absolute difference; infinite if either value is NaN."""
        difference = abs(self.stored - self.computed)
        return math.inf if math.isnan(difference) else difference

    @property
    def is_allowed(self) -> bool:
        """Whether the image's values agree as well as can be expected of different machines."""
        return self.excess <= 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """Result of a verification.

    Args:
        differences: Largest difference of each compared image, in the order of comparison.
        absent: Number of images with features that are not in the folder.
        left_out: Number by suffix of files in the folder that may be photographs but were left
            out.
        near_names: Hint about how the names of absent images differ from names in the folder;
            empty if they are unrelated.
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
        """The differences that are larger than allowed."""
        return tuple(each for each in self.differences if not each.is_allowed)


def verify(
    store: FeatureReader,
    images: Path,
    encoder: Encoder,
    *,
    sample: int = 8,
    on_progress: OnProgress | None = None,
) -> Verification:
    """Extract the features of a sample of photographs again, and compare them with a store.

    The sample depends only on the ids, so every run compares the same photographs.

    Args:
        store: Store to verify.
        images: Folder of the photographs it was made from, or some of them.
        encoder: Encoder that the store's spec names.
        sample: Maximum number of photographs to compare.
        on_progress: Called after each photograph.

    Raises:
        StoreError: No photograph in the folder has features in the store.
        ImageError: The folder has no photographs, or one cannot be decoded.
        EncoderError: The encoder produces values that are not finite.
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
            f"none of the {len(store):,} images with features is in {images}, which has "
            f"{len(path_of):,} images, such as {next(iter(path_of))!r}. Pass the folder of the "
            f"photographs that the features were made from.{hint}"
            + (f" Note: {found.note}." if found.note else "")
        )
    chosen = _choose_sample(present, sample)
    differences = []
    for done, image_id in enumerate(chosen, 1):
        differences.append(_compare(store, image_id, path_of[image_id], encoder))
        if on_progress is not None:
            on_progress(done, len(chosen))
    return Verification(
        differences=tuple(differences),
        absent=len(store) - len(present),
        left_out=found.left_out,
        near_names=hint,
    )


def _choose_sample(image_ids: Iterable[str], size: int) -> list[str]:
    return heapq.nsmallest(size, image_ids, key=lambda i: hashlib.sha256(i.encode()).digest())


def _compare(store: FeatureReader, image_id: str, path: Path, encoder: Encoder) -> Difference:
    stored_VC = store[image_id].astype(np.float64)
    computed_VC = encode_image(path, encoder).astype(np.float64)
    difference_VC = np.abs(stored_VC - computed_VC)
    scale_VC = np.abs(stored_VC) + np.sqrt(np.square(stored_VC).mean())
    allowed_VC = TOLERANCE[store.spec.precision] * scale_VC
    # Even if all values are zero, the last bits of float16 may differ.
    excess_VC = difference_VC / np.maximum(allowed_VC, np.finfo(np.float16).tiny)
    # argmax finds NaN before any number.
    token, channel = np.unravel_index(int(difference_VC.argmax()), difference_VC.shape)
    return Difference(
        image_id=image_id,
        token=int(token),
        channel=int(channel),
        stored=float(stored_VC[token, channel]),
        computed=float(computed_VC[token, channel]),
        excess=float(np.nan_to_num(excess_VC, nan=np.inf).max()),
    )
