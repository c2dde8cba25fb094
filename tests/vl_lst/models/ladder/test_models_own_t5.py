"""The example in the guide: a ladder around any T5 in memory."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, T5ForConditionalGeneration

from vl_lst.bundled import T5_FOLDER
from vl_lst.models.ladder.model import LadderModel

GUIDE = Path(__file__).resolve().parents[4] / "docs" / "backbones.md"


def test_the_guides_example_trains_and_generates(capsys: pytest.CaptureFixture[str]) -> None:
    model = run_guide(guide_code(), capsys)
    assert model.visual is not None


def test_it_does_so_for_text_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """As the guide says: without a visual embedding, and without features in the batch."""
    code = re.sub(r"visual = VisualConfig\(.*", "visual = None", guide_code())
    code = re.sub(r".*features_BINF=.*", "", code)
    model = run_guide(code, capsys)
    assert model.visual is None


def guide_code() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    return code


def run_guide(code: str, capsys: pytest.CaptureFixture[str]) -> LadderModel:
    """Run the code on the bundled T5, and check that exactly the ladder trains."""
    t5 = T5ForConditionalGeneration.from_pretrained(T5_FOLDER)
    before = {name: parameter.clone() for name, parameter in t5.state_dict().items()}
    names: dict[str, Any] = {"own": t5, "tokenizer": AutoTokenizer.from_pretrained(T5_FOLDER)}
    exec(code, names)
    assert capsys.readouterr().out.startswith("['")
    model: LadderModel = names["model"]
    assert all(parameter.grad is not None for parameter in model.trainable().values())
    assert all(torch.equal(value, before[name]) for name, value in t5.state_dict().items())
    return model
