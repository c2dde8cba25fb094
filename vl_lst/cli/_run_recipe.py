"""The recipe of a run that `vl-lst train` starts or resumes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vl_lst.recipes import Recipe

__all__ = ["resolve_run_recipe"]


def resolve_run_recipe(
    out: Path, recipe: str | None, changes: Sequence[tuple[str, Any]], *, resume: bool
) -> "Recipe":
    """Return the recipe with the fields that options and `--set` override.

    Args:
        out: Run directory.
        recipe: YAML file or name of a bundled recipe. Default: the recipe of the run to resume, or
            the one that fits the method and the backbone.
        changes: (path of a field, value) pairs; later pairs win.
        resume: Whether to resume the run in the directory, if there is one.

    Raises:
        RecipeError: The recipe or a setting is not valid.
        CheckpointError: There is nothing to resume.
    """
    from vl_lst.errors import CheckpointError
    from vl_lst.recipes import default_recipe, load_recipe, read_recipe_file, resolve_recipe
    from vl_lst.runs.directory import RunDirectory

    saved = RunDirectory(out).recipe_file
    if resume and not (saved.exists() or recipe or changes):
        raise CheckpointError(
            f"{out} holds no run to resume. Give the folder of a run, or --task and the other "
            "options to start one there."
        )
    named = dict(changes)
    fitting = default_recipe(named.get("method.name"), named.get("backbone.name"))
    running = load_recipe(saved) if resume and saved.exists() else None
    base = recipe or (fitting if running is None else str(saved))
    return resolve_recipe(read_recipe_file(base), changes, running=running)
