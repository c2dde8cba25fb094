"""Checks that data and weights are those a model was built from, as `model.json` says."""

import json
from collections.abc import Collection

from eval.run_files import ModelCard, TaskCard
from feature_extraction.errors import StoreError
from feature_extraction.spec import FeatureSpec
from vl_lst.errors import CheckpointError

__all__ = [
    "feature_spec_of",
    "require_same_backbone",
    "require_same_features",
    "require_same_model",
    "require_same_tasks",
]


def feature_spec_of(card: ModelCard) -> FeatureSpec | None:
    """Return the spec of the features that a model reads; `None` if it reads the text alone."""
    if card.feature_spec is None:
        return None
    return FeatureSpec.from_json(json.dumps(card.feature_spec))


def require_same_features(card: ModelCard, found: FeatureSpec | None) -> None:
    """Refuse features that were extracted with other settings.

    Args:
        card: Model card of the run.
        found: Spec of the features; `None` if there are none.

    Raises:
        CheckpointError: There are features, and the model reads the text alone, or vice versa.
        StoreError: The specs differ; the message lists all differences.
    """
    expected = feature_spec_of(card)
    if found is None or expected is None:
        if found is not expected:
            model = "reads the text alone" if expected is None else "reads images"
            raise CheckpointError(
                f"the run's model {model}: found {'no features' if found is None else 'features'}, "
                f"expected {'none' if expected is None else 'those of its images'}. Use the "
                "features that the run was trained with."
            )
        return
    if differences := found.differences(expected):
        raise StoreError(
            "the features were extracted with other settings than those of the run: "
            f"{'; '.join(differences)}. Extract the features again with the run's settings, or "
            "train a new run on them."
        )


def require_same_tasks(card: ModelCard, tasks: Collection[str]) -> None:
    """Refuse a model card whose tasks are not those of the run's recipe.

    Raises:
        CheckpointError: The tasks differ.
    """
    if card.tasks.keys() != set(tasks):
        raise CheckpointError(
            f"the run's model.json belongs to another run: found the tasks {', '.join(card.tasks)},"
            f" expected {', '.join(tasks)}. Copy the run again."
        )


def require_same_backbone(card: ModelCard, name: str, fingerprint: str) -> None:
    """Refuse a backbone with other weights.

    Raises:
        CheckpointError: The fingerprints differ.
    """
    if fingerprint != card.backbone_fingerprint:
        raise CheckpointError(
            f"the backbone {name} has other weights than the one the run was trained with: found "
            f"SHA-256 {fingerprint[:12]}, expected {card.backbone_fingerprint[:12]}. Restore the "
            "original weights."
        )


def require_same_model(saved: ModelCard, found: ModelCard) -> None:
    """Refuse to resume a run whose data, features or backbone have changed.

    Args:
        saved: Model card in the run's folder.
        found: Model card of the model that was built now.

    Raises:
        CheckpointError: Backbone, tasks, training or validation examples, or answers differ.
        StoreError: The features differ.
    """
    require_same_tasks(saved, found.tasks)
    require_same_features(saved, feature_spec_of(found))
    require_same_backbone(saved, "of this recipe", found.backbone_fingerprint)
    if saved.states_sha256 != found.states_sha256:
        raise CheckpointError(
            "the run was trained on other states of the backbone, so it cannot be resumed exactly: "
            f"found {_short(found.states_sha256)}, expected {_short(saved.states_sha256)}. Give "
            "the file that it was started with (--states), or choose another --out."
        )
    for task, before in saved.tasks.items():
        for name in TaskCard.model_fields:
            if getattr(before, name) != getattr(found.tasks[task], name):
                raise CheckpointError(
                    f"the data of {task} have changed since the run started ({name} differs), so "
                    "it cannot be resumed exactly. Restore them, or choose another --out."
                )


def _short(digest: str | None) -> str:
    return "none (the backbone itself)" if digest is None else digest[:12]
