"""States in a file for the batches of a run's tasks."""

from tasks import Task
from vl_lst.data.backbone_texts import BackboneTexts, StoredStates
from vl_lst.models.side_model import SideModel
from vl_lst.recipes import Recipe
from vl_lst.recipes.building import BuiltModel

__all__ = ["backbone_texts", "stored_states"]


def backbone_texts(recipe: Recipe, built: BuiltModel, task: Task, head: str) -> BackboneTexts:
    """Return what the backbone of a run reads of a task's examples.

    Args:
        recipe: Recipe of the run.
        built: Its model.
        task: The task, as configured for the run.
        head: Name of the task whose head answers.
    """
    backbone = built.model.backbone
    return BackboneTexts(
        task=task,
        tokenizer=built.tokenizer,
        generates=recipe.head[head] == "generate",
        start_token_id=backbone.start_token_id if backbone.has_decoder else None,
        reads_images=built.model.backbone_reads_images and task.images_per_example > 0,
    )


def stored_states(
    recipe: Recipe, built: BuiltModel, task: Task, head: str | None = None
) -> StoredStates | None:
    """Return the states of a task's texts; `None` if the backbone computes them.

    Args:
        recipe: See `backbone_texts`.
        built: See `backbone_texts`.
        task: See `backbone_texts`.
        head: See `backbone_texts`. Default: that of the task itself.
    """
    if built.states is None:
        return None
    model = built.model
    assert isinstance(model, SideModel), "building requires it of the method"
    decoder = model.side.decoder
    return StoredStates(
        built.states,
        backbone_texts(recipe, built, task, head or task.name),
        encoder_layers=model.side.encoder.layers,
        decoder_layers=None if decoder is None else decoder.layers,
    )
