"""Loading a backbone from a folder that may be malicious or damaged.

JSON files are read with size limits. Of `config.json`, only the fields that the family declares are
used, and the shapes of the weights are compared with them before memory is allocated. As a result,
no file can run code, download anything, or refer to a file elsewhere.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from transformers import PreTrainedModel

from feature_extraction.encoders.checkpoint_files import (
    WEIGHTS_FILES,
    is_present,
    read_json_object,
    read_selected,
    read_shapes,
    weights_in_folder,
)
from feature_extraction.encoders.library_guard import guard_library_call
from feature_extraction.encoders.weights import fetch_from_hub
from feature_extraction.errors import FeatureError
from vl_lst.backbones.config_fields import describe_problem
from vl_lst.backbones.families import find_family
from vl_lst.backbones.family import Family
from vl_lst.backbones.tokenizer_files import TOKENIZER_FILES
from vl_lst.errors import ModelError

__all__ = [
    "CONFIG_NAME",
    "GENERATION_NAME",
    "backbone_folder",
    "cannot_build",
    "empty_model",
    "load_weights",
    "model_errors",
    "read_config",
    "read_projection",
    "weights_of",
]

CONFIG_NAME = "config.json"
GENERATION_NAME = "generation_config.json"
# Settings of generation that are in `config.json` only if there is no `generation_config.json`.
FORCED_TOKENS = ("forced_bos_token_id", "forced_eos_token_id")

FLOAT_TYPES = ("F64", "F32", "F16", "BF16")


@contextmanager
def model_errors(problem: str) -> Iterator[None]:
    """Convert errors from reading a model's files to `ModelError`s that start with `problem`."""
    try:
        yield
    except FeatureError as error:
        raise ModelError(f"{problem}: {error}") from error


def backbone_folder(name: str, files: tuple[str, ...] = ()) -> Path:
    """Return the folder of a backbone, after downloading it from the Hugging Face Hub if needed.

    Args:
        name: Local folder or model ID; `OWNER/NAME@REVISION` selects a revision.
        files: Names or patterns of the files needed; default: all files that loading reads.

    Raises:
        EncoderError: There is no such folder or model.
        ModelError: The name is empty or that of a file.
    """
    if not name.strip():
        raise ModelError(
            "the name of the backbone is empty: expected a folder or a Hugging Face model ID"
        )
    if Path(name).is_dir():
        return Path(name)
    if Path(name).exists():
        raise ModelError(f"{name} is a file: expected the folder of a backbone")
    wanted = files or (CONFIG_NAME, GENERATION_NAME, *TOKENIZER_FILES, *WEIGHTS_FILES)
    return fetch_from_hub(name, wanted)


def read_config(folder: Path) -> tuple[Any, Family]:
    """Read the configuration of a backbone.

    Args:
        folder: Folder with `config.json`, and optionally `generation_config.json`, which may set
            the start token of the decoder, tokens that it forces, and tokens that end an answer.

    Returns:
        The configuration of the language model, and its family.

    Raises:
        EncoderError: A file is missing or not a JSON object.
        ModelError: No family has the model's type, or a field is missing or out of range.
    """
    path = folder / CONFIG_NAME
    content = read_json_object(path)
    try:
        family = find_family(content.get("model_type"))
    except ModelError as error:
        raise ModelError(f"{path} is not of a backbone: {error}") from None
    generation = folder / GENERATION_NAME
    if is_present(generation):
        settings = read_json_object(generation)
        content |= {name: settings.get(name) for name in FORCED_TOKENS}
        start = settings.get("decoder_start_token_id")
        if start is not None:
            content["decoder_start_token_id"] = start
        if isinstance(ends := settings.get("eos_token_id"), list):
            content["eos_token_id"] = ends
    return build_config(family, content, str(path)), family


def build_config(family: Family, content: dict[str, Any], source: str) -> Any:
    """Return the configuration with the content of a `config.json`.

    Args:
        family: Family of the model.
        content: The JSON object.
        source: Where it comes from, for messages.

    Raises:
        ModelError: A field is missing or out of range, or transformers refuses the values.
    """
    try:
        fields = family.fields.model_validate(content)
    except ValidationError as error:
        problem = describe_problem(error, str(content.get("model_type")))
        raise ModelError(f"{source}: {problem}") from None

    def config_error(reason: str) -> ModelError:
        return ModelError(f"{source}: transformers cannot use it: {reason}")

    with guard_library_call(config_error):
        config = family.build_config(fields.values())
    for name in FORCED_TOKENS:
        token = getattr(fields, name, None)
        if token is not None or hasattr(config, name):
            # Without a token, not the default of the configuration's class, which may be another.
            setattr(config, name, token)
    return config


def load_weights(folder: Path, config: Any, family: Family, dtype: torch.dtype) -> PreTrainedModel:
    """Load a model with the weights in a folder.

    Only the tensors that the model needs are read.

    Args:
        folder: Folder with `model.safetensors`, or its shards and their index.
        config: Configuration from `read_config`.
        family: Family of the model.
        dtype: Data type of the weights in memory.

    Raises:
        EncoderError: A file is missing, damaged or not in safetensors format.
        ModelError: The tensors do not fit the configuration, or are not finite.
    """
    state: dict[str, Tensor] = {}
    for path, names in _tensors_to_read(folder, config, family).items():
        state.update(read_selected(path, names.get))
    loading: Any = family.model_class(config)
    with guard_library_call(_cannot_use(folder)):
        # Without a folder, transformers cannot look for other files in it, such as adapters.
        model, report = loading.from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=dtype,
            output_loading_info=True,
            **family.model_arguments(config),
        )
    if missing := sorted(set(report["missing_keys"]).difference(family.optional_tensors)):
        raise _missing_tensors(folder, missing)
    for name, tensor in weights_of(model):
        if not tensor.isfinite().all():
            raise ModelError(
                f"the weights in {folder} are damaged: {name} has values that are not finite. "
                "Download or save them again"
            )
    _move_forced_tokens(model, config)
    loaded: PreTrainedModel = model
    return loaded


def empty_model(config: Any, family: Family) -> PreTrainedModel:
    """Return a model without weights: its parameters have shapes and take no memory.

    Args:
        config: Configuration from `read_config`.
        family: Family of the model.

    Raises:
        ModelError: transformers cannot build the model.
    """
    with guard_library_call(cannot_build(config)), torch.device("meta"):
        model = family.build_random(config, torch.float32)
    _move_forced_tokens(model, config)
    return model


def cannot_build(config: Any) -> Callable[[str], ModelError]:
    """Return the function that makes the error about a model that transformers cannot build.

    Args:
        config: Configuration of the model.
    """
    return lambda reason: ModelError(f"cannot build a {config.model_type} of these sizes: {reason}")


def _move_forced_tokens(model: Any, config: Any) -> None:
    """Make tokens that the decoder is forced to generate settings of generation.

    `generate` refuses a configuration with such settings.
    """
    for name in FORCED_TOKENS:
        if getattr(config, name, None) is not None:
            setattr(model.generation_config, name, getattr(config, name))
            setattr(model.config, name, None)


def weights_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield what a checkpoint holds of a model: its parameters and buffers, shared ones once."""
    yield from model.named_parameters()
    saved = model.state_dict()
    for name, buffer in model.named_buffers():
        if name in saved:
            yield name, buffer


def read_projection(folder: Path, family: Family) -> dict[str, Tensor]:
    """Read the projection that the image encoder of a model ends with.

    Args:
        folder: Folder with `model.safetensors`, or its shards and their index.
        family: Family of the model, which reads images.

    Returns:
        Tensors by their names within the projection.

    Raises:
        EncoderError: A file is missing, damaged or not in safetensors format.
        ModelError: The projection is missing.
    """
    new_name = family.projection_tensor_name
    projection: dict[str, Tensor] = {}
    for path in weights_in_folder(folder, lambda name: new_name(name) is not None):
        projection.update(read_selected(path, new_name))
    if not projection:
        raise ModelError(
            f"the weights in {folder} lack the projection of image tokens, which tells the "
            "features of this backbone from others: expected the checkpoint of the whole model"
        )
    return projection


def _tensors_to_read(folder: Path, config: Any, family: Family) -> dict[Path, dict[str, str]]:
    """Return the tensors that a model needs, by file: from names in the file to the model's names.

    Raises:
        ModelError: Tensors do not fit the configuration, or are missing.
    """
    with guard_library_call(_cannot_use(folder)), torch.device("meta"):
        model: Any = family.model_class(config)(config, **family.model_arguments(config))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found: dict[Path, dict[str, str]] = {}
    for path in weights_in_folder(folder, lambda name: family.tensor_name(name) is not None):
        found[path] = {}
        for stored, entry in read_shapes(path).items():
            name = family.tensor_name(stored)
            if name is None or name not in expected:
                continue
            found[path][stored] = name
            if entry.shape != expected[name] or entry.dtype not in FLOAT_TYPES:
                raise ModelError(
                    f"{path} does not fit {CONFIG_NAME}: found {stored} of {entry.dtype} "
                    f"{list(entry.shape)}, expected floating-point numbers of "
                    f"{list(expected[name])}"
                )
    # A file has at least one of the names of a tensor that several layers share.
    known = {name for names in found.values() for name in names.values()}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    present = {id(parameters[name]) for name in known if name in parameters}
    missing = [
        name
        for name in sorted(expected)
        if name not in known
        and name not in family.optional_tensors
        and id(parameters.get(name)) not in present
    ]
    if missing:
        raise _missing_tensors(folder, missing)
    return found


def _missing_tensors(folder: Path, missing: list[str]) -> ModelError:
    return ModelError(
        f"the weights in {folder} lack {len(missing)} tensors, such as {missing[0]!r}: the file is "
        "incomplete or belongs to another model"
    )


def _cannot_use(folder: Path) -> Callable[[str], ModelError]:
    return lambda reason: ModelError(f"transformers cannot load the model in {folder}: {reason}")
