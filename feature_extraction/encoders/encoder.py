"""Frozen vision towers with their weights: images in, features out."""

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

from feature_extraction.encoders.exact_float32 import exact_float32
from feature_extraction.encoders.registry import Tower, find_tower, is_named, output_shape
from feature_extraction.encoders.table import ENCODERS, MAX_IMAGE_SIZE
from feature_extraction.encoders.weights import FILE_PREFIX, RANDOM
from feature_extraction.errors import EncoderError, ImageError
from feature_extraction.images.decode import BACKGROUND, EXACT_PIXELS, decode_image
from feature_extraction.images.preprocess import normalise, prepare
from feature_extraction.spec import (
    IMPORTED,
    MAX_CROPS,
    FeatureSpec,
    Layer,
    Precision,
    ResizeRule,
    package_versions,
)

# B images, K squares of one image, V tokens, C channels, H x W cells of a square, S its side

__all__ = [
    "ENCODERS",
    "Encoder",
    "build_encoder",
    "encode_image",
    "encoder_from_spec",
]


class Encoder:
    """A frozen tower, ready to turn preprocessed images into features.

    Made by `build_encoder` or `encoder_from_spec`.

    Args:
        tower: The architecture.
        visual: It, with its weights.
        spec: What it is and how images come to it.
        device: Where it runs.
    """

    def __init__(
        self, tower: Tower, visual: nn.Module, spec: FeatureSpec, device: torch.device
    ) -> None:
        self._tower = tower
        self._visual = visual.to(device).eval().requires_grad_(False)
        self.spec = spec
        self.device = device
        # Kept there: a copy to CUDA for each batch would wait for the batch before it.
        self._mean_311, self._std_311 = (
            torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1)
            for values in (spec.mean, spec.std)
        )

    @torch.inference_mode()
    def encode(self, images_BK3SS: Tensor, image_ids: Sequence[str]) -> NDArray[np.float16]:
        """Return the features of a batch.

        The tower sees the first squares of all images together, then the second ones, so that it
        never has more than B at once.

        Args:
            images_BK3SS: RGB in [0, 255], uint8, as `prepare` makes them; `[B, 3, S, S]` will do
                where there is one square of each image.
            image_ids: What to call each image in a message.

        Returns:
            float16 `[B, tokens, channels]`.

        Raises:
            EncoderError: Features of an image are not finite, or too large for float16.
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
        """Begin to make the features of a batch; on CUDA it returns before they are made.

        Args:
            images_BK3SS: As `prepare` makes them, on the tower's device.

        Returns:
            On that device float16 `[B, tokens, channels]`, and boolean `[B]`: whether those of an
            image are finite.
        """
        is_bf16 = self.spec.precision == "bf16"
        with exact_float32(), torch.autocast(self.device.type, torch.bfloat16, enabled=is_bf16):
            maps_BCHW = [
                self._tower.features(
                    self._visual,
                    normalise(images_B3SS, self._mean_311, self._std_311),
                    self.spec.layer,
                )
                for images_B3SS in images_BK3SS.unbind(1)
            ]
        features_BVC = torch.cat([map_BCHW.flatten(2) for map_BCHW in maps_BCHW], 2).mT
        stored_BVC = features_BVC.to(torch.float16).contiguous()
        return stored_BVC, stored_BVC.isfinite().flatten(1).all(dim=1)

    def check_finite(self, finite_B: Tensor, image_ids: Sequence[str]) -> None:
        """Refuse a batch when the features of an image in it are not finite.

        Raises:
            EncoderError: With the image's name.
        """
        wrong = [
            image_id
            for image_id, finite in zip(image_ids, finite_B.tolist(), strict=True)
            if not finite
        ]
        if wrong:
            raise EncoderError(
                f"the features of image {wrong[0]!r} ({len(wrong)} of {len(image_ids)} in its "
                f"batch) are not finite in float16: the weights {self.spec.weights} of "
                f"{self.spec.encoder} seem damaged, or are not this encoder's"
            )


def build_encoder(
    encoder: str | Path,
    *,
    weights: str | Path | None = None,
    image_size: int | None = None,
    layer: Layer = "grid",
    resize: ResizeRule = "squash",
    crops: int = 1,
    precision: Precision = "fp32",
    device: str = "auto",
    name: str | None = None,
) -> Encoder:
    """Build a tower with its weights.

    Args:
        encoder: A name of the table, another model of open_clip, `timm:NAME`, `hf:OWNER/NAME`, or
            a folder one of these libraries wrote; see `feature_extraction.encoders.registry`.
        weights: A tag of the library's pretrained weights, a `.safetensors` file, or `random`
            (seeded, for tests and timing); `None` takes the table's, or the tower's own.
        image_size: Side in pixels; `None` takes 224 for a tower of the table, else the tower's own.
        layer: `grid` or `pooled`.
        resize: How photographs become squares.
        crops: N for the features of the whole photograph and then of its N x N tiles, each as
            large as the tower's images; 1 for those of the whole alone.
        precision: Arithmetic of the tower.
        device: `auto` takes CUDA where there is one; else a torch device.
        name: What the spec calls the encoder; `None` takes `encoder`, of a folder the last part.

    Raises:
        EncoderError: The tower is unknown, its weights do not fit or were trained with another
            activation, or it cannot take such images.
    """
    _check_choice("layer", layer, get_args(Layer))
    _check_choice("resize", resize, get_args(ResizeRule))
    _check_choice("precision", precision, get_args(Precision))
    if not 1 <= crops <= MAX_CROPS:
        raise EncoderError(f"crops is {crops}, expected 1 to {MAX_CROPS}")
    chosen_device = _device(device)
    with _folder_in_errors(encoder):
        tower = find_tower(encoder)
        side = tower.image_size if image_size is None else image_size
        if side > MAX_IMAGE_SIZE:
            raise EncoderError(
                f"the image size is {side:,} pixels: expected at most {MAX_IMAGE_SIZE:,}. Use a "
                "smaller --image-size."
            )
        grid, channels = output_shape(tower, side, layer)
        loaded = tower.load(side, layer, weights)
    mean, std = loaded.normalisation
    spec = FeatureSpec(
        encoder=name or tower.name,
        weights=loaded.weights,
        architecture_sha256=tower.architecture_sha256,
        weights_sha256=loaded.weights_sha256,
        quick_gelu=tower.quick_gelu,
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
        packages=package_versions(tower.packages),
    )
    return Encoder(tower, loaded.module, spec, chosen_device)


def encoder_from_spec(
    spec: FeatureSpec, weights: str | Path | None = None, *, device: str = "auto"
) -> Encoder:
    """Build the very encoder a store was made with.

    Of imported features nothing is known for certain but their shape: any weights are taken that
    give it, by default those of the table.

    Args:
        spec: The store's.
        weights: Where the weights are, when the spec says only what their file was called: that
            `.safetensors` file, or the tower's folder.
        device: `auto` takes CUDA where there is one; else a torch device.

    Raises:
        EncoderError: Weights are needed and not given, or what was built is not what the spec
            says, the weights' SHA-256 included.
    """
    encoder: str | Path = spec.encoder
    if weights is not None and Path(weights).is_dir():
        # Absolute, so that no folder passes for a name.
        encoder = Path(weights).resolve()
        weights = RANDOM if spec.weights == RANDOM else None
    elif not is_named(spec.encoder):
        raise EncoderError(
            f"the features were made with the encoder {spec.encoder!r}, which is not in the "
            f"table ({', '.join(ENCODERS)}) or a library; say which folder holds it"
        )
    elif weights is None and spec.weights != IMPORTED:
        if spec.weights.startswith(FILE_PREFIX):
            raise EncoderError(
                f"the features were made with {spec.encoder} and weights from the file "
                f"{spec.weights.removeprefix(FILE_PREFIX)}; say where that file is"
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
    wanted = spec
    if spec.weights == IMPORTED:
        wanted = dataclasses.replace(built.spec, grid=spec.grid, channels=spec.channels)
    differences = built.spec.differences(wanted)
    if differences:
        raise EncoderError(
            f"the encoder {encoder} with weights {built.spec.weights} is not the one the features "
            f"were made with ({'; '.join(differences)}; here is what was found, there what the "
            "features need). Give the weights they were made with, or extract them again."
        )
    return built


def encode_image(source: str | Path | Image.Image, encoder: Encoder) -> NDArray[np.float16]:
    """Return the features of one photograph, as extraction would store them.

    Args:
        source: A file, or an image Pillow has opened.
        encoder: The tower; its spec says how the photograph is prepared.

    Returns:
        float16 `[tokens, channels]`.

    Raises:
        ImageError: The photograph cannot be decoded.
        EncoderError: Its features are not finite.
    """
    is_image = isinstance(source, Image.Image)
    label = "given" if is_image else str(source)
    picture = source if isinstance(source, Image.Image) else Path(source)
    try:
        decoded = decode_image(picture, encoder.spec.decoded_side)
    except ImageError as error:
        raise ImageError(f"image {label}: {error}") from None
    squares_K3SS = torch.from_numpy(
        prepare(decoded, encoder.spec.image_size, encoder.spec.resize, encoder.spec.crops)
    )
    features_VC: NDArray[np.float16] = encoder.encode(squares_K3SS[None], [label])[0]
    return features_VC


@contextmanager
def _folder_in_errors(encoder: str | Path) -> Iterator[None]:
    """Say which folder it is that something is wrong with, where a message does not."""
    try:
        yield
    except EncoderError as error:
        is_named_in_it = str(encoder) in str(error)
        if is_named_in_it or not Path(encoder).is_dir():
            raise
        raise EncoderError(f"the encoder in {encoder}: {error}") from error


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise EncoderError(f"{name} is {value!r}, expected one of: {', '.join(choices)}")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise EncoderError(
            f"the device {name!r:.80} cannot be used here: there is none of that name; take 'cpu' "
            "or 'auto'"
        ) from None
    try:
        torch.empty(0, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise EncoderError(
            f"the device {name!r} cannot be used here ({reason}); take 'cpu' or 'auto'"
        ) from None
    return device
