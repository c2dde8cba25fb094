"""An extraction of states that is killed or interrupted is resumed."""

import signal
from pathlib import Path
from typing import Any

import pytest
from kill_at_call import in_child, kill_at_change
from tiny_texts import TextWorld

from vl_lst.backbones.states import writer
from vl_lst.extraction import extract_states

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)
FP32 = {"training__precision": "fp32", "backbone__precision": "fp32"}


@pytest.mark.parametrize("kills", [(4,), (12, 5), (25,), (40, 30)], ids=str)
def test_a_killed_extraction_resumes_to_the_same_bytes(
    text_world: TextWorld, tmp_path: Path, kills: tuple[int, ...]
) -> None:
    recipe = text_world.recipe(**FP32)
    whole = extract_states(recipe, tmp_path / "whole.h5", batch_size=2).path.read_bytes()
    out = tmp_path / "states.h5"

    for number in kills:

        def work(number: int = number) -> None:
            kill_at_change(number, writer, before=False)
            extract_states(recipe, out, batch_size=2)

        assert in_child(work) == -signal.SIGKILL
        assert not out.exists()
    extract_states(recipe, out, batch_size=2)
    assert out.read_bytes() == whole


def test_an_interrupted_extraction_computes_only_what_is_missing(
    text_world: TextWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, left = writer.StateWriter.write_pairs, 3

    def write(self: writer.StateWriter, *arguments: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        original(self, *arguments)

    recipe, out = text_world.recipe(**FP32), tmp_path / "states.h5"
    with monkeypatch.context() as patch:
        patch.setattr(writer.StateWriter, "write_pairs", write)
        with pytest.raises(KeyboardInterrupt):
            extract_states(recipe, out, batch_size=2)
    result = extract_states(recipe, out, batch_size=2)
    assert 0 < result.computed < result.inputs
