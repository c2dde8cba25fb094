"""Transfer methods, one file each; a file's name is the name of its method, `_` instead of `-`.

A method defines what is added to the frozen backbone and what trains. `get_method("lst")` imports
`lst.py`, so there is no list of methods to edit.

T prompt tokens, L answer tokens.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from torch import Tensor, nn

from eval.run_files import ZERO_SHOT
from eval.text import unknown_name
from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.choices import names_in
from vl_lst.errors import ModelError, RecipeError
from vl_lst.models.config import HeadConfig, VisualConfig
from vl_lst.models.vision_language_model import VisionLanguageModel

__all__ = ["Method", "get_method", "method_names", "require_states_alone"]


class Method(ABC):
    """Interface of a transfer method."""

    options: type[BaseModel]
    """Options of the method, set under `method.options` in a recipe."""
    needs_quantized_backbone = False
    """Whether the method is another one on a backbone in int8 or nf4, and refused on others."""

    reads_states_alone = False
    """Whether training reads nothing of the backbone but its states and its output layer, so that
    they may come from a file. `attach` then returns a `SideModel`."""

    trains_backbone_weights = False
    """Whether the weights of the backbone themselves train, so that they must be float32."""

    has_low_rank_factors = False
    """Whether the method adds low-rank updates B A, which the optimizer `lora-fa` requires."""

    @abstractmethod
    def attach(
        self,
        backbone: FrozenBackbone,
        options: BaseModel,
        *,
        visual: VisualConfig | None,
        heads: Mapping[str, HeadConfig],
    ) -> VisionLanguageModel[Any]:
        """Build the model around `backbone`.

        Called when training starts and again whenever a run is loaded.

        Args:
            backbone: Pretrained backbone, not quantized yet.
            options: Options of the method.
            visual: Settings of the visual embedding; `None` if the backbone reads the images, or if
                there are none.
            heads: Settings of one head per task name.
        """

    # Optional, hence not abstract.
    def initialise(  # noqa: B027
        self,
        model: VisionLanguageModel[Any],
        options: BaseModel,
        samples: Iterable[tuple[Tensor, Tensor]],
    ) -> None:
        """Compute initial weights that need the pretrained weights or training examples.

        Called once, before the first step of a run, in the first process. By default, the weights
        that `attach` has set stay.

        Args:
            model: Output of `attach`, on the training device.
            options: Options of the method.
            samples: Infinite iterator over training examples in random order, as pairs of prompt
                ids [1, T] and label ids [1, L] on the training device; computed lazily.
        """

    def needs_weights_to_initialise(self, options: BaseModel) -> bool:
        """Return whether `initialise` reads weights of the backbone, or runs it; by default not.

        Asked only if the backbone's states come from a file; it is then loaded for `initialise`.

        Args:
            options: Options of the method.
        """
        return False

    def trains(self, head: HeadConfig, *, visual: VisualConfig | None) -> bool:
        """Return whether the method trains anything for a task; by default, it always does.

        Args:
            head: Settings of the task's head.
            visual: See `attach`.
        """
        return True

    @abstractmethod
    def trainable(self, model: VisionLanguageModel[Any]) -> dict[str, nn.Parameter]:
        """Return exactly the parameters that train, by name; checkpoints contain only these."""


def method_names() -> list[str]:
    """Return the names of all methods."""
    return names_in(__path__)


def get_method(name: str) -> Method:
    """Return the method defined in `methods/<name>.py`, with `_` for each `-`.

    Raises:
        RecipeError: The method does not exist, or trains nothing.
        ModelError: Its file cannot be imported or does not define a method.
    """
    if name == ZERO_SHOT:
        raise RecipeError(
            f"{name} is no method to train with, since it trains nothing: use `vl-lst evaluate RUN "
            "--zero-shot`, or choose one of: " + ", ".join(method_names())
        )
    if name not in method_names():
        raise RecipeError(unknown_name("method", name, method_names()))
    stem = name.replace("-", "_")
    file = f"vl_lst/methods/{stem}.py"
    try:
        module = importlib.import_module(f"{__name__}.{stem}")
    except (ImportError, SyntaxError) as error:
        raise ModelError(f"{file} cannot be imported: {error}") from error
    method = getattr(module, "METHOD", None)
    if not isinstance(method, Method):
        found = "no METHOD" if method is None else f"METHOD = {method!r:.60}"
        raise ModelError(
            f"{file}: found {found}; expected METHOD to be an instance of a class that derives "
            "from vl_lst.methods.Method, as at the end of lst.py"
        )
    return method


def require_states_alone(name: str) -> None:
    """Refuse a method that cannot train on states of the backbone in a file.

    Raises:
        RecipeError: The method runs the backbone while it trains.
    """
    if not get_method(name).reads_states_alone:
        *others, last = (each for each in method_names() if get_method(each).reads_states_alone)
        raise RecipeError(
            f"method.name: found {name}, which runs the backbone while it trains, so states in a "
            f"file cannot replace it: expected {', '.join(others)} or {last}, or no file of states"
        )
