"""`vl-lst score`: official scores of a predictions file, without a model."""

from pathlib import Path
from typing import Annotated

import typer

from vl_lst.cli._console import JsonOption, QuietOption

__all__ = ["score"]


def score(
    task: Annotated[str, typer.Option(help="The task, such as vqa.")],
    data_root: Annotated[
        Path, typer.Option(help="Folder with the official annotation files, in vqa/ for vqa.")
    ],
    split: Annotated[str, typer.Option(help="The split that was predicted, such as val2014.")],
    predictions: Annotated[
        Path, typer.Option(metavar="FILE", help="Predictions, in the official results format.")
    ],
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Score a predictions file as the official evaluator does. Needs no GPU and no model.

    Example: vl-lst score --task vqa --data-root data --split val2014 --predictions results.json
    """
    from eval.files import write_json
    from tasks import get_task
    from vl_lst.cli._scores import print_score, score_document

    chosen = get_task(task)
    scores = chosen.score(chosen.read_predictions(predictions), data_root, split)
    if json_file is not None:
        write_json(json_file, score_document(chosen, split, scores))
    print_score(chosen, split, scores, quiet=quiet)
