"""No command overwrites its inputs: outputs are compared with inputs before work begins.

An input is a file or folder named by an argument, an option or a recipe. In addition, a report is
text, so it never replaces a file that is not text.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from typer.core import TyperCommand
from typer.models import CommandInfo

from eval.errors import OutputError
from vl_lst.cli._outputs import OutputClaim, claimed_outputs

__all__ = ["protect_inputs", "protect_recipe_inputs", "protect_runs"]

SAMPLE_BYTES = 4096
RECORD, RECIPE, CARD = "record.json", "recipe.yaml", "model.json"
RUN_NAMES = frozenset(
    (RECORD, RECIPE, CARD, "metrics.jsonl", "log.txt", "features.h5", "trackers.json")
    + ("checkpoints", "predictions", "submission", "tensorboard", "wandb")
)
# Text files in the folder of a model.
MODEL_FILES = frozenset(
    "config.json generation_config.json open_clip_config.json preprocessor_config.json "
    "tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json vocab.json "
    "vocab.txt merges.txt model.safetensors.index.json".split()
)

# Outputs of the running command.
_CLAIMS: ContextVar[Sequence[OutputClaim]] = ContextVar("vl_lst.outputs", default=())


def protect_inputs(command: CommandInfo) -> None:
    """Make a command refuse outputs that would overwrite one of its inputs."""
    command.cls = _Command


class _Command(TyperCommand):
    """A command that checks its outputs once all of its parameters are known."""

    def invoke(self, ctx: Any) -> Any:
        """Check the outputs and run the command.

        Args:
            ctx: Typer's context, with all parameters.

        Raises:
            OutputError: An output would overwrite an input.
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


def protect_recipe_inputs(fields: Mapping[str, Any]) -> None:
    """Refuse outputs of the running command that would overwrite a file named in a recipe.

    Args:
        fields: Fields of the resolved recipe.

    Raises:
        OutputError: An output would overwrite an input.
    """
    inputs = [("recipe", value) for value in _texts(fields)]
    for claim in _CLAIMS.get():
        _check(claim, inputs, _CLAIMS.get())


def protect_runs(folders: Iterable[Path]) -> None:
    """Refuse outputs of the running command that would be part of a run that it writes.

    Args:
        folders: Run directories, which need not exist yet.

    Raises:
        OutputError: An output would be part of one of them.
    """
    for claim in _CLAIMS.get():
        path = Path(claim.path)
        for folder in folders:
            real = Path(os.path.realpath(folder))
            if claim.is_report and real in path.parents:
                if path.relative_to(real).parts[0] in RUN_NAMES:
                    _refuse(claim, f"which is part of the run in {folder}")


def _texts(value: object) -> Iterator[str]:
    """Yield the paths and texts in a value; of `KEY=VALUE`, also VALUE alone."""
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


def _check(
    claim: OutputClaim, inputs: Iterable[tuple[str, str]], claims: Iterable[OutputClaim]
) -> None:
    path = Path(claim.path)
    is_file = path.is_file()
    for name, text in inputs:
        if is_file and not claim.may_be_input and _is_same(path, text):
            _refuse(claim, f"which is an input ({name})")
    if not claim.is_report:
        return
    for folder in path.parents:
        other = next((each for each in claims if Path(each.path) == folder), None)
        first = path.relative_to(folder).parts[0]
        if (other is not None and other.holds_run) or _is_run(folder):
            if first in RUN_NAMES:
                _refuse(claim, f"which is part of the run in {folder}")
        elif other is not None and first in other.holds:
            _refuse(claim, f"which {other.option} writes")
    if not is_file:
        return
    for name, text in inputs:
        given = Path(os.path.realpath(text)) if os.path.isdir(text) else None
        if given is not None and given in path.parents and _is_read_from(given, path):
            _refuse(claim, f"which is an input (in the folder of {name})")
    if claim.is_text and _is_binary(path):
        _refuse(claim, "which is not a text file")


def _refuse(claim: OutputClaim, why: str) -> None:
    raise OutputError(f"{claim.option} would replace {claim.path}, {why}. Choose another path.")


def _is_same(path: Path, text: str) -> bool:
    try:
        return os.path.samefile(path, text)
    except (OSError, ValueError):
        return False


def _is_run(folder: Path) -> bool:
    return (folder / RECORD).is_file() or all((folder / name).is_file() for name in (RECIPE, CARD))


def _is_read_from(folder: Path, path: Path) -> bool:
    """Whether commands read this text file in the folder of a model or a data root."""
    if path.parent == folder and path.name in MODEL_FILES:
        return True
    from tasks import get_task, task_names

    for task in map(get_task, task_names()):
        for file in task.files:
            found = file.find(folder)
            if found is not None and (_is_same(path, str(found)) or found in path.parents):
                return True
    return False


def _is_binary(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            sample = file.read(SAMPLE_BYTES)
    except OSError:
        return False
    # A character may be cut at the end of the sample.
    return b"\0" in sample or "�" in sample.decode("utf-8", "replace")[:-1]
