"""No command replaces what it reads: outputs are compared with inputs before work begins.

An input is a file or folder that is named by an argument, an option or a recipe. Besides, a report
is text, so what is not text is never replaced by one.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from eval.errors import OutputError
from vl_lst.cli._outputs import Claim, claimed_outputs

__all__ = ["keep_inputs", "keep_inputs_of_recipe"]

HEAD_BYTES = 4096
RECORD, RECIPE, CARD = "record.json", "recipe.yaml", "model.json"
RUN_NAMES = frozenset(
    (RECORD, RECIPE, CARD, "metrics.jsonl", "log.txt", "features.h5")
    + ("checkpoints", "predictions", "submission", "tensorboard")
)
# Texts in the folder of a model.
MODEL_FILES = frozenset(
    "config.json generation_config.json open_clip_config.json preprocessor_config.json "
    "tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json vocab.json "
    "vocab.txt merges.txt model.safetensors.index.json".split()
)

# Of the running command.
_CLAIMS: ContextVar[Sequence[Claim]] = ContextVar("vl_lst.outputs", default=())


def keep_inputs(app: typer.Typer) -> None:
    """Let every command refuse outputs that would replace one of its inputs.

    Args:
        app: The commands and groups of commands, all registered.
    """
    for command in app.registered_commands:
        command.cls = _Command
    for group in app.registered_groups:
        if group.typer_instance is not None:
            keep_inputs(group.typer_instance)


class _Command(TyperCommand):
    """A command that checks its outputs once all of its parameters are known."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Args:
            ctx: The context of Typer, with all parameters.

        Raises:
            OutputError: It would replace one of its inputs.
        """
        claims = claimed_outputs(ctx)
        outputs = {claim.option for claim in claims}
        inputs: list[tuple[str, str]] = []
        for parameter in self.params:
            name = parameter.opts[0] if parameter.param_type_name == "option" else "argument"
            if name not in outputs:
                values = _texts(ctx.params.get(parameter.name or ""))
                inputs += [(name, value) for value in values]
        for claim in claims:
            _check(claim, inputs, claims)
        token = _CLAIMS.set(claims)
        try:
            return super().invoke(ctx)
        finally:
            _CLAIMS.reset(token)


def keep_inputs_of_recipe(fields: Mapping[str, Any]) -> None:
    """Refuse outputs of the running command that would replace what a recipe names.

    Args:
        fields: Of the resolved recipe.

    Raises:
        OutputError: One would.
    """
    inputs = [("recipe", value) for value in _texts(fields)]
    for claim in _CLAIMS.get():
        _check(claim, inputs, _CLAIMS.get())


def _texts(value: object) -> Iterator[str]:
    """Yield the paths and texts in a value; of `KEY=VALUE`, the value too."""
    if isinstance(value, str | Path):
        yield str(value)
        _, equals, right = str(value).partition("=")
        if equals:
            yield right
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)


def _check(claim: Claim, inputs: Iterable[tuple[str, str]], claims: Iterable[Claim]) -> None:
    place = Path(claim.place)
    is_file = place.is_file()
    for name, text in inputs:
        if is_file and not claim.may_be_input and _is_same(place, text):
            _refuse(claim, f"which is an input ({name})")
    if not claim.is_report:
        return
    for folder in place.parents:
        own = next((each for each in claims if Path(each.place) == folder), None)
        first = place.relative_to(folder).parts[0]
        if (own is not None and own.holds_run) or _is_run(folder):
            if first in RUN_NAMES:
                _refuse(claim, f"which is part of the run in {folder}")
        elif own is not None and first in own.holds:
            _refuse(claim, f"which {own.option} writes")
    if not is_file:
        return
    for name, text in inputs:
        given = Path(os.path.realpath(text)) if os.path.isdir(text) else None
        if given is not None and given in place.parents and _is_read(place, given):
            _refuse(claim, f"which is an input (in the folder of {name})")
    if claim.is_text and _is_binary(place):
        _refuse(claim, "which is not a text file")


def _refuse(claim: Claim, why: str) -> None:
    raise OutputError(
        f"{claim.option} would replace {claim.place}, {why}. Choose another place for it."
    )


def _is_same(place: Path, text: str) -> bool:
    try:
        return os.path.samefile(place, text)
    except (OSError, ValueError):
        return False


def _is_run(folder: Path) -> bool:
    return (folder / RECORD).is_file() or all((folder / name).is_file() for name in (RECIPE, CARD))


def _is_read(place: Path, folder: Path) -> bool:
    """Whether a text is one that commands read in a folder: of a model, or of a task."""
    if place.parent == folder and place.name in MODEL_FILES:
        return True
    from tasks import get_task, task_names

    for task in map(get_task, task_names()):
        for file in task.files:
            found = file.find(folder)
            if found is not None and (_is_same(place, str(found)) or found in place.parents):
                return True
    return False


def _is_binary(place: Path) -> bool:
    try:
        with place.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return False
    # A character may be cut at the end.
    return b"\0" in head or "�" in head.decode("utf-8", "replace")[:-1]
