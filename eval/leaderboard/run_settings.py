"""The settings and circumstances of a run, in which two runs can differ."""

import json

from eval.leaderboard.protocol import recipe_fields
from eval.recipe_fields import flatten_fields
from eval.run_files import RunRecord

__all__ = ["describe_settings"]

# What a record says about a run besides its recipe, its method and its results.
FACTS = (
    *("backbone_fingerprint", "feature_spec_sha256", "total_steps", "protocol", "num_processes"),
    *("device", "environment", "python", "packages"),
)


def describe_settings(record: RunRecord) -> dict[str, str]:
    """Return all settings and circumstances of a run as {name: JSON}, the method first."""
    fields = {"method.name": record.method, **recipe_fields(record)}
    facts = record.model_dump(mode="json", include=set(FACTS))
    fields |= flatten_fields({name: facts[name] for name in FACTS})
    fields["git.commit"] = record.git.commit if record.git else None
    return {name: json.dumps(value, ensure_ascii=False) for name, value in fields.items()}
