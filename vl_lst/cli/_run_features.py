"""`vl-lst train --images`: features extracted into the run directory before training."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eval.errors import InputError
from eval.submissions import first_five
from vl_lst.cli._console import progress, status
from vl_lst.cli._features import build_named_encoder
from vl_lst.recipes import Recipe

__all__ = ["extracted_into_run", "features_file"]


def features_file(run: Path) -> Path:
    """Return the feature file of a run that was started with `--images`."""
    return run / "features.h5"


@contextmanager
def extracted_into_run(
    recipe: Recipe, images: Path, encoder: str, run: Path, *, resume: bool, quiet: bool
) -> Iterator[None]:
    """Start or resume a run, extract features into it, and lock its folder during the block.

    Args:
        recipe: Resolved recipe of the run.
        images: Folder of photographs.
        encoder: Image encoder, as for `vl-lst extract-features`.
        run: Run directory.
        resume: Whether the folder may hold a run.
        quiet: Whether to show no progress.

    Raises:
        RecipeError: The recipe has a head that the backbone does not have.
        InputError: Examples are invalid, or some of their images are not in the folder.
        ImageError: The folder does not exist or has no images.
        EncoderError: The encoder does not exist.
        CheckpointError: The folder is not empty and `resume` is not set, or another process uses
            it.
    """
    from feature_extraction.extract import extract
    from feature_extraction.images.finding import find_images
    from vl_lst.recipes.building import require_heads
    from vl_lst.runs.directory import RunDirectory, make_folder
    from vl_lst.runs.lock import exclusive_folder

    require_heads(recipe)
    files = find_images(images)
    _require_images_of(recipe, {file.image_id for file in files}, images, files.note)
    if files.note and not quiet:
        status.print(files.note, markup=False)
    make_folder(run)
    with exclusive_folder(run):
        RunDirectory(run).prepare(recipe, resume=resume)
        built = build_named_encoder(encoder, device=recipe.training.device)
        with progress("extracting", quiet=quiet) as report:
            result = extract(files, features_file(run), built, on_progress=report)
        for image_id, reason in result.failures.items():
            status.print(f"cannot read {image_id}: {reason}", markup=False)
        yield


def _require_images_of(recipe: Recipe, found: set[str], images: Path, note: str) -> None:
    from feature_extraction.names import near_names_hint

    data = recipe.data
    for name in recipe.tasks:
        for split, own_file in (
            (data.train_split[name], data.train_file[name]),
            (data.validation_split[name], data.validation_file[name]),
        ):
            needed = recipe.configured_task(name).load(data.folder, split).image_ids()
            if missing := [image_id for image_id in needed if image_id not in found]:
                raise InputError(
                    f"{len(missing):,} of the {len(needed):,} images of {own_file or split} are "
                    f"not in {images} (first: {first_five(missing)}); expected files with these "
                    "names in this folder or its subfolders."
                    + near_names_hint(missing, found, place="the folder")
                    + (f" Note: {note}." if note else "")
                )
