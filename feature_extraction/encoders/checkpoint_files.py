"""Read the files of a pretrained checkpoint safely: JSON objects and safetensors.

A checkpoint is untrusted. Its files must be regular files below a size limit: reading a named pipe
would block, and reading a link to `/dev/zero` would fill memory. Nothing is unpickled.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from feature_extraction.errors import EncoderError
from feature_extraction.store.disk import require_regular_file

__all__ = [
    "INDEX_NAME",
    "MAX_JSON_BYTES",
    "MAX_NUMBER",
    "WEIGHTS_FILES",
    "WEIGHTS_NAME",
    "TensorShape",
    "check_numbers",
    "is_present",
    "read_json_object",
    "read_safetensors",
    "read_selected",
    "read_shapes",
    "weights_in_folder",
]

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
WEIGHTS_FILES = (WEIGHTS_NAME, INDEX_NAME, "model-*-of-*.safetensors")

# The largest files are tokenizers: 250,000 tokens take about 35 MiB.
MAX_JSON_BYTES = 128 * 2**20
# No layer, vocabulary or image size in a real configuration is larger.
MAX_NUMBER = 2**22
# Libraries create lists with an entry per layer before they build the first layer.
MAX_LAYERS = 2**12
LAYERS_IN_NAMES = ("layers", "depth", "blocks")


@dataclass(frozen=True, slots=True)
class TensorShape:
    """Type and shape of a tensor in a safetensors file.

    Args:
        dtype: Type in the notation of safetensors, such as `F32`.
        shape: Size per dimension.
    """

    dtype: str
    shape: tuple[int, ...]


def is_present(path: Path) -> bool:
    """Whether a path exists, even as a broken link.

    An incomplete copy can leave a link without its target, which must not be mistaken for a file
    that the checkpoint never had.
    """
    return os.path.lexists(path)


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        EncoderError: The file is missing, not a regular file, too large, not JSON, or not an
            object.
    """
    require_regular_file(path, max_bytes=MAX_JSON_BYTES, must_exist=True, error=EncoderError)
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise EncoderError(
            f"{path} cannot be read as JSON: {error}. Download or write the file again."
        ) from None
    if not isinstance(found, dict):
        raise EncoderError(
            f"{path} is not a JSON object: found {_kind(found)}, expected names and values in "
            "braces. Download or write the file again."
        )
    return found


def check_numbers(config: Mapping[str, Any], path: Path) -> None:
    """Check that no number of a configuration is too large to be real.

    Args:
        config: A JSON object.
        path: The file it was read from, for the message.

    Raises:
        EncoderError: An integer is larger than `MAX_NUMBER`, a number of layers is larger than
            `MAX_LAYERS`, or a floating-point number is not finite.
    """
    for name, value in _numbers(config):
        is_depth = any(part in name.rpartition(".")[2] for part in LAYERS_IN_NAMES)
        limit = MAX_LAYERS if is_depth else MAX_NUMBER
        is_whole = isinstance(value, int)
        if (is_whole and abs(value) > limit) or (not is_whole and not math.isfinite(value)):
            raise EncoderError(
                f"{path}: {name} is {str(value):.30}, expected numbers of at most {limit:,}"
            )


def _numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, int | float]]:
    """Yield all numbers and their names, without recursion: a file may be nested deeply."""
    waiting: list[tuple[str, Any]] = list(config.items())
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{name:.60}.{key}", inner) for key, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(name, inner) for inner in value]
        elif isinstance(value, int | float):
            yield name, value


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file.

    Returns:
        Tensors by name.

    Raises:
        EncoderError: The file is missing, damaged, or not safetensors.
    """
    _require_safetensors(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _damaged(path, error) from None


def read_selected(path: Path, new_name: Callable[[str], str | None]) -> dict[str, Tensor]:
    """Read some tensors of a safetensors file, without reading the others.

    Args:
        path: The file.
        new_name: Function from the name of a tensor in the file to its name in the result, or to
            `None` if it is not wanted.

    Returns:
        Tensors by their new names.

    Raises:
        EncoderError: See `read_safetensors`.
    """
    _require_safetensors(path)
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                if (renamed := new_name(name)) is not None:
                    tensors[renamed] = opened.get_tensor(name)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from None
    return tensors


def read_shapes(path: Path) -> dict[str, TensorShape]:
    """Read the types and shapes of all tensors in a safetensors file.

    Returns:
        Types and shapes by name of the tensor.

    Raises:
        EncoderError: See `read_safetensors`.
    """
    _require_safetensors(path)
    shapes: dict[str, TensorShape] = {}
    try:
        with safe_open(path, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                entry = opened.get_slice(name)
                shapes[name] = TensorShape(entry.get_dtype(), tuple(entry.get_shape()))
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from None
    return shapes


def weights_in_folder(
    folder: Path, is_wanted: Callable[[str], bool] = lambda name: True
) -> list[Path]:
    """Return the safetensors files of a checkpoint: one, or the shards of its index.

    Args:
        folder: Folder of the checkpoint.
        is_wanted: Function from the name of a tensor to whether the shard that holds it is needed.

    Raises:
        EncoderError: The index is damaged, or lists files outside the folder.
    """
    index = folder / INDEX_NAME
    if not is_present(index):
        return [folder / WEIGHTS_NAME]
    parts = read_json_object(index).get("weight_map")
    shards = parts if isinstance(parts, dict) and _all_text(parts) else {}
    if not shards or any(Path(shard).name != shard for shard in shards.values()):
        raise EncoderError(f"{index} does not list files of its folder")
    return [
        folder / shard for shard in sorted({shards[name] for name in filter(is_wanted, shards)})
    ]


def _all_text(parts: Mapping[str, Any]) -> bool:
    return all(isinstance(name, str) for name in parts.values())


def _require_safetensors(path: Path) -> None:
    if path.suffix != ".safetensors":
        raise EncoderError(
            f"{path} is not a safetensors file. Pickled checkpoints (.pt, .pth, .bin) can run any "
            "code when read, so they are refused. If you trust it, convert it once: "
            "safetensors.torch.save_file(state_dict, 'NAME.safetensors')"
        )
    if not is_present(path):
        pickles = sorted(
            file.name for file in path.parent.glob("*.*") if file.suffix in (".bin", ".pt", ".pth")
        )
        pickled = (
            f". Its folder has {', '.join(pickles[:3])}, which can run any code when read: if you "
            "trust it, convert it once with safetensors.torch.save_file"
            if pickles
            else ""
        )
        raise EncoderError(
            f"no such file: {path}{pickled}. Weights are read from safetensors files."
        )
    require_regular_file(path, must_exist=True, error=EncoderError)


def _damaged(path: Path, error: Exception) -> EncoderError:
    return EncoderError(f"{path} is damaged or truncated ({error}). Download it again.")


def _kind(found: Any) -> str:
    return "a list" if isinstance(found, list) else json.dumps(found)[:40]


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")
