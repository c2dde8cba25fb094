"""Transfer methods, one file each: what a method adds to the frozen backbone, and what it trains.

`get_method("lst")` finds a method by the name of its file, so a new one needs no list to be edited.
"""

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from pydantic import BaseModel
from torch import Tensor, nn

from vl_lst.errors import RecipeError
from vl_lst.models.backbone import FrozenBackbone
from vl_lst.models.config import HeadConfig, VisualConfig
from vl_lst.models.vision_language_model import VisionLanguageModel

__all__ = ["Method", "get_method", "method_names"]


class Method(Protocol):
    """What a file in this folder offers."""

    options: type[BaseModel]
    """The method's own settings, as they stand under `method.options` in a recipe."""

    def attach(
        self,
        backbone: FrozenBackbone,
        options: BaseModel,
        *,
        visual: VisualConfig,
        heads: Mapping[str, HeadConfig],
    ) -> VisionLanguageModel[Any]:
        """Build the model around `backbone`, with a head for each task."""
        ...

    def initialise(
        self,
        model: VisionLanguageModel[Any],
        options: BaseModel,
        samples: Iterable[tuple[Tensor, Tensor]],
    ) -> None:
        """Give the model better initial weights than random ones, if the method knows any.

        Called once, before the first step of a run.

        Args:
            model: As `attach` returned it.
            options: The method's own settings.
            samples: Training examples in random order without end, as pairs of prompt ids [1, T]
                and label ids [1, L]; whoever takes none of them pays nothing for them.
        """

    def trainable(self, model: VisionLanguageModel[Any]) -> dict[str, nn.Parameter]:
        """Exactly the parameters that train, by name; a checkpoint holds these and no others."""
        ...


def method_names() -> list[str]:
    """Names of the methods there are."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def get_method(name: str) -> Method:
    """Return the method defined in `methods/<name>.py`.

    Raises:
        RecipeError: There is no such method.
    """
    if name not in method_names():
        raise RecipeError(f"no method {name!r}; there are: {', '.join(method_names())}")
    method: Method = importlib.import_module(f"vl_lst.methods.{name}").METHOD
    return method
