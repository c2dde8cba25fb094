"""Checks of a method's settings against the layers of the frozen backbone that it reads."""

from collections.abc import Mapping, Sequence

from vl_lst.backbones.backbone import Backbone
from vl_lst.errors import ModelError

__all__ = ["require_decoder_for", "require_divisor", "selected_layers"]


def require_divisor(reduction: int, sizes: Mapping[str, int], part: str) -> None:
    """Refuse a reduction that does not divide the sizes that it is applied to.

    Args:
        reduction: Ratio of the backbone's sizes to those of what is added.
        sizes: Sizes by their names, such as `width`.
        part: Part of the backbone that has them, such as `encoder`.

    Raises:
        ModelError: It does not divide one of them.
    """
    for name, size in sizes.items():
        if size % reduction:
            raise ModelError(
                f"the reduction {reduction} does not divide the {name} of the backbone's {part}, "
                f"which is {size}; choose a divisor of "
                f"{', '.join(f'{n} {s}' for n, s in sizes.items())}"
            )


def selected_layers(chosen: Sequence[int] | None, depth: int, stack: str) -> tuple[int, ...]:
    """Return the layers of a stack that are read.

    Args:
        chosen: Layers, counted from 0; `None` means all.
        depth: Number of layers of the stack.
        stack: `encoder` or `decoder`, for the message.

    Raises:
        ModelError: There are none, they are not ascending and distinct, or the stack lacks one.
    """
    layers = tuple(range(depth)) if chosen is None else tuple(chosen)
    if (
        not layers
        or list(layers) != sorted(set(layers))
        or not 0 <= layers[0] <= layers[-1] < depth
    ):
        raise ModelError(
            f"the {stack} layers {list(layers)} are not ascending, distinct layers of a backbone "
            f"whose {stack} has {depth} (0 to {depth - 1})"
        )
    return layers


def require_decoder_for(decoder_layers: Sequence[int] | None, backbone: Backbone) -> None:
    """Refuse layers of a decoder that the backbone does not have.

    Args:
        decoder_layers: Layers that are chosen; `None` means none in particular.
        backbone: Backbone.

    Raises:
        ModelError: Layers are chosen, and the backbone has no decoder.
    """
    if decoder_layers is not None and not backbone.has_decoder:
        raise ModelError(
            f"decoder_layers is {list(decoder_layers)}, and a backbone of type "
            f"{backbone.model_type} has an encoder only: leave decoder_layers out"
        )
