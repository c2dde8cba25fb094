"""Which runs are comparable, and which settings distinguish methods.

Runs are comparable if everything but the method and the seed is the same: their recipes in all
fields that are part of the protocol (see `eval.recipe_fields`) and, from their records, the
official scoring rules, the features, the backbone's weights, the number of steps, the training
examples, the scored examples, and environment variables that change numerical precision. If the
scored examples are known by their digest, the data root does not matter.

A run without training has only a part of that in common with trained runs: the rules, the scored
examples, the features and the backbone. `eval.leaderboard.floors` says which runs it is a floor of.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from eval.leaderboard.runs import Run
from eval.recipe_fields import (
    FORMER_DEFAULTS,
    FORMER_OPTIONS,
    FORMER_VALUES,
    FORMERLY_ABSENT,
    METHOD_FIELDS,
    NON_PROTOCOL_FIELDS,
    flatten_fields,
    is_within,
)
from eval.run_files import ZERO_SHOT, RunRecord

__all__ = [
    "BLIND_FIELD",
    "differing_settings",
    "method_settings",
    "protocol_of",
    "recipe_fields",
    "rounded_fingerprints",
]

# Earlier versions had one number for all tasks.
ANSWER_COUNT = "data.min_answer_count"
METHOD_SECTIONS = re.compile(r"^(method\.options|optimizer|visual|data)\.")
OPTIMIZER_NAME = "optimizer.name"
# Whether image features are zeros.
BLIND_FIELD = "data.blind"
# Fields of a recipe that are part of the protocol without training; others distinguish rows.
UNTRAINED_FIELDS = (BLIND_FIELD, "data.root")


def rounded_fingerprints(runs: Iterable[Run]) -> dict[str, str]:
    """Return the fingerprint of each backbone's weights rounded to bf16, by that of the weights.

    The precision in which a backbone is kept belongs to the method, and methods that train it keep
    it in float32 where others do not. Records of older versions lack the rounded fingerprint, and
    are found by the other.

    Args:
        runs: Runs that may be compared.
    """
    return {
        run.record.backbone_fingerprint: run.record.backbone_fingerprint_bf16
        for run in runs
        if run.record.backbone_fingerprint and run.record.backbone_fingerprint_bf16
    }


def protocol_of(
    run: Run, splits: Mapping[str, str], rounded: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return everything that comparable runs have in common, as {field: value as JSON}.

    Args:
        run: The run.
        splits: Split whose scores are compared, by task.
        rounded: See `rounded_fingerprints`.
    """
    record = run.record
    is_trained = record.method != ZERO_SHOT
    fields = {
        name: value
        for name, value in recipe_fields(record).items()
        if (not is_within(name, NON_PROTOCOL_FIELDS) if is_trained else name in UNTRAINED_FIELDS)
    }
    weights = record.backbone_fingerprint or record.backbone
    fields["backbone"] = (rounded or {}).get(weights, weights)
    if is_trained or record.feature_spec_sha256:
        fields["features"] = record.feature_spec_sha256
    if is_trained:
        fields["total steps"] = record.total_steps
    if record.environment:
        fields["environment"] = record.environment
    for task in record.tasks:
        fields[f"rules.{task}"] = record.protocol.get(task)
        fields[f"scored split.{task}"] = splits[task]
        if is_trained:
            fields[f"training examples.{task}"] = run.train_digests.get(task)
    scored = {
        task: run.validation_digests.get(task)
        for task in record.tasks
        if splits[task] == record.validation_split(task)
    }
    if all(scored.get(task) for task in record.tasks):
        fields |= {f"scored examples.{task}": digest for task, digest in scored.items()}
        fields.pop("data.root", None)
    return {name: json.dumps(value, ensure_ascii=False) for name, value in fields.items()}


def method_settings(run: Run) -> dict[str, str]:
    """Return the method's settings as {field without its section: value as JSON}."""
    fields = recipe_fields(run.record) | {"method.name": run.record.method}
    fields["method.options.states"] = _rounded_states(run.record)
    is_trained = run.record.method != ZERO_SHOT
    return {
        "optimizer" if name == OPTIMIZER_NAME else METHOD_SECTIONS.sub("", name): json.dumps(
            value, ensure_ascii=False
        )
        for name, value in fields.items()
        if is_within(name, METHOD_FIELDS)
        or not (is_trained or is_within(name, NON_PROTOCOL_FIELDS) or name in UNTRAINED_FIELDS)
    }


def _rounded_states(record: RunRecord) -> str | None:
    """Return the type to which stored states were rounded; `None` if they are exact."""
    precision = recipe_fields(record).get("backbone.precision")
    exact = ("float32",) if precision == "fp32" else ("float32", "bfloat16")
    return None if record.states_dtype in (None, *exact) else record.states_dtype


def differing_settings(all_settings: Iterable[Mapping[str, str]]) -> list[str]:
    """Return the names of fields that differ between settings or protocols, in order."""
    listed = list(all_settings)
    names = dict.fromkeys(name for settings in listed for name in settings)
    return [name for name in names if len({settings.get(name) for settings in listed}) > 1]


def recipe_fields(record: RunRecord) -> dict[str, Any]:
    """Return the fields of a record's recipe as {path: value}, with those of earlier versions."""
    fields = {**dict.fromkeys(FORMERLY_ABSENT), **FORMER_DEFAULTS, **flatten_fields(record.recipe)}
    for option, value in FORMER_OPTIONS.get(record.method, {}).items():
        fields.setdefault(f"method.options.{option}", value)
    count = fields.pop(ANSWER_COUNT, None)
    for task in record.tasks:
        if count is not None:
            fields[f"{ANSWER_COUNT}.{task}"] = count
        for name, value in FORMER_VALUES.items():
            fields.setdefault(f"{name}.{task}", value)
    return fields
