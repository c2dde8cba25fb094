"""Compilation of the blocks that train (`training.compile`)."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any

import torch

from vl_lst.errors import RecipeError
from vl_lst.models.vision_language_model import VisionLanguageModel
from vl_lst.recipes import Recipe

__all__ = ["compile_blocks", "require_compilable", "uncompiled"]


def require_compilable(recipe: Recipe, device: torch.device) -> None:
    """Refuse compilation where it does not pay.

    Raises:
        RecipeError: The recipe compiles, and the device is not CUDA.
    """
    if recipe.training.compile and device.type != "cuda":
        raise RecipeError(
            f"training.compile: found true, and the run trains on {device.type}, where compiled "
            "blocks are slower; expected false, or a CUDA device"
        )


def compile_blocks(model: VisionLanguageModel[Any], backend: str = "inductor") -> None:
    """Let the blocks that train run compiled in training steps.

    Names of parameters stay the same. Passes without gradients are not compiled: generation calls
    blocks with a cache that grows with each token. Shapes are dynamic from the start, so that a
    resumed run compiles the same as one that was not interrupted.

    Args:
        model: Model of any transfer method.
        backend: Backend of `torch.compile`.

    Raises:
        RecipeError: The method trains no blocks.
    """
    blocks = model.trained_blocks()
    if not blocks:
        raise RecipeError(
            "training.compile: found true, and the method trains no blocks to compile; expected "
            "false"
        )
    for block in blocks:
        # Not the module: hooks on a block stay outside of what is compiled.
        block.forward = _compiled_in_training(block.forward, backend)


def uncompiled() -> AbstractContextManager[None]:
    """Return a context in which nothing runs compiled."""
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance


def _compiled_in_training(forward: Callable[..., Any], backend: str) -> Callable[..., Any]:
    compiled = torch.compile(forward, backend=backend, dynamic=True)

    @wraps(forward)
    def run(*inputs: Any, **named: Any) -> Any:
        chosen = compiled if torch.is_grad_enabled() else forward
        return chosen(*inputs, **named)

    return run
