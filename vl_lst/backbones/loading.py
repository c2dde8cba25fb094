"""Backbones and tokenizers by name: bundled, from a local folder, or from the Hugging Face Hub."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from feature_extraction.encoders.weights import projection_sha256 as hash_projection
from feature_extraction.errors import StoreError
from vl_lst.backbones.folder import (
    CONFIG_NAME,
    GENERATION_NAME,
    backbone_folder,
    load_weights,
    model_errors,
    read_config,
    read_projection,
    weights_of,
)
from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.backbones.quantization import BackbonePrecision, inner_tensors, quantize
from vl_lst.backbones.states.reader import StateReader
from vl_lst.backbones.stored import StoredBackbone
from vl_lst.backbones.tokenizer import vocabulary_sha256
from vl_lst.backbones.tokenizer_files import TOKENIZER_FILES, load_tokenizer
from vl_lst.bundled import BACKBONE_FOLDERS
from vl_lst.checks import require_choice
from vl_lst.choices import QUANTIZED, Vocabulary
from vl_lst.errors import ModelError

__all__ = [
    "DTYPES",
    "LoadedBackbone",
    "load_backbone",
    "load_stored_backbone",
    "weights_fingerprint",
]

# Precision of the activations and of weights that are not quantized.
DTYPES: dict[BackbonePrecision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "int8": torch.bfloat16,
    "nf4": torch.bfloat16,
}


@dataclass(frozen=True, slots=True)
class LoadedBackbone:
    """A frozen backbone with its tokenizer.

    Args:
        backbone: Frozen model.
        tokenizer: Hugging Face tokenizer.
        fingerprint: SHA-256 of the weights as stored, so the same for every `vocabulary`; a run
            cannot be resumed with another backbone.
        fingerprint_bf16: That of the weights rounded to bf16, so the same for every precision;
            `None` if they were not read.
        projection_sha256: Hash of the projection that ends the image encoder of a backbone that
            reads images, as in the spec of its features; `None` for other backbones.
    """

    backbone: FrozenBackbone
    tokenizer: Any
    fingerprint: str
    fingerprint_bf16: str | None = None
    projection_sha256: str | None = None


def load_backbone(
    name: str | Path,
    *,
    precision: BackbonePrecision = "fp32",
    vocabulary: Vocabulary | None = None,
) -> LoadedBackbone:
    """Load a backbone and its tokenizer.

    Args:
        name: Hugging Face model ID such as `t5-base`, a local folder with safetensors weights, or
            one of the bundled `demo` and `demo-image`.
        precision: Precision of the frozen weights and their activations. With quantized weights
            (`int8`, `nf4`), activations are bfloat16; see `quantize`.
        vocabulary: `tokenizer` cuts the embeddings and the output layer to the tokens of the
            tokenizer, so that no other can be generated; `None` keeps all that are stored.

    Raises:
        ModelError: The model does not exist or is of no known family, or one of its files is
            damaged or unsafe to read; the message names the file. Or it has no decoder, and the
            vocabulary is to be cut.
    """
    if not isinstance(name, str | Path):
        raise ModelError(
            f"the backbone is a {type(name).__name__}: expected its name or folder, as a str or "
            "pathlib.Path"
        )
    require_choice("precision of a backbone", precision, tuple(DTYPES))
    if vocabulary is not None:
        require_choice("vocabulary of a backbone", vocabulary, get_args(Vocabulary))
    name = str(name)
    problem = f"cannot load the backbone {name!r:.200}"
    expected = (
        f"expected {' or '.join(BACKBONE_FOLDERS)} (bundled), a folder with a Hugging Face model "
        "(config.json, tokenizer.json, model.safetensors), or a Hugging Face model ID such as "
        "t5-base"
    )
    with model_errors(f"{problem}, {expected}"):
        folder = BACKBONE_FOLDERS.get(name) or backbone_folder(name)
    with model_errors(problem):
        config, family = read_config(folder)
        tokenizer = load_tokenizer(folder, config, family)
        family.read_tokenizer(config, tokenizer)
        # First, since it is small, and a checkpoint of the language model alone lacks it.
        projection = read_projection(folder, family) if family.reads_images else None
        model = load_weights(folder, config, family, DTYPES[precision])
    backbone = FrozenBackbone(model, family)
    fingerprint_bf16 = weights_fingerprint(model, torch.bfloat16)
    is_rounded = all(
        weight.dtype == torch.bfloat16
        for _, weight in weights_of(model)
        if weight.is_floating_point()
    )
    if precision in QUANTIZED:
        quantize(backbone, precision)
        is_rounded = False
    # Hashing billions of weights takes seconds.
    fingerprint = fingerprint_bf16 if is_rounded else weights_fingerprint(model)
    if vocabulary == "tokenizer":
        _cut_vocabulary(backbone, tokenizer)
    return LoadedBackbone(
        backbone,
        tokenizer,
        fingerprint,
        fingerprint_bf16,
        None if projection is None else hash_projection(projection),
    )


def load_stored_backbone(
    name: str | Path, states: StateReader, *, projection_sha256: str | None = None
) -> LoadedBackbone:
    """Load the configuration and the tokenizer of a backbone whose states are in a file.

    No weights are read or downloaded but the output layer, which the file may hold. That the file
    belongs to the backbone is known from its tokenizer and its sizes; the weights are compared
    whenever they are loaded.

    Args:
        name: See `load_backbone`.
        states: The file, which also tells precision and vocabulary.
        projection_sha256: See `LoadedBackbone`.

    Raises:
        ModelError: See `load_backbone`.
        StoreError: The states are of a backbone with another tokenizer or other sizes.
    """
    name, spec = str(name), states.spec
    problem = f"cannot read the configuration of the backbone {name!r:.200}"
    with model_errors(problem):
        files = (CONFIG_NAME, GENERATION_NAME, *TOKENIZER_FILES)
        folder = BACKBONE_FOLDERS.get(name) or backbone_folder(name, files)
        config, family = read_config(folder)
        tokenizer = load_tokenizer(folder, config, family)
        family.read_tokenizer(config, tokenizer)
    backbone = StoredBackbone(config, family, states.output_layer())
    if spec.vocabulary == "tokenizer":
        size = _tokens_to_keep(backbone, tokenizer)
        if size < backbone.vocabulary_size:
            family.set_vocabulary_size(config, size)
            backbone = StoredBackbone(config, family, states.output_layer())
    _require_same_sizes(name, backbone, vocabulary_sha256(tokenizer), states)
    return LoadedBackbone(
        backbone, tokenizer, spec.weights_sha256, spec.weights_bf16_sha256, projection_sha256
    )


def _require_same_sizes(
    name: str, backbone: FrozenBackbone, tokenizer: str, states: StateReader
) -> None:
    """Refuse states that a backbone cannot have computed.

    Raises:
        StoreError: Its tokenizer or its sizes are others.
    """
    spec, output = states.spec, states.spec.output
    found: dict[str, object] = {
        "tokenizer": spec.tokenizer_sha256[:12],
        "width of the encoder": spec.encoder.width,
        "width of the decoder": None if spec.decoder is None else spec.decoder.width,
    }
    expected: dict[str, object] = {
        "tokenizer": tokenizer[:12],
        "width of the encoder": backbone.width,
        "width of the decoder": backbone.decoder_sizes.width if backbone.has_decoder else None,
    }
    if output is not None:
        found["vocabulary"] = output.vocabulary_size
        expected["vocabulary"] = backbone.vocabulary_size
    differences = [
        f"{field}: found {found[field]}, expected {expected[field]}"
        for field in found
        if found[field] != expected[field]
    ]
    if differences:
        raise StoreError(
            f"the states in {states.path} are of the backbone {spec.backbone}, not of {name}: "
            f"{'; '.join(differences)}. Extract them with `vl-lst extract-states --backbone "
            f"{name}`, or give the backbone that they are of."
        )


def _tokens_to_keep(backbone: FrozenBackbone, tokenizer: Any) -> int:
    """Return the number of tokens that a vocabulary is cut to: those of the tokenizer.

    Raises:
        ModelError: The backbone has no decoder, or needs a token that the tokenizer lacks.
    """
    if not backbone.has_decoder:
        raise ModelError(
            f"vocabulary is tokenizer, and a backbone of type {backbone.model_type} has an encoder "
            "only, so it generates no tokens: expected null"
        )
    size: int = 1 + max(tokenizer.get_vocab().values())
    needed = (
        backbone.pad_token_id,
        backbone.start_token_id,
        *backbone.end_token_ids,
        backbone.forced_bos_token_id or 0,
        backbone.forced_eos_token_id or 0,
    )
    if max(needed) >= size:
        raise ModelError(
            f"the tokenizer has {size:,} tokens, and the decoder starts or ends with token "
            f"{max(needed):,}: expected it among them, or vocabulary to be null"
        )
    return size


def _cut_vocabulary(backbone: FrozenBackbone, tokenizer: Any) -> None:
    """Cut the embeddings and the output layer to the tokens of the tokenizer.

    Raises:
        ModelError: See `_tokens_to_keep`.
    """
    size = _tokens_to_keep(backbone, tokenizer)
    family, model = backbone.family, backbone.model
    if size < backbone.vocabulary_size:
        model.resize_token_embeddings(size)
        family.set_vocabulary_size(model.config, size)
        model.eval().requires_grad_(False)


def weights_fingerprint(model: nn.Module, dtype: torch.dtype | None = None) -> str:
    """Return the SHA-256 of the names, shapes and bytes of all weights, sorted by name.

    Args:
        model: Model.
        dtype: Type to which real numbers are rounded first; `None` leaves them as they are.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(weights_of(model), key=lambda named: named[0]):
        for tensor in inner_tensors(weight.detach()):
            if dtype is not None and tensor.is_floating_point():
                tensor = tensor.to(dtype)
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            # A single number, such as a quantized weight's second scale, may have no dimension or
            # any stride, and cannot be viewed as bytes then.
            flat = tensor.cpu().contiguous().as_strided((tensor.numel(),), (1,))
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
