"""Transfer methods, one file each: what a method adds to the frozen backbone, and what it trains.

`get_method("lst")` finds a method by the name of its file, so a new one needs no list to be edited.
"""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from torch import Tensor, nn

from vl_lst.backbones.backbone import FrozenBackbone
from vl_lst.errors import ModelError, RecipeError
from vl_lst.models.config import HeadConfig, VisualConfig
from vl_lst.models.vision_language_model import VisionLanguageModel

__all__ = ["Method", "get_method", "method_names"]


class Method(ABC):
    """What a file in this folder offers."""

    options: type[BaseModel]
    """The method's own settings, as they stand under `method.options` in a recipe."""

    @abstractmethod
    def attach(
        self,
        backbone: FrozenBackbone,
        options: BaseModel,
        *,
        visual: VisualConfig,
        heads: Mapping[str, HeadConfig],
    ) -> VisionLanguageModel[Any]:
        """Build the model around `backbone`, with a head for each task."""

    # Most methods know nothing better, and leave it at that.
    def initialise(  # noqa: B027
        self,
        model: VisionLanguageModel[Any],
        options: BaseModel,
        samples: Iterable[tuple[Tensor, Tensor]],
    ) -> None:
        """Give the model better initial weights than its own, if the method knows any.

        Called once, before the first step of a run, in the main process.

        Args:
            model: As `attach` returned it, on the device that trains.
            options: The method's own settings.
            samples: Training examples in random order without end, as pairs of prompt ids [1, T]
                and label ids [1, L] on that device; made only as they are taken.
        """

    @abstractmethod
    def trainable(self, model: VisionLanguageModel[Any]) -> dict[str, nn.Parameter]:
        """Exactly the parameters that train, by name; a checkpoint holds these and no others."""


def method_names() -> list[str]:
    """Names of the methods there are."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def get_method(name: str) -> Method:
    """Return the method defined in `methods/<name>.py`.

    Raises:
        RecipeError: There is no such method.
        ModelError: Its file cannot be imported, or does not define a method.
    """
    if name not in method_names():
        raise RecipeError(f"no method {name!r}; there are: {', '.join(method_names())}")
    file = f"vl_lst/methods/{name}.py"
    try:
        module = importlib.import_module(f"{__name__}.{name}")
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
