"""The model card of an uploaded run: a YAML header for the Hub, and Markdown for people.

Names in a run, such as that of a backbone, may hold anything. YAML is written by a library, and
every name in the text is escaped, so that it shows as it is and cannot add links, tables or code.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from eval.leaderboard.units import forgetting_text, inference_text, number_text
from eval.run_files import RECIPE_FILE
from eval.text import escape_markdown, format_bytes
from tasks import get_task
from vl_lst.bundled import BACKBONE_FOLDERS
from vl_lst.hub.curve import CURVE_FILE
from vl_lst.hub.files import PortableRun
from vl_lst.hub.scores import PublishedScore, model_index, published_scores

__all__ = ["LICENSE", "model_card"]

# The Hub's identifier for a license that nobody has stated.
LICENSE = "unknown"
MODEL_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def model_card(run: PortableRun, repository: str, *, license_id: str, has_curve: bool) -> str:
    """Return the content of the repository's `README.md`.

    Args:
        run: The run.
        repository: OWNER/NAME.
        license_id: Identifier of the license on the Hub.
        has_curve: Whether the training curve is uploaded too.
    """
    scores = published_scores(run)
    header = yaml.safe_dump(
        _header(run, repository, scores, license_id), sort_keys=False, allow_unicode=True
    )
    sections = [
        f"# {escape_markdown(repository.partition('/')[2])}",
        _summary(run),
        "## Scores",
        _score_table(scores),
        f"![Training loss and validation scores]({CURVE_FILE})" if has_curve else "",
        "## Costs",
        _table(("quantity", "value"), _costs(run)),
        "## Use",
        _usage(run, repository),
        "## Training",
        _table(("setting", "value"), _settings(run)),
        f"All settings are in [{RECIPE_FILE}]({RECIPE_FILE}), without paths of the machine that "
        "trained the model.",
        _license_note(license_id),
    ]
    return f"---\n{header}---\n\n" + "\n\n".join(part for part in sections if part) + "\n"


def _header(
    run: PortableRun, repository: str, scores: Sequence[PublishedScore], license_id: str
) -> dict[str, Any]:
    header: dict[str, Any] = {"license": license_id, "library_name": "vl-lst"}
    if _hub_backbone(run) is not None:
        header["base_model"] = run.record.backbone.partition("@")[0]
    kinds = {score.task.hub_task for score in scores}
    if len(kinds) == 1:
        header["pipeline_tag"] = kinds.pop()
    header["tags"] = ["vl-lst", run.record.method, *run.record.tasks]
    datasets = sorted({score.dataset.id for score in scores if score.dataset})
    if datasets:
        header["datasets"] = datasets
    if scores:
        header["metrics"] = sorted({score.task.primary_metric for score in scores})
        header["model-index"] = model_index(repository, list(scores))
    return header


def _hub_backbone(run: PortableRun) -> str | None:
    """Return the model ID of the backbone on the Hub; `None` if it is bundled or no ID."""
    name = run.record.backbone.partition("@")[0]
    return name if name not in BACKBONE_FOLDERS and MODEL_ID.fullmatch(name) else None


def _summary(run: PortableRun) -> str:
    name, record = _hub_backbone(run), run.record
    shown = escape_markdown(record.backbone)
    backbone = shown if name is None else f"[{shown}](https://huggingface.co/{name})"
    tasks = ", ".join(map(escape_markdown, record.tasks))
    return (
        f"Trained on {tasks} with the method {escape_markdown(record.method)} of `vl-lst`, from "
        f"the pretrained language model {backbone}. The repository holds only the parameters that "
        "the method adds or trains; the backbone is loaded from its own repository, and its "
        "weights are checked against a hash."
    )


def _score_table(scores: Sequence[PublishedScore]) -> str:
    if not scores:
        return "The run has no scores."
    rows = []
    for score in scores:
        title = escape_markdown(score.dataset.title if score.dataset else "custom data")
        data = (
            f"[{title}](https://huggingface.co/datasets/{score.dataset.id})"
            if score.dataset
            else title
        )
        rows.append(
            (
                escape_markdown(score.task.name),
                data,
                escape_markdown(score.split)
                + (" (selected the checkpoint)" if score.is_selection else ""),
                escape_markdown(score.task.primary_metric),
                f"{score.percent:.2f}",
            )
        )
    return _table(("task", "data", "split", "metric", "percent"), rows)


def _costs(run: PortableRun) -> list[tuple[str, str]]:
    record = run.record
    rows = []
    if record.parameters is not None:
        share = number_text(record.parameters.percent_of_total, "percent")
        rows.append(("trainable parameters", f"{record.parameters.trainable:,} ({share})"))
    weights = run.checkpoint / "model.safetensors"
    rows.append(("checkpoint", format_bytes(weights.stat().st_size)))
    if (memory := record.memory_bytes) is not None:
        if memory.saved_for_backward is not None:
            saved = format_bytes(memory.saved_for_backward["total"])
            rows.append(("memory saved for the backward pass", saved))
        if memory.peak_allocated is not None:
            rows.append(("peak memory of training", format_bytes(memory.peak_allocated)))
    if record.train_seconds is not None:
        rows.append(("training time", number_text(record.train_seconds, "seconds")))
    for task, inference in record.inference.items():
        rows.append((f"answering {task}", escape_markdown(inference_text(inference))))
    if record.forgetting is not None:
        change = escape_markdown(forgetting_text(record.forgetting))
        rows.append(("change of the backbone's loss on its pretraining text", change))
    if record.device is not None:
        rows.append(("device", escape_markdown(record.device)))
    return rows


def _usage(run: PortableRun, repository: str) -> str:
    spec, record = run.card.feature_spec, run.record
    task = f" --task {record.tasks[0]}" if len(record.tasks) > 1 else ""
    features = "" if spec is None else " --features features.h5"
    parts = [
        "```bash\n"
        f"vl-lst predict {repository}{task}{_question(run)}\n"
        f"vl-lst evaluate {repository}{task} {_examples(run)}{features}\n"
        "```",
        "```python\n"
        "from vl_lst.run import load_run\n\n"
        f'run = load_run("{repository}")  # or revision="COMMIT"\n'
        "```",
    ]
    if spec is not None:
        encoder, side = (escape_markdown(str(spec.get(name))) for name in ("encoder", "image_size"))
        parts.append(
            f"It reads image features of the encoder {encoder}, with photographs resized to {side} "
            "pixels; `vl-lst extract-features` makes them. Features of other settings are refused."
        )
    return "\n\n".join(parts)


def _question(run: PortableRun) -> str:
    """Return the options of a command that asks one question of the first task."""
    task = get_task(run.record.tasks[0])
    images = task.images_per_example if run.card.feature_spec is not None else 0
    options = [f" --image {name}.jpg" for name in ("first", "second")[:images]]
    if images == 1:
        options = [" --image photograph.jpg"]
    names = ("--text", "--text2") if task.texts_per_example > 1 else ("--question",)
    return "".join([*options, *(f' {name} "..."' for name in names[: task.texts_per_example])])


def _examples(run: PortableRun) -> str:
    """Return the options of a command that evaluates examples like those of the first task."""
    task = get_task(run.record.tasks[0])
    split = run.record.validation_split(task.name)
    if run.recipe["data"]["train_file"][task.name] is not None or split not in task.splits:
        return "--file examples.jsonl"
    return f"--split {split} --data-root data"


def _settings(run: PortableRun) -> list[tuple[str, str]]:
    recipe, record = run.recipe, run.record
    training, optimizer = recipe["training"], recipe["optimizer"]
    options = ", ".join(
        f"{name}={value}"
        for name, value in recipe["method"]["options"].items()
        if value is not None
    )
    values = {
        "method": record.method,
        "options": options or "none",
        "optimizer": f"{optimizer['name']}, learning rate {optimizer['lr']:g}",
        "steps": f"{record.steps:,}" if record.steps is not None else "unknown",
        "batch size": ", ".join(f"{task} {size}" for task, size in training["batch_size"].items()),
        "precision": training["precision"],
        "precision of the backbone": recipe["backbone"]["precision"],
        "seed": str(record.seed),
        "version": ", ".join(
            f"{name} {record.packages[name]}"
            for name in ("vl-lst", "torch", "transformers")
            if record.packages.get(name)
        ),
    }
    return [(name, escape_markdown(value)) for name, value in values.items()]


def _license_note(license_id: str) -> str:
    if license_id != LICENSE:
        return ""
    return (
        "The license of these weights is not stated. The licenses of the backbone and of the data "
        "also apply."
    )


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
