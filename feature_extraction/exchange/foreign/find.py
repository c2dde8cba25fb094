"""Find the images that have features in a file or folder of another program."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from zipfile import ZipFile

from safetensors import safe_open

from eval.text import is_utf8
from feature_extraction.errors import StoreError
from feature_extraction.exchange.foreign.feature_file import (
    HOW_TO_NAME_ROWS,
    ID_NAMES,
    FeatureFile,
    explain_damage,
    find_rows_name,
    is_name_of_many,
    refusal,
)
from feature_extraction.exchange.foreign.found import (
    FoundFeatures,
    find_parquet_rows,
    read_shard,
)
from feature_extraction.exchange.foreign.hdf5 import HDF5_SUFFIXES, list_hdf5
from feature_extraction.exchange.foreign.npy import read_npy_names
from feature_extraction.exchange.foreign.parquet_columns import find_features_column, read_names
from feature_extraction.exchange.foreign.tables import open_table
from feature_extraction.images.finding import ARCHIVE_SUFFIXES, walk_files
from feature_extraction.names import image_id_of
from feature_extraction.store.disk import read_small_text, require_regular_file
from feature_extraction.store.image_table import MAX_ID_LENGTH

__all__ = ["TABLE_SUFFIX", "check_ids", "find_features", "natural_order"]

FEATURE_SUFFIXES = (*HDF5_SUFFIXES, ".npy", ".npz", ".safetensors")
TABLE_SUFFIX = ".parquet"
MULTI_IMAGE_SUFFIXES = (".npy", ".npz", ".safetensors")
MAX_LIST_BYTES = 2**30
MMF_INFO = "_info.npy"
# Formats that are not read: pickles, and files to unpack or convert first.
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".joblib")
OTHER_SUFFIXES = (".tsv", ".mdb", ".lmdb", ".arrow", ".feather", ".mat", ".tfrecord")

# clip-retrieval: img_emb/img_emb_0.npy with metadata/metadata_0.parquet; text_emb for captions.
CLIP_RETRIEVAL_IMAGES = re.compile(r"img_emb_(\d+)\.npy")
CLIP_RETRIEVAL_TEXTS = re.compile(r"text_emb_(\d+)\.npy")

LAYOUTS = (
    "files IMAGE_ID.h5 with the dataset IMAGE_ID/features, IMAGE_ID.npy, IMAGE_ID.npz or "
    "IMAGE_ID.safetensors, or one HDF5 file with one group per image; or, with one row per image, "
    "Parquet, HDF5 with features and image_ids, or the output of clip-retrieval"
)


def find_features(source: Path, *, exclude: Path | None = None) -> FoundFeatures:
    """Find the images that have features in a folder or in one file.

    Names that start with a dot are skipped; links to folders are followed, each folder once.

    Args:
        source: Folder or file.
        exclude: File to ignore, such as the store that is being made.

    Raises:
        StoreError: There are no features, an image occurs twice, a name cannot be an image id, or
            a file is not safe to read.
    """
    if source.is_file() and source.suffix.lower() == TABLE_SUFFIX:
        found = find_parquet_rows([read_shard(source)], {})
    elif source.is_file():
        found = FoundFeatures(_find_in_file(source), {})
    elif source.is_dir():
        found = _find_in_folder(source, exclude)
    else:
        require_regular_file(source)
        raise StoreError(f"{source} does not exist; expected features as {LAYOUTS}")
    if not found.files:
        raise StoreError(
            f"no features in {source}; {_describe_left_out(found.left_out)}expected {LAYOUTS}"
        )
    check_ids(source, found.files)
    return found


def _find_in_file(path: Path) -> list[FeatureFile]:
    suffix = path.suffix.lower()
    if suffix in HDF5_SUFFIXES:
        entries = list_hdf5(path)
        if entries is None:
            return _rows(path)
        return _entries(path, entries.names, are_groups=entries.are_groups)
    if suffix == ".npy":
        names = _read_names_next_to(path)
        if names is None:
            raise StoreError(
                f"{path} is an array whose rows have no names. {HOW_TO_NAME_ROWS}; or, if it holds "
                "one image, pass its folder."
            )
        return _rows(path, names)
    if suffix in (".npz", ".safetensors"):
        keys = _keys(path)
        if find_rows_name(keys) is not None:
            return _rows(path)
        if any(map(is_name_of_many, keys)):
            return _rows(path, _read_names_next_to(path))
        return _entries(path, keys, are_groups=False)
    raise StoreError(
        f"{path} is neither a folder nor a file of a supported format; "
        f"{_describe_left_out({suffix: 1})}expected {LAYOUTS}"
    )


def _find_in_folder(folder: Path, exclude: Path | None) -> FoundFeatures:
    candidates, tables, unread = [], [], []
    for path in walk_files(folder):
        suffix = path.suffix.lower()
        if suffix in FEATURE_SUFFIXES:
            if not _is_same(path, exclude):
                candidates.append(path)
        elif suffix == TABLE_SUFFIX:
            tables.append(path)
        elif suffix in (*PICKLES, *ARCHIVE_SUFFIXES, *OTHER_SUFFIXES):
            unread.append(path)
    if any(CLIP_RETRIEVAL_IMAGES.fullmatch(path.name) for path in candidates):
        return _find_clip_retrieval(folder, candidates, unread)
    if texts := [path for path in candidates if CLIP_RETRIEVAL_TEXTS.fullmatch(path.name)]:
        raise StoreError(
            f"{texts[0]} holds clip-retrieval's embeddings of captions, not of images; expected "
            "img_emb/img_emb_0.npy"
        )
    # mmf writes pickled files with boxes and the like next to its arrays.
    arrays = set(candidates)
    info_files = {
        path.with_name(path.stem + MMF_INFO) for path in candidates if path.suffix == ".npy"
    } & arrays
    candidates = [path for path in candidates if path not in info_files]
    unread += sorted(info_files)
    for path in candidates:
        require_regular_file(path)
    if rows := _find_named_rows(candidates):
        return FoundFeatures(rows, _count_by_suffix(unread))
    if not candidates:
        for path in tables:
            require_regular_file(path)
        with_features = [path for path in tables if _has_features(path)]
        rest = [path for path in tables if path not in with_features]
        shards = [read_shard(path) for path in sorted(with_features, key=natural_order)]
        return find_parquet_rows(shards, _count_by_suffix([*unread, *rest]))
    for path in candidates:
        if not is_name_of_many(path.stem):
            continue
        if path.suffix == ".npy":
            raise _nameless_error(path)
        raise refusal(
            path,
            "it seems to hold the features of many images; to import them, pass the file itself",
        )
    files = [_entry(path, path.stem, is_named_by_id=True) for path in candidates]
    return FoundFeatures(_sort_by_id(files), _count_by_suffix([*unread, *tables]))


def _find_clip_retrieval(
    folder: Path, candidates: Sequence[Path], unread: Sequence[Path]
) -> FoundFeatures:
    """Find clip-retrieval's image embeddings, with the names in its metadata."""
    parts = [path for path in candidates if CLIP_RETRIEVAL_IMAGES.fullmatch(path.name)]
    texts = [path for path in candidates if CLIP_RETRIEVAL_TEXTS.fullmatch(path.name)]
    if others := [path for path in candidates if path not in parts and path not in texts]:
        raise StoreError(
            f"{folder} holds output of clip-retrieval ({parts[0].name}) and other features "
            f"({others[0]}); import them separately"
        )
    files = []
    for path in sorted(parts, key=natural_order):
        name = path.name.replace("img_emb", "metadata").replace(".npy", TABLE_SUFFIX)
        places = (path.parent.parent / "metadata", path.parent, path.parent.parent)
        metadata = next((place / name for place in places if (place / name).exists()), None)
        if metadata is None:
            raise StoreError(
                f"{path} holds clip-retrieval's features of many images, but the file with their "
                f"names, {places[0] / name}, does not exist"
            )
        require_regular_file(metadata)
        with explain_damage(metadata):
            names = read_names(metadata)
        files += _rows(path, names, metadata)
    return FoundFeatures(files, _count_by_suffix([*unread, *texts]))


def _find_named_rows(candidates: Sequence[Path]) -> list[FeatureFile]:
    """Return the rows of a single array whose image names are in the same folder, if any."""
    ids = [path for path in candidates if path.suffix == ".npy" and path.stem in ID_NAMES]
    arrays = [path for path in candidates if path not in ids]
    if len(arrays) != 1 or arrays[0].suffix not in MULTI_IMAGE_SUFFIXES:
        if ids:
            raise StoreError(
                f"{ids[0]} holds image names, but there are {len(arrays):,} files of features; "
                "expected one with a row for each name. Import them separately."
            )
        return []
    names = _read_names_next_to(arrays[0])
    return [] if names is None else _rows(arrays[0], names)


def _read_names_next_to(path: Path) -> list[str] | None:
    """Return row names from `image_ids.npy`, `.txt` or `.json` next to an array, if any."""
    for name in ID_NAMES:
        for names_path in (path.with_name(name + suffix) for suffix in (".npy", ".txt", ".json")):
            if names_path == path or not names_path.exists():
                continue
            require_regular_file(names_path)
            with explain_damage(names_path):
                if names_path.suffix == ".npy":
                    size = names_path.stat().st_size
                    with names_path.open("rb") as opened:
                        return read_npy_names(names_path, opened, open_table(path).rows, size)
                return _read_name_list(names_path)
    return None


def _read_name_list(path: Path) -> list[str]:
    """Read names from a JSON list, or from the lines of a text file."""
    try:
        text = read_small_text(path, MAX_LIST_BYTES)
    except UnicodeDecodeError:
        raise refusal(path, "it is not text in UTF-8") from None
    if path.suffix != ".json":
        # Only line feeds separate names, not the other characters of `splitlines`.
        return text.rstrip("\n").split("\n")
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or any(type(each) not in (str, int) for each in names):
        raise refusal(path, "it is not a JSON list of names")
    return [str(each) for each in names]


def _rows(
    path: Path, names: Sequence[str] | None = None, source: Path | None = None
) -> list[FeatureFile]:
    """Return the location of each row of a file.

    Args:
        path: The file.
        names: Name of each row; default: the names in the file itself.
        source: File of the names, for messages.

    Raises:
        StoreError: There are no names, or their number differs from that of the rows.
    """
    table = open_table(path)
    if names is None:
        with explain_damage(path):
            names = table.names()
    if names is None:
        raise _nameless_error(path)
    if len(names) != table.rows:
        raise StoreError(
            f"{path} has {table.rows:,} rows, but {source or 'the file of names'} has "
            f"{len(names):,} names; expected one per row. Use files from the same run."
        )
    return [FeatureFile(image_id_of(name), path, row=row) for row, name in enumerate(names)]


def _entries(path: Path, names: Iterable[str], *, are_groups: bool) -> list[FeatureFile]:
    return _sort_by_id([_entry(path, name, is_named_by_id=are_groups) for name in names])


def _entry(path: Path, name: str, *, is_named_by_id: bool) -> FeatureFile:
    """Return the location of an image called `name` by the file.

    Args:
        path: The file.
        name: Name of the file or of the entry.
        is_named_by_id: Whether the key can be left out if the name is the image id itself.
    """
    image_id = image_id_of(name)
    return FeatureFile(image_id, path, None if is_named_by_id and image_id == name else name)


def _sort_by_id(files: Iterable[FeatureFile]) -> list[FeatureFile]:
    return sorted(files, key=lambda file: file.image_id)


def _keys(path: Path) -> list[str]:
    """Return the names of the arrays in an npz or a safetensors file."""
    with explain_damage(path):
        if path.suffix.lower() == ".npz":
            with ZipFile(path) as archive:
                return [name.removesuffix(".npy") for name in archive.namelist()]
        with safe_open(path, framework="pt") as opened:
            return list(opened.keys())


def _has_features(path: Path) -> bool:
    with explain_damage(path):
        return find_features_column(path) is not None


def _nameless_error(path: Path) -> StoreError:
    shape = ""
    if path.suffix == ".npy":
        table = open_table(path)
        shape = f" of the shape {[table.rows, *table.row_shape]}"
    return refusal(
        path,
        f"it seems to hold the features{shape} of many images, but there are no image names. "
        f"{HOW_TO_NAME_ROWS}",
    )


def check_ids(source: object, files: Sequence[FeatureFile]) -> None:
    """Refuse names that cannot be image ids, and ids that occur twice.

    Raises:
        StoreError: A name is refused; the message states where it was found.
    """
    file_of: dict[str, FeatureFile] = {}
    for file in files:
        image_id = file.image_id
        if not is_utf8(image_id):
            raise StoreError(
                f"the name {image_id!r} in {source} is not UTF-8, so it cannot be an image id; "
                "rename it"
            )
        if not image_id or "\0" in image_id or len(image_id) > MAX_ID_LENGTH:
            raise StoreError(
                f"the name {image_id[:80]!r} ({file.place}) cannot be an image id: expected 1 to "
                f"{MAX_ID_LENGTH:,} characters without NUL"
            )
        other = file_of.setdefault(image_id, file)
        if other is not file:
            raise StoreError(
                f"two {'entries' if other.path == file.path else 'files'} have the image id "
                f"{image_id!r} (the name without folders and image suffix): {other.place} and "
                f"{file.place}. Remove or rename one."
            )


def _is_same(path: Path, other: Path | None) -> bool:
    # Compare names first: resolving every path of a large folder is slow.
    return other is not None and path.name == other.name and path.resolve() == other.resolve()


def natural_order(path: Path) -> tuple[tuple[int, int | str], ...]:
    """Return a sort key that compares numbers as numbers: part 2 before part 10.

    Args:
        path: The file.
    """
    pieces = re.split(r"(\d+)", str(path))
    return tuple((0, int(p)) if p.isdecimal() else (1, p) for p in pieces)


def _count_by_suffix(paths: Iterable[Path]) -> dict[str, int]:
    return dict(sorted(Counter(path.suffix.lower() for path in paths).items()))


def _describe_left_out(left_out: Mapping[str, int]) -> str:
    """Return what to do with files that were not read, for a message; empty if there are none."""
    advice = (
        (
            PICKLES,
            "pickles can run any code when they are read, so they are refused: load them where you "
            "trust them, and save them with numpy.save or safetensors.torch.save_file",
        ),
        (ARCHIVE_SUFFIXES, "archives must be unpacked first"),
        ((*OTHER_SUFFIXES, TABLE_SUFFIX), "convert them, for instance with numpy.save"),
    )
    found = [
        f"{', '.join(f'{left_out[s]:,} {s}' for s in left_out if s in suffixes)}: {what}"
        for suffixes, what in advice
        if any(suffix in left_out for suffix in suffixes)
    ]
    return f"found {'; '.join(found)}; " if found else ""
