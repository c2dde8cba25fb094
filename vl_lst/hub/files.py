"""The files of a run that are uploaded: all that is needed to use it, and nothing of the machine.

OWNER/NAME  README.md                               model card
            recipe.yaml model.json record.json      as in the run, without paths of the machine
            checkpoints/best/manifest.json          as in the run
                             model.safetensors
            training_curve.png
            .eval_results/TASK.yaml                 scores on official data

Not uploaded are the state of the optimizer, other checkpoints, predictions and logs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eval.errors import InputError
from eval.outputs import json_bytes
from eval.run_files import MODEL_FILE, RECIPE_FILE, RECORD_FILE, ModelCard, RunRecord
from vl_lst.bundled import BACKBONE_FOLDERS
from vl_lst.errors import CheckpointError
from vl_lst.recipes import Recipe, ZeroShotRecipe
from vl_lst.runs.checkpoint import MODEL, find_checkpoint, load_checkpoint
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.record import read_record

__all__ = ["BEST", "PortableRun", "checkpoint_files", "portable_run"]

BEST = "best"
MANIFEST = "manifest.json"
WEIGHTS = f"{MODEL}.safetensors"
# What stands in uploaded recipes for the folder of the annotations and for feature files.
DATA_ROOT = "data"
FEATURES = "features.h5"


@dataclass(frozen=True, slots=True)
class PortableRun:
    """A finished run without paths of the machine that trained it.

    Args:
        recipe: Recipe, in which paths are replaced by relative ones that say nothing.
        record: Record with the same recipe.
        card: What the model was built from.
        checkpoint: Folder of the best checkpoint.
    """

    recipe: dict[str, Any]
    record: RunRecord
    card: ModelCard
    checkpoint: Path

    def files(self) -> dict[str, bytes | Path]:
        """Return the files that loading the run reads, by path in the repository."""
        manifest, weights = checkpoint_files(BEST)
        text = yaml.safe_dump(self.recipe, sort_keys=False, allow_unicode=True)
        return {
            RECIPE_FILE: text.encode(),
            MODEL_FILE: json_bytes(self.card.model_dump(mode="json")),
            RECORD_FILE: json_bytes(self.record.model_dump(mode="json")),
            manifest: self.checkpoint / MANIFEST,
            weights: self.checkpoint / WEIGHTS,
        }


def checkpoint_files(name: str) -> tuple[str, str]:
    """Return the paths of the manifest and the weights of a checkpoint in a repository."""
    return f"checkpoints/{name}/{MANIFEST}", f"checkpoints/{name}/{WEIGHTS}"


def portable_run(directory: RunDirectory, *, backbone: str | None = None) -> PortableRun:
    """Read and check a run, and remove the paths of the machine.

    Args:
        directory: Folder of the run.
        backbone: Model ID of the backbone on the Hub, if the run was trained on a local copy.

    Raises:
        CheckpointError: The folder holds no finished run, or its checkpoint is damaged.
        InputError: The backbone is a local folder and no ID is given, or one is given for another
            backbone.
    """
    recipe = directory.recipe()
    if isinstance(recipe, ZeroShotRecipe):
        raise CheckpointError(
            f"{directory.path} holds a zero-shot run, which has no weights to upload; expected a "
            "run written by `vl-lst train --out`"
        )
    record = read_record(directory)
    checkpoint = find_checkpoint(directory.best)
    if record is None or checkpoint is None:
        raise CheckpointError(
            f"{directory.path} has no {'record' if record is None else 'best checkpoint'} yet: "
            f"finish it with `vl-lst train --resume --out {directory.path}`"
        )
    load_checkpoint(directory.best, MODEL)
    name = _backbone_name(recipe.backbone.name, backbone)
    fields = _without_paths(recipe, name)
    record = record.model_copy(
        # An error message may name files.
        update={"recipe": fields, "backbone": name, "error": None}
    )
    return PortableRun(fields, record, directory.card(), checkpoint)


def _backbone_name(found: str, given: str | None) -> str:
    is_local = found not in BACKBONE_FOLDERS and (Path(found).is_absolute() or Path(found).exists())
    if given is None:
        if is_local:
            raise InputError(
                f"the run's backbone is the local folder {found}, which nobody else has. Give the "
                "ID of the same weights on the Hub, such as --backbone t5-base; loading the run "
                "checks that they are the same."
            )
        return found
    if not is_local and given != found:
        raise InputError(
            f"--backbone {given}: the run was trained on {found}. Leave the option out; it names "
            "the source of a local copy."
        )
    return given


def _without_paths(recipe: Recipe, backbone: str) -> dict[str, Any]:
    """Return the fields of a recipe, in which each path is replaced by a relative one."""
    fields: dict[str, Any] = recipe.model_dump(mode="json")
    data = fields["data"]
    data["root"] = data["root"] and DATA_ROOT
    for field, name in (
        ("train_file", "train.jsonl"),
        ("validation_file", "val.jsonl"),
        ("answer_list", "answers.json"),
    ):
        data[field] = {task: path and f"{task}-{name}" for task, path in data[field].items()}
    fields["features"] = _numbered(FEATURES, len(recipe.features))
    # The backbone computes the same states.
    fields["states"] = None
    fields["backbone"]["name"] = backbone
    return fields


def _numbered(name: str, count: int) -> list[str]:
    path = Path(name)
    if count < 2:
        return [name] * count
    return [f"{path.stem}-{number}{path.suffix}" for number in range(1, count + 1)]
