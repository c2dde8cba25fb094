"""`vl-lst predict`: one question about the user's own photograph."""

from pathlib import Path
from typing import Annotated

import typer

from vl_lst.cli._console import QuietOption, notes, results, status
from vl_lst.cli._kept_inputs import keep_inputs_of_recipe
from vl_lst.cli._outputs import JsonOption, write_json_report

__all__ = ["predict"]


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder `vl-lst train` wrote.")],
    image: Annotated[
        list[Path],
        typer.Option(metavar="FILE", help="Photograph; repeated for tasks about two."),
    ],
    question: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="The question, in plain words; none for a caption."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Which of the run's tasks, where it was trained on several."),
    ] = None,
    encoder_weights: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Weights of the vision tower (a folder's path for a tower of one's own), where "
            "the features were made with weights from a file.",
        ),
    ] = None,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Answer a question about a photograph, prepared exactly as in training.

    A run that classifies also prints the answers with the highest scores: each, from 0 to 1, is the
    accuracy that the model expects of that answer alone, so that they need not add up to one.

    Example: vl-lst predict runs/vqa --image cat.jpg --question "what animal is this?"
    """
    from vl_lst.run import load_run

    with notes(quiet=quiet):
        loaded = load_run(run)
    keep_inputs_of_recipe(loaded.recipe.model_dump(mode="json"))
    if not quiet:
        status.print("encoding the photograph", markup=False)
    answer = loaded.predict(image, question, task_name=task, encoder_weights=encoder_weights)
    if not quiet:
        for note in answer.notes:
            status.print(f"note: {note}", markup=False)
    results.print(answer.answer, markup=False)
    if answer.ranked is not None and not quiet:
        for text, score in answer.ranked:
            results.print(f"  {score:.3f}  {text}", markup=False)
    write_json_report(
        json_file,
        {
            "run": str(run),
            "images": [str(path) for path in image],
            "question": question,
            "answer": answer.answer,
            "notes": list(answer.notes),
            "scores": None if answer.ranked is None else dict(answer.ranked),
        },
    )
