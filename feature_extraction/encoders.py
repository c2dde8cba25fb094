"""Frozen vision towers with their weights: images in, features out."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.timm_model import TimmModel
from PIL import Image
from torch import Tensor, nn

from feature_extraction.errors import EncoderError, ImageError
from feature_extraction.images import BACKGROUND, EXACT_PIXELS, decode_image
from feature_extraction.preprocess import fit_square, normalise
from feature_extraction.spec import (
    IMPORTED,
    FeatureSpec,
    Layer,
    Precision,
    ResizeRule,
    package_versions,
)
from feature_extraction.towers import ENCODERS, find_tower, tower_features
from feature_extraction.weights import FILE_PREFIX, RANDOM, read_weights

# B images, V tokens, C channels, S image side

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
        visual: The tower, with its weights.
        spec: What it is and how images come to it.
        device: Where it runs.
    """

    def __init__(self, visual: nn.Module, spec: FeatureSpec, device: torch.device) -> None:
        self._visual = visual.to(device).eval().requires_grad_(False)
        self.spec = spec
        self.device = device
        # Kept there: a copy to CUDA for each batch would wait for the batch before it.
        self._mean_311, self._std_311 = (
            torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1)
            for values in (spec.mean, spec.std)
        )

    @torch.inference_mode()
    def encode(self, images_B3SS: Tensor, image_ids: Sequence[str]) -> NDArray[np.float16]:
        """Return the features of a batch.

        Args:
            images_B3SS: RGB in [0, 255], uint8, as `fit_square` makes them.
            image_ids: What to call each image in a message.

        Returns:
            float16 `[B, tokens, channels]`.

        Raises:
            EncoderError: Features of an image are not finite, or too large for float16.
        """
        features_BVC, finite_B = self.encode_on_device(
            images_B3SS.to(self.device, non_blocking=True)
        )
        self.check_finite(finite_B, image_ids)
        features: NDArray[np.float16] = features_BVC.cpu().numpy()
        return features

    @torch.inference_mode()
    def encode_on_device(self, images_B3SS: Tensor) -> tuple[Tensor, Tensor]:
        """Begin to make the features of a batch; on CUDA it returns before they are made.

        Args:
            images_B3SS: As `encode` takes them, on the tower's device.

        Returns:
            On that device float16 `[B, tokens, channels]`, and boolean `[B]`: whether those of an
            image are finite.
        """
        pixels_B3SS = normalise(images_B3SS, self._mean_311, self._std_311)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.spec.precision == "bf16"
        ):
            features_BVC = tower_features(self._visual, pixels_B3SS, self.spec.layer)
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
    precision: Precision = "fp32",
    device: str = "auto",
    name: str | None = None,
) -> Encoder:
    """Build a tower with its weights.

    Args:
        encoder: A name of the table, or a folder with `open_clip_config.json` and
            `open_clip_model.safetensors`, as open_clip's own `local-dir:` takes it.
        weights: A tag of open_clip's pretrained weights, a `.safetensors` file, or `random`
            (seeded, for tests and timing); `None` takes the table's, or the folder's own.
        image_size: Side in pixels; `None` takes 224, or the folder's own.
        layer: `grid` or `pooled`.
        resize: How photographs become squares.
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
    chosen_device = _device(device)
    tower = find_tower(encoder)
    side = tower.image_size if image_size is None else image_size
    grid, channels = tower.output_shape(side, layer)
    found = read_weights(
        tower.default_weights if weights is None else weights,
        tower.model,
        quick_gelu=tower.quick_gelu if tower.has_activation_choice else None,
    )
    # Seeded whatever the weights, so that `random` means the same numbers every time.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        visual = tower.build(side)
    weights_sha256 = found.load_into(visual)
    if isinstance(visual, TimmModel):
        visual.set_input_size(side)
    mean, std = found.normalisation or tower.normalisation
    spec = FeatureSpec(
        encoder=name or tower.name,
        weights=found.name,
        architecture_sha256=tower.architecture_sha256,
        weights_sha256=weights_sha256,
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
        packages=package_versions(),
    )
    return Encoder(visual, spec, chosen_device)


def encoder_from_spec(
    spec: FeatureSpec, weights: str | Path | None = None, *, device: str = "auto"
) -> Encoder:
    """Build the very encoder a store was made with.

    Of imported features nothing is known for certain but their shape: any weights are taken that
    give it, by default those of the table.

    Args:
        spec: The store's.
        weights: Where the weights are, when the spec names no tag: a `.safetensors` file for a
            tower of the table, else the tower's folder.
        device: `auto` takes CUDA where there is one; else a torch device.

    Raises:
        EncoderError: Weights are needed and not given, or what was built is not what the spec
            says, the weights' SHA-256 included.
    """
    encoder: str | Path = spec.encoder
    if spec.encoder not in ENCODERS:
        if weights is None:
            raise EncoderError(
                f"the features were made with the encoder {spec.encoder!r}, which is not in the "
                f"table ({', '.join(ENCODERS)}); say which folder holds it"
            )
        encoder, weights = weights, RANDOM if spec.weights == RANDOM else None
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
        decoded = decode_image(picture, encoder.spec.image_size)
    except ImageError as error:
        raise ImageError(f"image {label}: {error}") from None
    pixels_3SS = fit_square(decoded, encoder.spec.image_size, encoder.spec.resize)
    features_VC: NDArray[np.float16] = encoder.encode(torch.from_numpy(pixels_3SS)[None], [label])[
        0
    ]
    return features_VC


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise EncoderError(f"{name} is {value!r}, expected one of: {', '.join(choices)}")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise EncoderError(
            f"the device {name!r} cannot be used here ({reason}); take 'cpu' or 'auto'"
        ) from None
    return device
