"""Write the fields of `record.json` into `docs/file_formats.md`.

python -m tools.record_reference
"""

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from eval.run_files import Forgetting, GitState, Inference, Memory, Parameters, RunRecord
from tools._marked_tables import replace_marked
from vl_lst.recipes.descriptions import describe_fields

__all__ = ["DOCUMENT", "document_with_fields", "main"]

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "file_formats.md"
# Fields that are objects, or lists or mappings of them.
PARTS: dict[str, type[BaseModel]] = {
    "parameters": Parameters,
    "memory_bytes": Memory,
    "inference.TASK": Inference,
    "forgetting": Forgetting,
    "git": GitState,
}


def document_with_fields(text: str) -> str:
    """Return the document with an up-to-date table of fields."""
    return replace_marked(text, "record", _rows())


def _rows() -> Iterator[str]:
    yield from ("| field | meaning |", "|---|---|")
    yield from _fields(RunRecord, "")
    for name, model in PARTS.items():
        yield from _fields(model, f"{name}.")


def _fields(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, meaning in describe_fields(model).items():
        yield f"| `{prefix}{name}` | {meaning.replace('|', chr(92) + '|')} |"


def main() -> None:
    """Write the document."""
    text = document_with_fields(DOCUMENT.read_text(encoding="utf-8"))
    DOCUMENT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
