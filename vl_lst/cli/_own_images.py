"""`vl-lst train --images`: features of a user's own photographs, made before training begins."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eval.errors import InputError
from eval.submissions import first_five
from vl_lst.bundled import CLIP_FOLDER
from vl_lst.cli._console import progress, status
from vl_lst.cli.extract_features import DEMO_ENCODER
from vl_lst.recipes import Recipe

__all__ = ["extracted_into_run", "features_file"]


def features_file(run: Path) -> Path:
    """Where the features of a run's own photographs lie."""
    return run / "features.h5"


@contextmanager
def extracted_into_run(
    recipe: Recipe, images: Path, encoder: str, run: Path, *, resume: bool, quiet: bool
) -> Iterator[None]:
    """Begin a run, or take up the one there is, and put the features of photographs into it.

    During the block no other process works in the run's folder.

    Args:
        recipe: The run's.
        images: Folder of photographs.
        encoder: As `vl-lst extract-features` takes it.
        run: The run's folder.
        resume: Whether there may be a run in it.
        quiet: Show no progress.

    Raises:
        InputError: The examples are not in order, or some of their images are not in the folder.
        ImageError: There is no such folder, or it has no images.
        EncoderError: There is no such tower.
        CheckpointError: The folder holds something and `resume` is not set, or another process
            works in it.
    """
    from feature_extraction.encoders.encoder import build_encoder
    from feature_extraction.extract import extract
    from feature_extraction.images.finding import find_images
    from vl_lst.runs.directory import RunDirectory, make_folder
    from vl_lst.runs.lock import exclusive_folder

    files = find_images(images)
    _require_images_of(recipe, {file.image_id for file in files}, images, files.note)
    if files.note and not quiet:
        status.print(files.note, markup=False)
    make_folder(run)
    with exclusive_folder(run):
        RunDirectory(run).begin(recipe, resume=resume)
        tower = build_encoder(
            CLIP_FOLDER if encoder == DEMO_ENCODER else encoder,
            device=recipe.training.device,
            name=encoder if encoder == DEMO_ENCODER else None,
        )
        with progress("extracting", quiet=quiet) as report:
            result = extract(files, features_file(run), tower, on_progress=report)
        for image_id, reason in result.failures.items():
            status.print(f"could not read {image_id}: {reason}", markup=False)
        yield


def _require_images_of(recipe: Recipe, found: set[str], images: Path, note: str) -> None:
    from feature_extraction.names import near_names_hint
    from vl_lst.data.examples import task_of

    data = recipe.data
    for name in recipe.tasks:
        for split, own_file in (
            (data.train_split[name], data.train_file[name]),
            (data.validation_split[name], data.validation_file[name]),
        ):
            needed = task_of(recipe, name).load(data.folder, split).image_ids()
            if missing := [image_id for image_id in needed if image_id not in found]:
                raise InputError(
                    f"{len(missing):,} of the {len(needed):,} images of {own_file or split} are "
                    f"not in {images} (first: {first_five(missing)}); expected files of these "
                    "names there or in a folder below."
                    + near_names_hint(missing, found, place="the folder")
                    + (f" Note: {note}." if note else "")
                )
