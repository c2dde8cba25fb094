"""`vl-lst predict`: answer a question about a photograph, or a text."""

from pathlib import Path
from typing import Annotated

import typer

from vl_lst.cli._console import QuietOption, announce_imports, notes, results, status
from vl_lst.cli._input_protection import protect_recipe_inputs
from vl_lst.cli._outputs import JsonOption, write_json_report

__all__ = ["predict"]


def predict(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="Run directory written by `vl-lst train`, or a run on the Hugging Face Hub: "
            "OWNER/NAME or OWNER/NAME@REVISION. A local folder comes first; hf://OWNER/NAME is "
            "always on the Hub.",
        ),
    ],
    image: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Photograph; repeat for tasks with two images. Leave out if the run reads the "
            "text alone.",
        ),
    ] = None,
    question: Annotated[
        str | None,
        typer.Option(
            "--question",
            "--text",
            metavar="TEXT",
            help="Question, statement or text; leave out for a caption.",
        ),
    ] = None,
    text2: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Second text, for tasks that take two, such as rte."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(metavar="TASK", help="Task to predict, if the run was trained on several."),
    ] = None,
    encoder_weights: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Weights of the image encoder, if the features were extracted with weights from a "
            "file: the .safetensors file, or the encoder's folder.",
        ),
    ] = None,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Answer a question about a photograph, or about text alone.

    The photograph is preprocessed exactly as in training. A run that classifies also prints its
    five best answers. Each score, from 0 to 1, is the accuracy that the model expects of that
    answer alone, so scores need not sum to 1.

    Example: vl-lst predict runs/vqa --image cat.jpg --question "what animal is this?"

    From the Hub: vl-lst predict alice/vqa-ladder --image cat.jpg --question "what is this?"

    Text alone: vl-lst predict runs/rte --text "A cat sleeps." --text2 "An animal sleeps."
    """
    announce_imports(quiet=quiet)
    from eval.hub import hub_progress_bars
    from vl_lst.run import load_run

    with notes(quiet=quiet), hub_progress_bars(show=status.is_terminal and not quiet):
        loaded = load_run(run)
    protect_recipe_inputs(loaded.recipe.model_dump(mode="json"))
    images = image or []
    if images and not quiet:
        status.print("encoding the photograph", markup=False)
    answer = loaded.predict(
        images, question, text2=text2, task_name=task, encoder_weights=encoder_weights
    )
    if not quiet:
        for note in answer.notes:
            status.print(f"note: {note}", markup=False)
    results.print(answer.answer, markup=False)
    if answer.meaning is not None and not quiet:
        status.print(f"{answer.answer} means {answer.meaning}", markup=False)
    if answer.ranked is not None and not quiet:
        for text, score in answer.ranked:
            results.print(f"  {score:.3f}  {text}", markup=False)
    write_json_report(
        json_file,
        {
            "run": str(run),
            **({} if loaded.pulled is None else {"commit": loaded.pulled.commit}),
            "images": [str(path) for path in images],
            "question": question,
            **({} if text2 is None else {"text2": text2}),
            "answer": answer.answer,
            **({} if answer.meaning is None else {"meaning": answer.meaning}),
            "notes": list(answer.notes),
            "scores": None if answer.ranked is None else dict(answer.ranked),
        },
    )
