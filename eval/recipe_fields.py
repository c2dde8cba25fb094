"""The role of each recipe field when runs are compared, and when a run is resumed.

Recipes are plain dictionaries here, as in JSON.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = [
    "CHANGEABLE_ON_RESUME",
    "FORMERLY_ABSENT",
    "FORMER_DEFAULTS",
    "FORMER_OPTIONS",
    "FORMER_VALUES",
    "METHOD_FIELDS",
    "NON_PROTOCOL_FIELDS",
    "flatten_fields",
    "get_field",
    "is_within",
]


@dataclass(frozen=True, slots=True)
class _Rule:
    """Role of a field, or of all fields in a section.

    Args:
        name: Path of the field or section, such as `training.seed`.
        role: `protocol` fields are equal in all runs that are compared, `method` fields distinguish
            the rows of a leaderboard, `seed` is averaged over, and `runtime` fields affect only
            where and how fast a run computes.
        may_change: Whether a run may be resumed with another value.
    """

    name: str
    role: Literal["protocol", "method", "seed", "runtime"]
    may_change: bool = False


# Fields that are not listed, including new ones, belong to the protocol and may not change.
RULES = (
    _Rule("method", "method"),
    # Each method needs its own learning rate.
    _Rule("optimizer", "method"),
    # What reads the images: the backbone, or a visual embedding.
    _Rule("visual.embedding", "method"),
    # Methods such as QLoRA are defined by the precision of the frozen weights.
    _Rule("backbone.precision", "method"),
    # The next four distinguish the paper's methods from ours.
    _Rule("backbone.vocabulary", "method"),
    _Rule("visual.image_order_std", "method"),
    _Rule("data.prompt_prefix", "method"),
    _Rule("data.prompt_suffix", "method"),
    _Rule("data.max_prompt_tokens", "method"),
    _Rule("training.seed", "seed"),
    # Runs are compared by the weights themselves.
    _Rule("backbone.name", "runtime"),
    # Runs are compared by how the features were extracted.
    _Rule("features", "runtime", may_change=True),
    # The states of a backbone are compared by its weights; a resumed run by what the file holds.
    _Rule("states", "runtime", may_change=True),
    _Rule("training.checkpoint_every_steps", "runtime", may_change=True),
    _Rule("training.device", "runtime"),
    _Rule("training.evaluation_batch_size", "runtime"),
    _Rule("training.log_every_steps", "runtime"),
    _Rule("training.trackers", "runtime", may_change=True),
    # In records of earlier versions, instead of the trackers.
    _Rule("training.tensorboard", "runtime", may_change=True),
    _Rule("training.workers", "runtime", may_change=True),
    # Ignored if the examples are known by their digest: see `eval.leaderboard.protocol`.
    _Rule("data.root", "protocol", may_change=True),
)
METHOD_FIELDS = tuple(rule.name for rule in RULES if rule.role == "method")
NON_PROTOCOL_FIELDS = tuple(rule.name for rule in RULES if rule.role != "protocol")
CHANGEABLE_ON_RESUME = tuple(rule.name for rule in RULES if rule.may_change)

# Values that earlier versions used for all tasks before the field existed.
FORMER_VALUES = {"data.max_prompt_tokens": 20, "data.prompt_suffix": ""}

# Fields that earlier versions lacked, and that mean the same if they are null.
FORMERLY_ABSENT = (
    "backbone.vocabulary",
    "visual.embedding",
    "optimizer.warmup_steps",
    "optimizer.projection",
    "states",
)

# Fields that earlier versions lacked, with their value in those versions.
FORMER_DEFAULTS: Mapping[str, Any] = {
    "optimizer.name": "adamw",
    "backbone.precision": "fp32",
    "training.precision": "fp32",
    "training.tf32": False,
    "training.compile": False,
}

# Options of methods that earlier versions lacked, with the value that means the same.
FORMER_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "adapter": {
        "places": ["self_attention", "cross_attention", "feed_forward"],
        "train_norms": False,
        "initialisation": "identity",
        "recompute": False,
    },
    "bitfit": {"final_norms": True, "recompute": False},
    "dora": {"train_biases": False, "train_position_tables": False, "recompute": False},
    "full": {"recompute": False},
    "ia3": {"recompute": False},
    "lora": {"train_biases": False, "train_position_tables": False, "recompute": False},
    "lst": {"merge_last": False, "random_weights": "by_width"},
    "probe": {"recompute": False},
    "prompt": {"recompute": False},
    "side": {"random_weights": "by_width"},
}


def get_field(fields: Any, path: Sequence[str]) -> Any:
    """Return the field at a path, `None` if it does not exist."""
    for name in path:
        fields = fields.get(name) if isinstance(fields, dict) else None
    return fields


def flatten_fields(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested fields as {path: value}; an empty section is a value."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict) and value:
            flat |= flatten_fields(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def is_within(name: str, sections: Iterable[str]) -> bool:
    """Whether a field is one of the given fields, or lies in one of the given sections."""
    return any(name == section or name.startswith(f"{section}.") for section in sections)
