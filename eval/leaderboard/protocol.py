"""What makes runs comparable, and what tells methods apart.

Two runs are compared only where everything but the method and the seed is the same. So all fields
of the recipe belong to the protocol, new ones too, except:

* those of the METHOD, which name the row: its name, its options, the optimiser's settings, as each
  method needs a learning rate of its own, how large the image order embedding begins, what
  prompts begin with and how many of their tokens are read, which are among the things that tell the
  paper's ladder from ours;
* the SEED, over which rows are averaged;
* those that say WHERE and HOW FAST, not what: where the features lie (how they were made is
  compared), the number of workers, when checkpoints and log lines are written, the device, the
  batch size of evaluation, and what the backbone is called (its weights are compared).

To these come, from the record: the official rules the scores follow, how the features were made,
the backbone's weights, the number of steps, which examples trained, which were scored, and
variables of the environment that change the precision of arithmetic. Where
the examples that were scored are known by their ids, the folder they lay in does not matter.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from eval.leaderboard.runs import Record, Run

__all__ = ["differing_settings", "method_settings", "protocol_of"]

PROMPT_LIMIT = "data.max_prompt_tokens"
# Of every run whose recipe does not have the field.
FORMER_PROMPT_LIMIT = 20
# One number for all tasks in earlier versions.
ANSWER_COUNT = "data.min_answer_count"
METHOD = (
    "method",
    "optimizer",
    "visual.image_order_std",
    "data.prompt_prefix",
    PROMPT_LIMIT,
)
PATH_OF_METHOD = re.compile(r"^(method\.options|optimizer|visual|data)\.")
SEED = "training.seed"
WHERE_AND_HOW_FAST = (
    "backbone.name",
    "features",
    "training.checkpoint_every_steps",
    "training.device",
    "training.evaluation_batch_size",
    "training.log_every_steps",
    "training.tensorboard",
    "training.workers",
)
NOT_PROTOCOL = (*METHOD, SEED, *WHERE_AND_HOW_FAST)


def protocol_of(run: Run, splits: Mapping[str, str]) -> dict[str, str]:
    """Everything that must be equal for runs to be compared, as {field: value as JSON}.

    Args:
        run: The run.
        splits: The split of each task whose scores are compared.
    """
    record = run.record
    fields = {
        name: value
        for name, value in _recipe_fields(record).items()
        if not _is_within(name, NOT_PROTOCOL)
    }
    fields["backbone"] = record.backbone_fingerprint or record.backbone
    fields["features"] = record.feature_spec_sha256
    fields["total steps"] = record.total_steps
    if record.environment:
        fields["environment"] = record.environment
    for task in record.tasks:
        fields[f"rules.{task}"] = record.protocol.get(task)
        fields[f"scored split.{task}"] = splits[task]
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
    """What belongs to the method, as {field: value as JSON}, without the sections' names."""
    fields = _recipe_fields(run.record) | {"method.name": run.record.method}
    return {
        PATH_OF_METHOD.sub("", name): json.dumps(value, ensure_ascii=False)
        for name, value in fields.items()
        if _is_within(name, METHOD)
    }


def differing_settings(all_settings: Iterable[Mapping[str, str]]) -> list[str]:
    """Names of the fields in which settings or protocols differ, in the order they occur."""
    listed = list(all_settings)
    names = dict.fromkeys(name for settings in listed for name in settings)
    return [name for name in names if len({settings.get(name) for settings in listed}) > 1]


def _recipe_fields(record: Record) -> dict[str, Any]:
    """Return all fields of a record's recipe, those of earlier versions in today's form."""
    fields = _flat(record.recipe)
    count = fields.pop(ANSWER_COUNT, None)
    for task in record.tasks:
        if count is not None:
            fields[f"{ANSWER_COUNT}.{task}"] = count
        fields.setdefault(f"{PROMPT_LIMIT}.{task}", FORMER_PROMPT_LIMIT)
    return fields


def _is_within(name: str, sections: Iterable[str]) -> bool:
    return any(name == section or name.startswith(f"{section}.") for section in sections)


def _flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
