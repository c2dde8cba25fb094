import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from feature_extraction.encoders.encoder import Encoder, build_encoder, encoder_from_spec
from feature_extraction.errors import EncoderError, StoreError
from feature_extraction.exchange.exporting import export_features
from feature_extraction.exchange.importing import import_features
from feature_extraction.exchange.verification import verify
from feature_extraction.extract import extract
from feature_extraction.store.store import FeatureStore
from vl_lst.bundled import CLIP_FOLDER


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """A trained encoder: random weights give similar features for every photograph."""
    return build_encoder(CLIP_FOLDER, image_size=64, device="cpu")


@pytest.fixture
def store(photographs: Path, tmp_path: Path, encoder: Encoder) -> FeatureStore:
    extract(photographs, tmp_path / "store.h5", encoder, batch_size=4)
    return FeatureStore(tmp_path / "store.h5")


def test_extracted_features_agree(store: FeatureStore, photographs: Path, encoder: Encoder) -> None:
    found = verify(store, photographs, encoder, sample=4)
    assert len(found.differences) == 4
    assert found.wrong == ()
    assert found.absent == 0
    again = verify(store, photographs, encoder, sample=4)
    assert again == found


def test_the_largest_difference_is_located(
    store: FeatureStore, photographs: Path, encoder: Encoder
) -> None:
    row = store.listed_ids.index("photo4")
    with h5py.File(store.path, "r+") as file:
        before = float(file["features"][row, 2, 7])
        file["features"][row, 2, 7] = before + 40
    found = verify(FeatureStore(store.path), photographs, encoder, sample=100)
    largest = found.largest
    assert (largest.image_id, largest.token, largest.channel) == ("photo4", 2, 7)
    assert largest.absolute == pytest.approx(40, rel=0.01)
    assert found.wrong == (largest,)


def test_nan_is_wrong(store: FeatureStore, photographs: Path, encoder: Encoder) -> None:
    with h5py.File(store.path, "r+") as file:
        file["features"][store.listed_ids.index("photo4"), 1, 3] = np.nan
    found = verify(FeatureStore(store.path), photographs, encoder, sample=100)
    assert (found.largest.image_id, found.largest.absolute) == ("photo4", float("inf"))
    assert len(found.wrong) == 1


@pytest.mark.parametrize("change", ["resize", "photographs"])
def test_other_preprocessing_and_other_photographs_are_wrong(
    store: FeatureStore, photographs: Path, encoder: Encoder, change: str
) -> None:
    if change == "resize":
        encoder = build_encoder(CLIP_FOLDER, image_size=64, device="cpu", resize="center-crop")
    else:
        for path in photographs.rglob("*.png"):
            with Image.open(path) as image:
                turned = image.transpose(Image.Transpose.ROTATE_180)
            turned.save(path)
    assert verify(store, photographs, encoder).wrong


def test_some_of_the_photographs_are_enough(
    store: FeatureStore, photographs: Path, encoder: Encoder, tmp_path: Path
) -> None:
    found = verify(store, photographs / "deeper", encoder, sample=100)
    assert (len(found.differences), found.absent) == (4, 5)
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (8, 8)).save(other / "stranger.png")
    with pytest.raises(StoreError, match="none of the 9 images.*'stranger'"):
        verify(store, other, encoder)


def test_photographs_with_similar_names_are_explained(
    store: FeatureStore, photographs: Path, encoder: Encoder
) -> None:
    for path in photographs.rglob("*.png"):
        path.rename(path.with_name(path.name.replace("photo", "Photo")))
    with pytest.raises(
        StoreError, match="9 of them differ only in letter case from names in the folder: found"
    ):
        verify(store, photographs, encoder)
    back = next(photographs.rglob("Photo4.png"))
    back.rename(back.with_name("photo4.png"))
    found = verify(store, photographs, encoder)
    assert found.absent == 8
    assert "8 of them differ only in letter case" in found.near_names


def test_imported_features_are_verified_with_the_named_encoder(
    store: FeatureStore, photographs: Path, tmp_path: Path
) -> None:
    export_features(store, tmp_path / "folder", "h5")
    import_features(tmp_path / "folder", tmp_path / "imported.h5", encoder="mine", image_size=64)
    imported = FeatureStore(tmp_path / "imported.h5")
    with pytest.raises(EncoderError, match="'mine', which is not in the table"):
        encoder_from_spec(imported.spec, device="cpu")
    encoder = encoder_from_spec(imported.spec, CLIP_FOLDER, device="cpu")
    assert verify(imported, photographs, encoder).wrong == ()
    larger = dataclasses.replace(imported.spec, image_size=128)
    with pytest.raises(EncoderError, match=r"grid: found \(4, 4\), expected \(2, 2\)"):
        encoder_from_spec(larger, CLIP_FOLDER, device="cpu")
