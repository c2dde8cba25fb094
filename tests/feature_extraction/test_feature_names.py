"""Missing ids that exist under a similar name are explained."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from feature_extraction.errors import StoreError
from feature_extraction.exchange.importing import import_features
from feature_extraction.names import abbreviate, find_near_names, image_id_of, near_names_hint
from feature_extraction.store import open_features
from feature_extraction.store.store import FeatureStore

VALUES = np.ones((4, 6), np.float32)
COMPOSED = unicodedata.normalize("NFC", "café")
APART = unicodedata.normalize("NFD", "café")


@pytest.mark.parametrize(
    ("name", "image_id"),
    [
        ("train-0.png", "train-0"),
        ("train-0.JPeG", "train-0"),
        ("photos/train/1.jpg", "1"),
        ("photos\\train\\1.jpg", "1"),
        ("1.jpg?width=300", "1"),
        ("v1.2", "v1.2"),
        ("a.png.png", "a.png"),
        (".png", ".png"),
        ("COCO_val2014_000000000042", "COCO_val2014_000000000042"),
    ],
)
def test_an_id_is_a_name_without_folders_and_image_suffix(name: str, image_id: str) -> None:
    assert image_id_of(name) == image_id


@pytest.mark.parametrize(
    ("missing", "present", "kind"),
    [
        ("train-0", "train-0.png", "the image suffix"),
        ("train-0.png", "train-0", "the image suffix"),
        (COMPOSED, APART, "how Unicode composes letters and accents"),
        (APART, COMPOSED, "how Unicode composes letters and accents"),
        ("Train-0", "train-0", "letter case"),
        ("train-0 ", "train-0", "spaces at the ends"),
        ("train-0", "photos/train-0", "folders before the name"),
        ("train-0", "photos\\train-0", "folders before the name"),
        ("train-0", "photos/Train-0.PNG", "several of suffix"),
        ("img_7", "img_007", "leading zeros of a number"),
        ("42", "COCO_val2014_000000000042", "the prefix of a number"),
        ("COCO_val2014_000000000042", "000000000042", "the prefix of a number"),
        ("train-0", "\ufefftrain-0", "invisible characters"),
        ("train-0\u200b", "train-0", "invisible characters"),
        ("train-0", "train-0.npy", "the suffix of a file of features"),
        ("train-0.jpg", "train-0.JPG.npy", "the suffix of a file of features"),
        ("train-0", "train_0", "hyphens, underscores"),
        ("my%20cat", "my cat", "hyphens, underscores"),
        ('"cat"', "cat", "hyphens, underscores"),
        ("42", "42.0", "the decimal point of a number"),
    ],
)
def test_the_kind_of_difference_is_named(missing: str, present: str, kind: str) -> None:
    near = find_near_names([missing, "quite another"], [present, "unlike"])
    assert near is not None
    assert near.kind.startswith(kind)
    assert (near.count, near.missing, near.present) == (1, missing, present)


@pytest.mark.parametrize(
    ("missing", "present"),
    [
        (["a"], ["b"]),
        (["val_7"], ["train_7"]),
        (["COCO_val2014_000000000042"], ["COCO_train2014_000000000042"]),
        (["42"], ["COCO_train2014_000000000042", "COCO_val2014_000000000042"]),
        (["x"], ["x.png", "x.jpg"]),
        (["X"], []),
        ([3, None], ["3"]),
    ],
)
def test_other_images_and_ambiguous_names_are_not_near(
    missing: list[str], present: list[str]
) -> None:
    assert find_near_names(missing, present) is None
    assert near_names_hint(missing, present) == ""


def test_the_difference_that_explains_most_is_reported_with_its_count() -> None:
    missing = [f"train-{number}" for number in range(32)]
    present = ["TRAIN-0", *(f"train-{number}.png" for number in range(32))]
    hint = near_names_hint(missing, present)
    assert "32 of them differ only in the image suffix" in hint
    assert "from names in the feature file: found 'train-0.png', expected 'train-0'" in hint


def test_names_that_look_the_same_are_shown_escaped() -> None:
    hint = near_names_hint([COMPOSED], [APART], place="the folder")
    assert r"from names in the folder: found 'cafe\u0301', expected 'caf\xe9'" in hint


def write(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        np.save(folder / f"{name}.npy", VALUES)
    return folder


def test_an_import_leaves_the_suffix_of_an_image_out(tmp_path: Path) -> None:
    import_features(write(tmp_path / "a", "train-0.png", "train\\1.jpg"), tmp_path / "out.h5")
    assert list(FeatureStore(tmp_path / "out.h5")) == ["1", "train-0"]


def test_two_files_that_become_one_id_are_both_named(tmp_path: Path) -> None:
    source = write(tmp_path / "a", "x.png", "x.jpg")
    with pytest.raises(StoreError, match=r"two files have the image id 'x'.*x\.\w+.npy.*x\.\w+.np"):
        import_features(source, tmp_path / "out.h5")


def test_a_store_explains_a_missing_id(tmp_path: Path) -> None:
    import_features(write(tmp_path / "a", "one", "Two"), tmp_path / "a.h5")
    import_features(write(tmp_path / "b", "three"), tmp_path / "b.h5")
    for store in (FeatureStore(tmp_path / "a.h5"), open_features([tmp_path / n for n in STORES])):
        with pytest.raises(
            StoreError, match="differ only in letter case from .* found 'Two', expected 'two'"
        ):
            store["two"]
        with pytest.raises(StoreError, match="image 3 is"):
            store[3]


STORES = ("a.h5", "b.h5")


def test_an_import_by_an_earlier_version_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that an earlier version made from the same source."""
    source = write(tmp_path / "a", "train-0.png", "train-1.png")
    with monkeypatch.context() as patch:
        patch.setattr("feature_extraction.exchange.foreign.find.image_id_of", lambda name: name)
        import_features(source, tmp_path / "out.h5")
    with pytest.raises(StoreError, match=r"2 of them differ only in the image suffix"):
        import_features(source, tmp_path / "out.h5")


def test_long_lists_of_names_are_abbreviated() -> None:
    assert abbreviate(["a", "b"]) == "a, b"
    assert abbreviate([str(number) for number in range(1200)], 2) == "0, 1 and 1,198 more"
