"""Which images have features in what another program left: a folder of files, or one file."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

from safetensors import safe_open

from feature_extraction.errors import StoreError
from feature_extraction.exchange.feature_files import (
    DAMAGE,
    HOW_TO_NAME_ROWS,
    ID_NAMES,
    FeatureFile,
    damage,
    is_name_of_many,
    refusal,
    rows_name,
)
from feature_extraction.exchange.hdf5_sources import list_hdf5
from feature_extraction.exchange.parquet_sources import find_features_column, read_names
from feature_extraction.exchange.tables import Table, open_table, read_npy_names
from feature_extraction.images.finding import ARCHIVE_SUFFIXES, is_utf8, walk_files
from feature_extraction.names import image_id_of
from feature_extraction.store.disk import read_small_text, require_regular_file
from feature_extraction.store.table import LONGEST_ID

__all__ = ["HDF5_SUFFIXES", "Found", "find"]

HDF5_SUFFIXES = (".h5", ".hdf5")
FEATURE_SUFFIXES = (*HDF5_SUFFIXES, ".npy", ".npz", ".safetensors")
TABLE_SUFFIX = ".parquet"
WITH_NAMES_BESIDE = (".npy", ".npz", ".safetensors")
MAX_LIST_BYTES = 2**30
MMF_INFO = "_info.npy"
# Features in these formats are not read: pickles, and files to unpack or convert first.
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".joblib")
OTHERS = (".tsv", ".mdb", ".lmdb", ".arrow", ".feather", ".mat", ".tfrecord")

# clip-retrieval: img_emb/img_emb_0.npy with metadata/metadata_0.parquet; text_emb of captions.
CLIP_ROWS = re.compile(r"img_emb_(\d+)\.npy")
CLIP_TEXTS = re.compile(r"text_emb_(\d+)\.npy")

LAYOUTS = (
    "files IMAGE_ID.h5 with the dataset IMAGE_ID/features, IMAGE_ID.npy, IMAGE_ID.npz or "
    "IMAGE_ID.safetensors, or one HDF5 file with a group for each image; or with a row for each "
    "image Parquet, HDF5 with features and image_ids, or what clip-retrieval writes"
)


@dataclass(frozen=True, slots=True)
class Found:
    """The images that have features, and the files that were left out.

    Args:
        files: Where the features of each image are: sorted by id, or in the order of their rows.
        left_out: Number of files that may hold features but were left out, by suffix.
    """

    files: list[FeatureFile]
    left_out: Mapping[str, int]


def find(source: Path, *, besides: Path | None = None) -> Found:
    """Find the images that have features in a folder, or in one file.

    Names that start with a dot are skipped; links to folders are followed, each folder once.

    Args:
        source: The folder, or the file.
        besides: A file that does not count, such as the store that is made of the others.

    Raises:
        StoreError: There are none, two are for one image, a name cannot be an image id, or
            something there must not be read.
    """
    if source.is_file():
        found = Found(_in_file(source), {})
    elif source.is_dir():
        found = _in_folder(source, besides)
    else:
        require_regular_file(source)
        raise StoreError(f"{source} does not exist; expected features as {LAYOUTS}")
    if not found.files:
        raise StoreError(f"no features in {source}; {_foreign(found.left_out)}expected {LAYOUTS}")
    _check_ids(source, found.files)
    return found


def _in_file(path: Path) -> list[FeatureFile]:
    suffix = path.suffix.lower()
    if suffix in HDF5_SUFFIXES:
        listed = list_hdf5(path)
        if listed is None:
            return _rows(open_table(path), None)
        return _entries(path, listed.names, are_groups=listed.are_groups)
    if suffix == ".npy":
        names = _names_beside(path)
        if names is None:
            raise StoreError(
                f"{path} is neither a folder nor an HDF5 file, but an array, and nothing names its "
                f"rows. {HOW_TO_NAME_ROWS}; or give its folder, if it is of one image."
            )
        return _rows(open_table(path), names)
    if suffix == TABLE_SUFFIX:
        return _rows(open_table(path), None)
    if suffix in (".npz", ".safetensors"):
        keys = _keys(path)
        if rows_name(keys) is not None:
            return _rows(open_table(path), None)
        if any(map(is_name_of_many, keys)):
            return _rows(open_table(path), _names_beside(path))
        return _entries(path, keys, are_groups=False)
    raise StoreError(
        f"{path} is neither a folder nor an HDF5 file, nor of another kind that is read; "
        f"{_foreign({suffix: 1})}expected {LAYOUTS}"
    )


def _in_folder(folder: Path, besides: Path | None) -> Found:
    candidates, tables, foreign = [], [], []
    for path in walk_files(folder):
        suffix = path.suffix.lower()
        if suffix in FEATURE_SUFFIXES:
            if not _is_same(path, besides):
                candidates.append(path)
        elif suffix == TABLE_SUFFIX:
            tables.append(path)
        elif suffix in (*PICKLES, *ARCHIVE_SUFFIXES, *OTHERS):
            foreign.append(path)
    if any(CLIP_ROWS.fullmatch(path.name) for path in candidates):
        return _clip_retrieval(folder, candidates, foreign)
    if texts := [path for path in candidates if CLIP_TEXTS.fullmatch(path.name)]:
        raise StoreError(
            f"{texts[0]} holds what clip-retrieval made of captions, not of images; expected "
            "img_emb/img_emb_0.npy"
        )
    # mmf writes such files with its arrays: boxes and similar, pickled.
    arrays = set(candidates)
    notes = {
        path.with_name(path.stem + MMF_INFO) for path in candidates if path.suffix == ".npy"
    } & arrays
    candidates = [path for path in candidates if path not in notes]
    foreign += sorted(notes)
    for path in candidates:
        require_regular_file(path)
    if rows := _with_names_beside(candidates):
        return Found(rows, _by_suffix(foreign))
    if not candidates:
        for path in tables:
            require_regular_file(path)
        with_features = [path for path in tables if _has_features(path)]
        rows = [row for path in sorted(with_features, key=_order) for row in _rows_of(path)]
        rest = [path for path in tables if path not in with_features]
        return Found(rows, _by_suffix([*foreign, *rest]))
    for path in candidates:
        if not is_name_of_many(path.stem):
            continue
        if path.suffix == ".npy":
            raise _nameless(path)
        raise refusal(
            FeatureFile("", path),
            "it seems to hold the features of many images; to import them, name the file itself",
        )
    files = [
        FeatureFile(id_, path, None if id_ == path.stem else path.stem)
        for path in candidates
        for id_ in (image_id_of(path.stem),)
    ]
    files.sort(key=lambda file: file.image_id)
    return Found(files, _by_suffix([*foreign, *tables]))


def _clip_retrieval(folder: Path, candidates: Sequence[Path], foreign: Sequence[Path]) -> Found:
    """Take clip-retrieval's embeddings of images with the names in its metadata."""
    parts = [path for path in candidates if CLIP_ROWS.fullmatch(path.name)]
    texts = [path for path in candidates if CLIP_TEXTS.fullmatch(path.name)]
    if others := [path for path in candidates if path not in parts and path not in texts]:
        raise StoreError(
            f"{folder} holds what clip-retrieval wrote ({parts[0].name}) and other features "
            f"({others[0]}); import them separately"
        )
    files = []
    for path in sorted(parts, key=_order):
        name = path.name.replace("img_emb", "metadata").replace(".npy", TABLE_SUFFIX)
        places = (path.parent.parent / "metadata", path.parent, path.parent.parent)
        metadata = next((place / name for place in places if (place / name).exists()), None)
        if metadata is None:
            raise StoreError(
                f"{path} holds clip-retrieval's features of many images; their names should be in "
                f"{places[0] / name}, which does not exist"
            )
        require_regular_file(metadata)
        try:
            names = read_names(FeatureFile("", metadata))
        except DAMAGE as error:
            raise StoreError(damage(metadata, error)) from None
        files += _rows(open_table(path), names, metadata)
    return Found(files, _by_suffix([*foreign, *texts]))


def _with_names_beside(candidates: Sequence[Path]) -> list[FeatureFile]:
    """Return features of many images whose names are in their folder; nothing if there are none."""
    ids = [path for path in candidates if path.suffix == ".npy" and path.stem in ID_NAMES]
    arrays = [path for path in candidates if path not in ids]
    if len(arrays) != 1 or arrays[0].suffix not in WITH_NAMES_BESIDE:
        if ids:
            raise StoreError(
                f"{ids[0]} holds names of images, and {len(arrays):,} files of features are there; "
                "expected one with a row for each name. Import them separately."
            )
        return []
    names = _names_beside(arrays[0])
    return [] if names is None else _rows(open_table(arrays[0]), names)


def _names_beside(path: Path) -> list[str] | None:
    """Read the names of an array's rows from `image_ids.npy`, `.txt` or `.json` in its folder."""
    for name in ID_NAMES:
        for beside in (path.with_name(name + suffix) for suffix in (".npy", ".txt", ".json")):
            if beside == path or not beside.exists():
                continue
            require_regular_file(beside)
            file = FeatureFile("", beside)
            try:
                if beside.suffix == ".npy":
                    with beside.open("rb") as opened:
                        return read_npy_names(
                            file, opened, open_table(path).rows, beside.stat().st_size
                        )
                text = read_small_text(beside, MAX_LIST_BYTES)
            except UnicodeDecodeError:
                raise refusal(file, "it is not text in UTF-8") from None
            except DAMAGE as error:
                raise StoreError(damage(beside, error)) from None
            try:
                # Of text, each line is a name, whatever other characters end lines elsewhere.
                is_json = beside.suffix == ".json"
                names = json.loads(text) if is_json else text.rstrip("\n").split("\n")
            except (ValueError, RecursionError):
                raise refusal(file, "it is not a JSON list of names") from None
            if not isinstance(names, list) or any(type(each) not in (str, int) for each in names):
                raise refusal(file, "it is not a JSON list of names")
            return [str(each) for each in names]
    return None


def _rows_of(path: Path) -> list[FeatureFile]:
    return _rows(open_table(path), None)


def _rows(
    table: Table, names: Sequence[str] | None, source: Path | None = None
) -> list[FeatureFile]:
    """Name each row of a file.

    Raises:
        StoreError: There are no names, or not as many as rows.
    """
    if names is None:
        try:
            names = table.names()
        except DAMAGE as error:
            raise StoreError(damage(table.path, error)) from None
    if names is None:
        raise _nameless(table.path)
    if len(names) != table.rows:
        raise StoreError(
            f"{table.path} has {table.rows:,} rows, and {source or 'the file of names'} "
            f"{len(names):,} names; expected one per row: they are of different runs, or cut short"
        )
    return [FeatureFile(image_id_of(name), table.path, row=row) for row, name in enumerate(names)]


def _entries(path: Path, names: Iterable[str], *, are_groups: bool) -> list[FeatureFile]:
    files = [
        FeatureFile(id_, path, None if are_groups and id_ == name else name)
        for name in names
        for id_ in (image_id_of(name),)
    ]
    return sorted(files, key=lambda file: file.image_id)


def _keys(path: Path) -> list[str]:
    try:
        if path.suffix.lower() == ".npz":
            with ZipFile(path) as archive:
                return [name.removesuffix(".npy") for name in archive.namelist()]
        with safe_open(path, framework="pt") as opened:
            return list(opened.keys())
    except DAMAGE as error:
        raise StoreError(damage(path, error)) from None


def _has_features(path: Path) -> bool:
    try:
        return find_features_column(path) is not None
    except DAMAGE as error:
        raise StoreError(damage(path, error)) from None


def _nameless(path: Path) -> StoreError:
    shape = ""
    if path.suffix == ".npy":
        table = open_table(path)
        shape = f" of the shape {[table.rows, *table.row_shape]}"
    return refusal(
        FeatureFile("", path),
        f"it seems to hold the features{shape} of many images, and nothing says of which. "
        f"{HOW_TO_NAME_ROWS}",
    )


def _check_ids(source: Path, files: Sequence[FeatureFile]) -> None:
    """Refuse names that cannot be ids, and two files for one id.

    Raises:
        StoreError: With the names and where they are.
    """
    file_of: dict[str, FeatureFile] = {}
    for file in files:
        image_id = file.image_id
        if not is_utf8(image_id):
            raise StoreError(
                f"the name {image_id!r} in {source} is not UTF-8, so it cannot be an image id; "
                "rename it"
            )
        if not image_id or "\0" in image_id or len(image_id) > LONGEST_ID:
            raise StoreError(
                f"the name {image_id[:80]!r} ({file.place}) cannot be an image id: expected 1 to "
                f"{LONGEST_ID:,} characters, none of them NUL"
            )
        other = file_of.setdefault(image_id, file)
        if other is not file:
            raise StoreError(
                f"two {'entries' if other.path == file.path else 'files'} are for the image "
                f"{image_id!r} (ids have neither folders nor an image's suffix): {other.place} and "
                f"{file.place}. Remove or rename one."
            )


def _is_same(path: Path, other: Path | None) -> bool:
    # Names first: resolving every path of a large folder takes long.
    return other is not None and path.name == other.name and path.resolve() == other.resolve()


def _order(path: Path) -> tuple[tuple[int, int | str], ...]:
    """Sort numbers in names as numbers: part 2 before part 10."""
    pieces = re.split(r"(\d+)", str(path))
    return tuple((0, int(p)) if p.isdecimal() else (1, p) for p in pieces)


def _by_suffix(paths: Iterable[Path]) -> dict[str, int]:
    return dict(sorted(Counter(path.suffix.lower() for path in paths).items()))


def _foreign(left_out: Mapping[str, int]) -> str:
    """Say what other files there are, and what to do with them; empty where there are none."""
    advice = (
        (
            PICKLES,
            "pickles can run any code when read, so they never are: load them where you trust "
            "them, and save them with numpy.save or safetensors.torch.save_file",
        ),
        (ARCHIVE_SUFFIXES, "archives must be unpacked first"),
        ((*OTHERS, TABLE_SUFFIX), "convert them, for instance with numpy.save"),
    )
    found = [
        f"{', '.join(f'{left_out[s]:,} {s}' for s in left_out if s in suffixes)}: {what}"
        for suffixes, what in advice
        if any(suffix in left_out for suffix in suffixes)
    ]
    return f"found {'; '.join(found)}; " if found else ""
