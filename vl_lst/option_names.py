"""Options of the command line that set fields of a recipe."""

from collections.abc import Mapping

__all__ = ["FIELD_OF_OPTION", "OPTION_OF_FIELD", "advice"]

OPTION_OF_FIELD: Mapping[str, str] = {
    "task": "--task",
    "data.root": "--data-root",
    "data.train_file": "--train-file",
    "data.validation_file": "--val-file",
    "features": "--features",
    "states": "--states",
    "backbone.name": "--backbone",
    "backbone.precision": "--backbone-precision",
    "method.name": "--method",
    "head": "--head",
    "training.seed": "--seed",
    "training.epochs": "--epochs",
    "training.steps": "--steps",
    "optimizer.lr": "--lr",
    "training.batch_size": "--batch-size",
    "training.device": "--device",
    "training.precision": "--precision",
}
# `--images` sets the features that are extracted from the images.
FIELD_OF_OPTION: Mapping[str, str] = {
    **{option: field for field, option in OPTION_OF_FIELD.items()},
    "--images": "features",
}
# The field that a run must be given of a section that is missing.
REQUIRED_FIELD = {
    "backbone": "backbone.name",
    "method": "method.name",
    "optimizer": "optimizer.lr",
    "training": "training.epochs",
}
# Sections whose options only some commands have; `--set` sets their fields in all.
PARTLY_OPTIONAL = ("optimizer.", "training.")


def advice(path: str) -> str:
    """Return the option that sets a field of a recipe, for messages.

    Args:
        path: Path of the field, or of a section, which stands for its required field.

    Returns:
        The name of the option, such as `--backbone` or `--lr or --set optimizer.lr=...`.
    """
    field = REQUIRED_FIELD.get(path, path)
    option = OPTION_OF_FIELD.get(field)
    setting = f"--set {field}=..."
    if option is None:
        return setting
    return f"{option} or {setting}" if field.startswith(PARTLY_OPTIONAL) else option
