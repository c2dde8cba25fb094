"""Checks of datasets before they are read: no links, other files, objects or false sizes."""

import h5py

from feature_extraction.errors import StoreError

__all__ = ["check_no_user_block", "check_stored", "local_dataset"]


def check_no_user_block(file: h5py.File) -> None:
    """Refuse a file that does not begin with HDF5: some versions report wrong offsets for it.

    Raises:
        StoreError: Other bytes come first.
    """
    if file.userblock_size:
        raise StoreError(
            f"the file begins with {file.userblock_size:,} bytes that are not HDF5 (a user block), "
            "expected none"
        )


def local_dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """Open a dataset without following links.

    Raises:
        StoreError: It is missing, stored elsewhere, or holds objects or references.
    """
    # `in` and [] follow links, so the kind of link is checked first.
    if name not in set(file):
        raise StoreError(f"/{name} is missing; the file is damaged or of another kind")
    link = file.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise StoreError(
            f"/{name} is a {type(link).__name__}, expected data in the file itself; refused"
        )
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise StoreError(f"/{name} is a {type(dataset).__name__}, expected a dataset")
    if dataset.external is not None:
        raise StoreError(f"/{name} keeps its data in other files (external storage); refused")
    if dataset.is_virtual:
        raise StoreError(f"/{name} is a virtual dataset over other files; refused")
    if h5py.check_ref_dtype(dataset.dtype) is not None or (
        dataset.dtype.hasobject and h5py.check_string_dtype(dataset.dtype) is None
    ):
        raise StoreError(f"/{name} holds references or objects, expected plain numbers or text")
    return dataset


def check_stored(dataset: h5py.Dataset) -> None:
    """Refuse a dataset that declares more data than the file stores.

    Raises:
        StoreError: Data are missing.
    """
    declared = dataset.size * dataset.id.get_type().get_size()
    # The storage size that HDF5 reports comes from the file, so it is bounded by the file's size.
    stored = min(dataset.id.get_storage_size(), dataset.file.id.get_filesize())
    if stored < declared:
        raise StoreError(
            f"{dataset.name} declares {declared:,} bytes but {stored:,} are stored; "
            "the file is incomplete"
        )
