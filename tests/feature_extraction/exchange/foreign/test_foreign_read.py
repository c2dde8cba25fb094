"""Reading one image's features from files of other programs: formats, damage, hostile files."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from feature_extraction.errors import FeatureFileError, StoreError
from feature_extraction.exchange.foreign.feature_file import FeatureFile
from feature_extraction.exchange.foreign.find import find_features
from feature_extraction.exchange.foreign.read import read_features, read_shape

VALUES = np.arange(12, dtype=np.float32).reshape(3, 4) / 8


def write_h5(path: Path, values: np.ndarray = VALUES, **options: object) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset(f"{path.stem}/features", data=values, **options)
    return path


def write_npy(path: Path, values: np.ndarray = VALUES) -> Path:
    np.save(path, values)
    return path


def read(path: Path) -> np.ndarray:
    return read_features(FeatureFile(path.stem, path), (3, 4))[0]


class TestFinding:
    def test_all_layouts_in_nested_folders_sorted_by_id(self, tmp_path: Path) -> None:
        (tmp_path / "deep" / "er").mkdir(parents=True)
        write_h5(tmp_path / "deep" / "er" / "b.h5")
        write_npy(tmp_path / "c.npy")
        save_file({"x": torch.zeros(3, 4)}, tmp_path / "deep" / "a.SafeTensors")
        write_npy(tmp_path / ".hidden.npy")
        (tmp_path / "readme.txt").write_text("no features")
        assert [file.image_id for file in find_features(tmp_path).files] == ["a", "b", "c"]

    def test_one_file_of_groups(self, tmp_path: Path) -> None:
        path = tmp_path / "all.h5"
        with h5py.File(path, "w") as file:
            for image_id in ("y", "x"):
                file[f"{image_id}/features"] = VALUES
        assert find_features(path).files == [FeatureFile("x", path), FeatureFile("y", path)]
        assert np.array_equal(read_features(FeatureFile("y", path), (3, 4))[0], VALUES)

    def test_problems_name_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="does not exist; expected.*IMAGE_ID.h5"):
            find_features(tmp_path / "none")
        with pytest.raises(StoreError, match="no features in"):
            find_features(tmp_path)
        write_npy(tmp_path / "a.npy")
        with pytest.raises(StoreError, match="an array whose rows have no names"):
            find_features(tmp_path / "a.npy")
        write_h5(tmp_path / "a.h5")
        with pytest.raises(StoreError, match="two files have the image id 'a'"):
            find_features(tmp_path)
        (tmp_path / "cut.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:300])
        with pytest.raises(StoreError, match="cannot be read as HDF5"):
            find_features(tmp_path / "cut.h5")
        with h5py.File(tmp_path / "store.h5", "w") as file:
            file["features"] = VALUES
        with pytest.raises(StoreError, match="already a feature store"):
            find_features(tmp_path / "store.h5")


class TestReading:
    @pytest.mark.parametrize("dtype", ["<f2", ">f2", "<f4", ">f8"])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_every_float_of_numpy(self, tmp_path: Path, dtype: str, order: str) -> None:
        path = write_npy(tmp_path / "a.npy", np.asarray(VALUES, dtype, order=order))
        assert np.array_equal(read(path), VALUES)
        assert read(path).dtype == np.float16
        path = write_h5(tmp_path / "a.h5", VALUES.astype(dtype))
        assert np.array_equal(read(path), VALUES)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_every_float_of_safetensors(self, tmp_path: Path, dtype: torch.dtype) -> None:
        path = tmp_path / "a.safetensors"
        save_file({"features": torch.from_numpy(VALUES).to(dtype), "mask": torch.ones(2)}, path)
        assert read_shape(FeatureFile("a", path)) == (3, 4)
        assert np.array_equal(read(path), VALUES)

    def test_compressed_and_chunked_hdf5(self, tmp_path: Path) -> None:
        path = write_h5(tmp_path / "a.h5", chunks=(2, 3), compression="gzip", shuffle=True)
        assert np.array_equal(read(path), VALUES)

    def test_a_vector_is_one_token(self, tmp_path: Path) -> None:
        path = write_npy(tmp_path / "a.npy", VALUES[0])
        assert read_shape(FeatureFile("a", path)) == (1, 4)
        assert np.array_equal(read_features(FeatureFile("a", path), (1, 4))[0], VALUES[:1])

    def test_another_shape_names_the_file_and_both_shapes(self, tmp_path: Path) -> None:
        path = write_npy(tmp_path / "odd.npy", np.zeros((3, 5), np.float32))
        with pytest.raises(StoreError, match=r"'odd'.*\[3, 5\].*\[3, 4\]"):
            read(path)


def cut_h5(folder: Path) -> Path:
    path = write_h5(folder / "a.h5")
    path.write_bytes(path.read_bytes()[:-20])
    return path


def empty_h5(folder: Path) -> Path:
    (folder / "a.h5").touch()
    return folder / "a.h5"


def no_group(folder: Path) -> Path:
    return write_h5(folder / "b.h5").rename(folder / "a.h5")


def no_dataset(folder: Path) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_group("a")
    return folder / "a.h5"


def never_written(folder: Path) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("a/features", (3, 4), "f4")
    return folder / "a.h5"


def half_written(folder: Path) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("a/features", (3, 4), "f4", chunks=(1, 4))[:2] = VALUES[:2]
    return folder / "a.h5"


def cut_npy(folder: Path) -> Path:
    path = write_npy(folder / "a.npy")
    path.write_bytes(path.read_bytes()[:-1])
    return path


def not_npy(folder: Path) -> Path:
    (folder / "a.npy").write_text("<html>")
    return folder / "a.npy"


def cut_safetensors(folder: Path) -> Path:
    path = folder / "a.safetensors"
    save_file({"x": torch.zeros(3, 4)}, path)
    path.write_bytes(path.read_bytes()[:-1])
    return path


def too_large(folder: Path) -> Path:
    return write_npy(folder / "a.npy", VALUES * 1e6)


def not_a_number(folder: Path) -> Path:
    return write_h5(folder / "a.h5", VALUES * np.nan)


def gone(folder: Path) -> Path:
    return folder / "a.npy"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (cut_h5, "damaged or truncated"),
        (empty_h5, "damaged or truncated"),
        (no_group, "has no /a but b; to import all"),
        (no_dataset, "has no /a/features"),
        (never_written, "never written"),
        (half_written, "parts of /a/features are missing"),
        (cut_npy, "damaged or truncated"),
        (not_npy, "damaged or truncated"),
        (cut_safetensors, "damaged or truncated"),
        (too_large, "too large for float16"),
        (not_a_number, "not finite"),
        (gone, "No such file"),
    ],
)
def test_damage_to_one_image_is_distinguished_from_everything_else(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(FeatureFileError, match=message):
        read(make(tmp_path))


def _h5(make: Callable[[h5py.File, Path], None]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        with h5py.File(folder / "a.h5", "w") as file:
            make(file, folder)
        return folder / "a.h5"

    return write


def external_link(file: h5py.File, folder: Path) -> None:
    write_h5(folder / "secret.h5")
    file["a/features"] = h5py.ExternalLink(str(folder / "secret.h5"), "/secret/features")


def external_group(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "secret.h5", "w") as secret:
        secret["a/features"] = VALUES
    file["a"] = h5py.ExternalLink(str(folder / "secret.h5"), "/a")


def soft_link(file: h5py.File, folder: Path) -> None:
    file["b"] = VALUES
    file["a/features"] = h5py.SoftLink("/b")


def external_storage(file: h5py.File, folder: Path) -> None:
    (folder / "raw").write_bytes(bytes(48))
    file.create_dataset("a/features", (3, 4), "f4", external=[(str(folder / "raw"), 0, 48)])


def virtual(file: h5py.File, folder: Path) -> None:
    layout = h5py.VirtualLayout((3, 4), "f4")
    layout[:] = h5py.VirtualSource(str(write_h5(folder / "b.h5")), "b/features", (3, 4))
    file.create_virtual_dataset("a/features", layout)


def references(file: h5py.File, folder: Path) -> None:
    file.create_dataset("a/features", (3, 4), h5py.ref_dtype)


def texts(file: h5py.File, folder: Path) -> None:
    file["a/features"] = np.array([["x"]], h5py.string_dtype())


def variable_length(file: h5py.File, folder: Path) -> None:
    file.create_dataset("a/features", (3, 4), h5py.vlen_dtype(np.float32))


def compound(file: h5py.File, folder: Path) -> None:
    file["a/features"] = np.zeros((3, 4), [("x", "f4")])


def a_group(file: h5py.File, folder: Path) -> None:
    file.create_group("a/features")


def a_dataset(file: h5py.File, folder: Path) -> None:
    file["a"] = VALUES


def absurd_shape(file: h5py.File, folder: Path) -> None:
    file.create_dataset("a/features", (2**40, 2**20), "f4", chunks=(1, 1))


def no_dimensions(file: h5py.File, folder: Path) -> None:
    file["a/features"] = 1.0


def nothing_in_it(file: h5py.File, folder: Path) -> None:
    file["a/features"] = np.zeros((0, 4))


def chunks_beyond(file: h5py.File, folder: Path) -> None:
    file.create_dataset(
        "a/features", (3, 4), "f4", chunks=(2**20, 100), maxshape=(None, None), compression="gzip"
    )


def bomb(file: h5py.File, folder: Path) -> None:
    dataset = file.create_dataset("a/features", (3, 4), "f4", chunks=(3, 4), compression="gzip")
    dataset.id.write_direct_chunk((0, 0), bytes(2**20))


def npy_of_objects(folder: Path) -> Path:
    np.save(folder / "a.npy", np.array([{}, {}], object), allow_pickle=True)
    return folder / "a.npy"


def npy_of_integers(folder: Path) -> Path:
    return write_npy(folder / "a.npy", np.zeros((3, 4), np.int64))


def npy_absurd(folder: Path) -> Path:
    with (folder / "a.npy").open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (2**40, 2**20)}
        np.lib.format.write_array_header_1_0(file, header)
    return folder / "a.npy"


def several_tensors(folder: Path) -> Path:
    save_file({"x": torch.zeros(3, 4), "y": torch.zeros(3, 4)}, folder / "a.safetensors")
    return folder / "a.safetensors"


def integers(folder: Path) -> Path:
    save_file({"features": torch.zeros(3, 4, dtype=torch.int64)}, folder / "a.safetensors")
    return folder / "a.safetensors"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_h5(external_link), "an external link"),
        (_h5(external_group), "an external link"),
        (_h5(soft_link), "a soft link"),
        (_h5(external_storage), "in other files"),
        (_h5(virtual), "in other files"),
        (_h5(references), "expected floating point"),
        (_h5(texts), "expected floating point"),
        (_h5(variable_length), "expected floating point"),
        (_h5(compound), "expected floating point"),
        (_h5(a_group), "is a Group"),
        (_h5(a_dataset), "expected a group"),
        (_h5(absurd_shape), r"expected \[tokens, channels\]"),
        (_h5(no_dimensions), r"expected \[tokens, channels\]"),
        (_h5(nothing_in_it), r"expected \[tokens, channels\]"),
        (_h5(chunks_beyond), "chunks of"),
        (_h5(bomb), "declares 48 bytes, 1,048,576 are stored"),
        (npy_of_objects, "expected floating point"),
        (npy_of_integers, "expected floating point"),
        (npy_absurd, r"expected \[tokens, channels\]"),
        (several_tensors, "2 tensors"),
        (integers, "expected floating point"),
    ],
)
def test_hostile_files_are_refused_before_reading(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    path = make(tmp_path)
    with pytest.raises(StoreError, match=message) as caught:
        read(path)
    assert "was not read" in str(caught.value)
    with pytest.raises(StoreError, match=message):
        read_shape(FeatureFile("a", path))


def test_sizes_of_photographs_next_to_the_features(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "a.h5")
    assert read_features(FeatureFile("a", path), (3, 4))[1] == (0, 0)
    with h5py.File(path, "r+") as file:
        file["a/img_h"] = 480
    assert read_features(FeatureFile("a", path), (3, 4))[1] == (0, 0)
    with h5py.File(path, "r+") as file:
        file["a/img_w"] = np.array([640])
    assert read_features(FeatureFile("a", path), (3, 4))[1] == (480, 640)


@pytest.mark.parametrize(
    "width", [-1, 2**40, 1.5, np.arange(3), "wide", h5py.SoftLink("/a/features")]
)
def test_invalid_sizes_are_refused(tmp_path: Path, width: object) -> None:
    path = write_h5(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file["a/img_h"] = 480
        file["a/img_w"] = width
    with pytest.raises(StoreError, match="img_w"):
        read_shape(FeatureFile("a", path))


def test_filters_that_hdf5_would_load_from_elsewhere_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((3, 4))
        properties.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (1,))
        group, space = file.create_group("a"), h5py.h5s.create_simple((3, 4))
        dataset = h5py.h5d.create(group.id, b"features", h5py.h5t.IEEE_F32LE, space, properties)
        dataset.write_direct_chunk((0, 0), VALUES.astype("<f4").tobytes(), 0)
    with pytest.raises(StoreError, match="HDF5 filter 32015.*h5repack"):
        read_shape(FeatureFile("a", path))
