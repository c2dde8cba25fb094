"""Vision-language models of transformers: the tokens that their language model reads.

`language` is what the language model is given in the places of the image, after the projection.
Only the part of the checkpoint that leads there is read and built.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn

from feature_extraction.encoders.architecture import Checkpoint
from feature_extraction.encoders.checkpoint_files import (
    INDEX_NAME,
    WEIGHTS_NAME,
    read_selected,
    weights_in_folder,
)
from feature_extraction.encoders.huggingface import HuggingFaceArchitecture
from feature_extraction.encoders.huggingface_config import without_metadata
from feature_extraction.encoders.image_tokens import IMAGE_TOKENS, ImageTokens
from feature_extraction.encoders.library_guard import guard_library_call
from feature_extraction.encoders.table import VISION_LANGUAGE_EXAMPLE
from feature_extraction.encoders.weights import (
    FILE_PREFIX,
    HUB_PREFIX,
    fetch_from_hub,
    projection_sha256,
    state_sha256,
)
from feature_extraction.errors import EncoderError
from feature_extraction.spec import Layer

__all__ = ["VisionLanguageArchitecture"]

# Modules around the network in the checkpoint of a whole model.
OUTER_MODULES = ("model.", "encoder.")


@dataclass(frozen=True, kw_only=True)
class VisionLanguageArchitecture(HuggingFaceArchitecture):
    """The part of a vision-language model from pixels to its language model."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """See `Architecture.layers`."""
        return ("language",)

    @classmethod
    def _select_part(
        cls, config: Any, fields: Mapping[str, Any], name: str
    ) -> tuple[Any, Mapping[str, Any]]:
        kind = config.model_type
        if not IMAGE_TOKENS[kind].is_encoder_decoder(config):
            raise EncoderError(
                f"the language model of {name} is a decoder ({config.text_config.model_type}): "
                "encoder-decoders and encoders are taken. Choose a checkpoint whose language model "
                f"is an encoder-decoder, such as {VISION_LANGUAGE_EXAMPLE}."
            )
        tokens = IMAGE_TOKENS[kind].tokens_per_image(config)
        if tokens < 1:
            raise EncoderError(
                f"the configuration of {name} makes {tokens} tokens of an image: expected 1 or more"
            )
        relevant = IMAGE_TOKENS[kind].relevant_fields(fields)
        parts = {
            key: without_metadata(value) if isinstance(value, Mapping) else value
            for key, value in relevant.items()
        }
        return config, {"model_type": kind, **parts}

    @classmethod
    def _vision_config(cls, config: Any) -> Any:
        return IMAGE_TOKENS[config.model_type].vision_config(config)

    def cell_size(self) -> int:
        """Return the number of pixels from one patch to the next."""
        return max(self._patch_size())

    def projection_sha256(self, module: nn.Module) -> str:
        """See `Architecture.projection_sha256`."""
        return projection_sha256(cast(ImageTokens, module).projection.state_dict())

    def _build(self, side: int) -> nn.Module:
        def cannot_build(reason: str) -> EncoderError:
            return EncoderError(f"transformers cannot build {self.name}: {reason}")

        with guard_library_call(cannot_build):
            return self._network(self.config)

    def _read(self, source: str | Path) -> Checkpoint:
        name, paths = _find_weights(str(source), lambda key: self._inner_name(key) is not None)
        state = {}
        for path in paths:
            state.update(read_selected(path, self._inner_name))
        return Checkpoint(name=name, state=state, sha256=state_sha256(state))

    @property
    def _network(self) -> type[ImageTokens]:
        return IMAGE_TOKENS[self.config.model_type]

    def _inner_name(self, name: str) -> str | None:
        """Return the name in the network of a tensor in a checkpoint; `None` if it has none."""
        for outer in OUTER_MODULES:
            name = name.removeprefix(outer)
        # Published checkpoints name a module that transformers no longer has.
        name = name.replace("vision_tower.vision_model.", "vision_tower.")
        return name if name.partition(".")[0] in self._network.parts else None


def _find_weights(source: str, is_wanted: Callable[[str], bool]) -> tuple[str, list[Path]]:
    """Return the name of weights in a spec, and their files with the wanted tensors.

    Args:
        source: File, folder, or `hub:` and a repository, of which only these files are downloaded.
        is_wanted: Function from the name of a tensor to whether it is wanted.
    """
    if source.startswith(HUB_PREFIX):
        repository = source.removeprefix(HUB_PREFIX)
        names = [
            path.name
            for path in weights_in_folder(fetch_from_hub(repository, [INDEX_NAME]), is_wanted)
        ]
        folder = fetch_from_hub(repository, names)
        return source, [folder / name for name in names]
    if Path(source).is_dir():
        return FILE_PREFIX + WEIGHTS_NAME, weights_in_folder(Path(source), is_wanted)
    return FILE_PREFIX + Path(source).name, [Path(source)]
