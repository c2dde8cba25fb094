"""The model's numbers equal those recorded from the reference implementation."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
LADDERS = ("a_vqa_r4", "b_vqa_r8_drop", "c_nlvr_r4", "d_caption_r4")
RIVALS = ("g_full", "g_adapter", "g_lora", "g_bitfit", "g_prompt")
CLASSIFIER = "e_vqa_classifier_full"


@pytest.fixture(scope="module")
def parity(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    out = tmp_path_factory.mktemp("parity") / "parity.json"
    script = REPOSITORY / "benchmarks" / "reference_parity.py"
    command = [sys.executable, script, "--fixtures", golden / "lst", "--json", out]
    subprocess.run(command, check=True, capture_output=True)
    return json.loads(out.read_text())


@pytest.mark.parametrize("fixture", LADDERS)
def test_outputs_agree_to_1e_5(parity: dict[str, dict], fixture: str) -> None:
    compared = {name: d for name, d in parity[fixture]["max_abs"].items() if d is not None}
    assert {"loss_per_token", "logits", "enc_side_last_hidden", "dec_side_last_hidden"} <= set(
        compared
    )
    assert max(compared.values()) <= 1e-5


@pytest.mark.parametrize("fixture", [*RIVALS, CLASSIFIER])
def test_outputs_of_the_rivals_agree_to_1e_5(parity: dict[str, dict], fixture: str) -> None:
    compared = {name: d for name, d in parity[fixture]["max_abs"].items() if d is not None}
    wanted = {"loss_per_token", "logits", "enc_backbone_last_hidden", "dec_backbone_last_hidden"}
    if fixture == CLASSIFIER:
        wanted |= {"cls_head_input", "cls_logit", "cls_loss"}
    assert wanted <= set(compared)
    assert max(compared.values()) <= 1e-5


@pytest.mark.parametrize("fixture", [*LADDERS, *RIVALS, CLASSIFIER])
def test_gradients_agree_to_1e_4_of_their_size(parity: dict[str, dict], fixture: str) -> None:
    assert 0 < parity[fixture]["max_rel_grad"] <= 1e-4


@pytest.mark.parametrize("fixture", [*LADDERS, *RIVALS, CLASSIFIER])
def test_the_same_parameters_train(parity: dict[str, dict], fixture: str) -> None:
    assert parity[fixture]["trainable_equal"] is True


@pytest.mark.parametrize("fixture", [*LADDERS, *RIVALS])
def test_greedy_and_beam_search_find_the_same_ids(parity: dict[str, dict], fixture: str) -> None:
    assert parity[fixture]["greedy_equal"] is True
    assert parity[fixture]["beam_equal"] is True


def test_pruning_keeps_the_same_rows(parity: dict[str, dict]) -> None:
    pruning = parity["f_pruning"]
    assert pruning["kept_rows_equal"] == {"keep_mag": True, "keep_fisher": True}
    assert pruning["max_abs"]["fisher"] <= 1e-5
