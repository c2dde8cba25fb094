"""Frozen image encoders: images in, features out."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from feature_extraction.encoders.architecture import Architecture
from feature_extraction.encoders.exact_float32 import exact_float32
from feature_extraction.encoders.registry import find_architecture, is_known_name, output_shape
from feature_extraction.encoders.table import ENCODERS, MAX_IMAGE_SIZE
from feature_extraction.encoders.weights import FILE_PREFIX, RANDOM
from feature_extraction.errors import EncoderError, ImageError
from feature_extraction.images.colours import BACKGROUND
from feature_extraction.images.decode import EXACT_PIXELS, decode_image
from feature_extraction.images.preprocess import prepare
from feature_extraction.spec import (
    IMPORTED,
    MAX_CROPS,
    FeatureSpec,
    Layer,
    Precision,
    ResizeRule,
    package_versions,
)

# B images, K squares per image, V tokens, C channels, H x W grid cells per square, S square size

__all__ = [
    "Encoder",
    "build_encoder",
    "encode_image",
    "encode_images",
    "encoder_from_spec",
    "normalise",
]


class Encoder:
    """A frozen image encoder that turns preprocessed images into features.

    Create one with `build_encoder` or `encoder_from_spec`.

    Args:
        architecture: Architecture of the network.
        module: The network with its weights.
        spec: Description of the encoder and its preprocessing.
        device: Device to run on.
    """

    def __init__(
        self,
        architecture: Architecture,
        module: nn.Module,
        spec: FeatureSpec,
        device: torch.device,
    ) -> None:
        self._architecture = architecture
        self._module = module.to(device).eval().requires_grad_(False)
        self.spec = spec
        self.device = device
        # Kept on the device: copying them to CUDA per batch would wait for the previous batch.
        self._mean_311, self._std_311 = (
            torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1)
            for values in (spec.mean, spec.std)
        )

    @torch.inference_mode()
    def encode(self, images_BK3SS: Tensor, image_ids: Sequence[str]) -> NDArray[np.float16]:
        """Return the features of a batch.

        The first squares of all images are one forward pass, the second squares the next, so that
        the network never has more than B images at once.

        Args:
            images_BK3SS: uint8 RGB from `prepare`; with one square per image also `[B, 3, S, S]`.
            image_ids: Id of each image, for messages.

        Returns:
            float16 `[B, tokens, channels]`.

        Raises:
            EncoderError: The features of an image are not finite in float16.
        """
        spec = self.spec
        shape = (len(image_ids), spec.squares, 3, spec.image_size, spec.image_size)
        features_BVC, finite_B = self.encode_on_device(
            images_BK3SS.reshape(shape).to(self.device, non_blocking=True)
        )
        self.check_finite(finite_B, image_ids)
        features: NDArray[np.float16] = features_BVC.cpu().numpy()
        return features

    @torch.inference_mode()
    def encode_on_device(self, images_BK3SS: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of a batch on the device; on CUDA without waiting for them.

        Args:
            images_BK3SS: uint8 RGB from `prepare`, on the encoder's device.

        Returns:
            float16 features `[B, tokens, channels]`, and bool `[B]`: whether the features of each
            image are finite.
        """
        is_bf16 = self.spec.precision == "bf16"
        with exact_float32(), torch.autocast(self.device.type, torch.bfloat16, enabled=is_bf16):
            maps_BCHW = [
                self._architecture.features(
                    self._module,
                    normalise(images_B3SS, self._mean_311, self._std_311),
                    self.spec.layer,
                )
                for images_B3SS in images_BK3SS.unbind(1)
            ]
        features_BVC = torch.cat([map_BCHW.flatten(2) for map_BCHW in maps_BCHW], 2).mT
        stored_BVC = features_BVC.to(torch.float16).contiguous()
        return stored_BVC, stored_BVC.isfinite().flatten(1).all(dim=1)

    def check_finite(self, finite_B: Tensor, image_ids: Sequence[str]) -> None:
        """Raise an error if the features of any image are not finite.

        Args:
            finite_B: bool, from `encode_on_device`.
            image_ids: Id of each image.

        Raises:
            EncoderError: Features are not finite; the message names the first image.
        """
        wrong = [
            image_id
            for image_id, is_finite in zip(image_ids, finite_B.tolist(), strict=True)
            if not is_finite
        ]
        if wrong:
            raise EncoderError(
                f"the features of image {wrong[0]!r} ({len(wrong)} of {len(image_ids)} in its "
                f"batch) are not finite in float16: the weights {self.spec.weights} may be damaged "
                f"or belong to an encoder other than {self.spec.encoder}"
            )


def normalise(pixels_B3SS: Tensor, mean_311: Tensor, std_311: Tensor) -> Tensor:
    """Scale 8-bit RGB to [0, 1], subtract the mean and divide by the standard deviation.

    Equals torchvision's ToTensor and Normalize.

    Args:
        pixels_B3SS: uint8 images.
        mean_311: float32 mean per channel, on the images' device.
        std_311: float32 standard deviation per channel, on the images' device.

    Returns:
        float32 `[B, 3, S, S]`.
    """
    return pixels_B3SS.float().div(255).sub_(mean_311).div_(std_311)


def build_encoder(
    encoder: str | Path,
    *,
    weights: str | Path | None = None,
    image_size: int | None = None,
    layer: Layer | None = None,
    resize: ResizeRule = "squash",
    crops: int = 1,
    precision: Precision = "fp32",
    device: str = "auto",
    name: str | None = None,
) -> Encoder:
    """Build an image encoder and load its weights.

    Args:
        encoder: Name in the encoder table, open_clip model, `timm:NAME`, `hf:OWNER/NAME`, or a
            folder in the format of one of these libraries; see
            `feature_extraction.encoders.registry`.
        weights: Tag of the library's pretrained weights, `.safetensors` file, or `random` (seeded,
            for tests and timing). Default: the encoder's own.
        image_size: Image size in pixels. Default: 224 for an encoder of the table, otherwise the
            encoder's own.
        layer: `grid` for all cells of the last layer, `pooled` for one vector per image, `language`
            for the tokens that the language model of a vision-language model reads. Default:
            `language` if the encoder is such a model, otherwise `grid`.
        resize: How a photograph becomes a square; see `feature_extraction.images.preprocess`.
        crops: 1 to encode only the whole photograph; N to encode also its N x N tiles, each at
            `image_size`.
        precision: `fp32`, or `bf16` for autocast to bfloat16.
        device: torch device, or `auto` for CUDA if available, otherwise the CPU.
        name: Name of the encoder in the spec. Default: `encoder`; for a folder its last component.

    Raises:
        EncoderError: The encoder is unknown, its weights do not fit or were trained with another
            activation, or it cannot take images of this size.
    """
    if layer is not None:
        _check_choice("layer", layer, get_args(Layer))
    _check_choice("resize", resize, get_args(ResizeRule))
    _check_choice("precision", precision, get_args(Precision))
    if not 1 <= crops <= MAX_CROPS:
        raise EncoderError(f"crops is {crops}, expected 1 to {MAX_CROPS}")
    torch_device = _find_device(device)
    with _folder_in_errors(encoder):
        architecture = find_architecture(encoder)
        layer = layer or architecture.layers[0]
        if layer == "language" and crops > 1:
            raise EncoderError(
                f"crops is {crops}, expected 1 for the layer {layer}: a language model reads the "
                "tokens of the whole image. Leave out --crops."
            )
        side = architecture.image_size if image_size is None else image_size
        if side > MAX_IMAGE_SIZE:
            raise EncoderError(
                f"the image size is {side:,} pixels: expected at most {MAX_IMAGE_SIZE:,}. Use a "
                "smaller --image-size."
            )
        grid, channels = output_shape(architecture, side, layer)
        loaded = architecture.load(side, layer, weights)
    mean, std = loaded.normalisation
    spec = FeatureSpec(
        encoder=name or architecture.name,
        weights=loaded.weights,
        architecture_sha256=architecture.architecture_sha256,
        weights_sha256=loaded.weights_sha256,
        quick_gelu=architecture.quick_gelu,
        image_size=side,
        resize=resize,
        background=BACKGROUND,
        exact_pixels=EXACT_PIXELS,
        layer=layer,
        grid=grid,
        channels=channels,
        mean=mean,
        std=std,
        precision=precision,
        crops=crops,
        projection_sha256=architecture.projection_sha256(loaded.module),
        packages=package_versions(architecture.packages),
    )
    return Encoder(architecture, loaded.module, spec, torch_device)


def encoder_from_spec(
    spec: FeatureSpec, weights: str | Path | None = None, *, device: str = "auto"
) -> Encoder:
    """Build the encoder that the features of a store were extracted with.

    Only the shape of imported features is certain, so any encoder with this shape is accepted for
    them.

    Args:
        spec: Spec of the store.
        weights: `.safetensors` file of the weights, or folder of the encoder; required if the spec
            has only the name of the file.
        device: torch device, or `auto` for CUDA if available, otherwise the CPU.

    Raises:
        EncoderError: `weights` is required, or the encoder differs from the spec, for example in
            the SHA-256 of its weights.
    """
    encoder: str | Path = spec.encoder
    if weights is not None and Path(weights).is_dir():
        # An absolute path cannot be mistaken for a name.
        encoder = Path(weights).resolve()
        weights = RANDOM if spec.weights == RANDOM else None
    elif not is_known_name(spec.encoder):
        raise EncoderError(
            f"the features were extracted with the encoder {spec.encoder!r}, which is not in "
            f"the table ({', '.join(ENCODERS)}) or in a library: give its folder"
        )
    elif weights is None and spec.weights != IMPORTED:
        if spec.weights.startswith(FILE_PREFIX):
            raise EncoderError(
                f"the features were extracted with {spec.encoder} and weights from the file "
                f"{spec.weights.removeprefix(FILE_PREFIX)}: give the path of this file"
            )
        weights = spec.weights
    built = build_encoder(
        encoder,
        weights=weights,
        image_size=spec.image_size,
        layer=spec.layer,
        resize=spec.resize,
        crops=spec.crops,
        precision=spec.precision,
        device=device,
        name=spec.encoder,
    )
    expected = spec
    if spec.weights == IMPORTED:
        expected = dataclasses.replace(built.spec, grid=spec.grid, channels=spec.channels)
    differences = built.spec.differences(expected)
    if differences:
        raise EncoderError(
            f"the encoder {encoder} with weights {built.spec.weights} differs from the one the "
            f"features were extracted with ({'; '.join(differences)}). Give the same weights, or "
            "extract the features again."
        )
    return built


def encode_image(source: str | Path | Image.Image, encoder: Encoder) -> NDArray[np.float16]:
    """Return the features of one photograph, as extraction would store them.

    Args:
        source: File, or Pillow image.
        encoder: Encoder whose spec describes the preprocessing.

    Returns:
        float16 `[tokens, channels]`.

    Raises:
        ImageError: The photograph cannot be decoded.
        EncoderError: The features are not finite.
    """
    features_VC: NDArray[np.float16] = encode_images([source], encoder)[0]
    return features_VC


def encode_images(
    sources: Sequence[str | Path | Image.Image], encoder: Encoder
) -> NDArray[np.float16]:
    """Return the features of at least one photograph, encoded as one batch.

    Args:
        sources: Files, or Pillow images.
        encoder: Encoder whose spec describes the preprocessing.

    Returns:
        float16 `[images, tokens, channels]`.

    Raises:
        ImageError: A photograph cannot be decoded.
        EncoderError: The features are not finite.
    """
    labels = [
        "from memory" if isinstance(source, Image.Image) else str(source) for source in sources
    ]
    squares_BK3SS = torch.stack(
        [_prepared(source, label, encoder) for source, label in zip(sources, labels, strict=True)]
    )
    return encoder.encode(squares_BK3SS, labels)


def _prepared(source: str | Path | Image.Image, label: str, encoder: Encoder) -> Tensor:
    photograph = source if isinstance(source, Image.Image) else Path(source)
    try:
        decoded = decode_image(photograph, encoder.spec.decoded_side)
    except ImageError as error:
        raise ImageError(f"image {label}: {error}") from None
    return torch.from_numpy(
        prepare(decoded, encoder.spec.image_size, encoder.spec.resize, encoder.spec.crops)
    )


@contextmanager
def _folder_in_errors(encoder: str | Path) -> Iterator[None]:
    """Add the folder of the encoder to messages that do not name it."""
    try:
        yield
    except EncoderError as error:
        has_folder = str(encoder) in str(error)
        if has_folder or not Path(encoder).is_dir():
            raise
        raise EncoderError(f"the encoder in {encoder}: {error}") from error


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise EncoderError(f"{name} is {value!r}, expected one of: {', '.join(choices)}")


def _find_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise EncoderError(
            f"the device {name!r:.80} cannot be used here: torch has no such device. Use 'cpu' or "
            "'auto'."
        ) from None
    try:
        torch.empty(0, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise EncoderError(
            f"the device {name!r} cannot be used here ({reason}). Use 'cpu' or 'auto'."
        ) from None
    return device
