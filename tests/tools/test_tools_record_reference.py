"""The documented fields of a run's record are those of the code."""

from eval.run_files import RunRecord
from tools.record_reference import DOCUMENT, document_with_fields


def test_fields_are_those_of_the_code() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert document_with_fields(text) == text, "run `python -m tools.record_reference`"
    assert [name for name in RunRecord.model_fields if f"| `{name}` |" not in text] == []
