"""The model's numbers equal those recorded from the reference implementation.

The recording is in float32, whose rounding depends on the processor. The same model in float64
shows the recording's own rounding error; in float32, it may differ from the recording by that error
plus 1e-5.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
LADDERS = ("a_vqa_r4", "b_vqa_r8_drop", "c_nlvr_r4", "d_caption_r4")
BASELINES = ("g_full", "g_adapter", "g_lora", "g_bitfit", "g_prompt")
CLASSIFIER = "e_vqa_classifier_full"
# Of the half of the reference for text alone.
TEXT_LADDERS = ("t_glue_lst_drop", "t_glue_lst_merge_last")
TEXT_BASELINES = tuple(f"t_glue_{mode}" for mode in ("full", "adapter", "lora", "bitfit", "prompt"))
TEXT = (*TEXT_LADDERS, *TEXT_BASELINES)
FIXTURES = (*LADDERS, *BASELINES, CLASSIFIER, *TEXT)
# The recordings of LoRA have sharp attention, which amplifies rounding errors; 24 layers add up
# more of them.
ROUNDING = {"g_lora": 2e-4, "t_glue_lora": 5e-5, "t_glue_lst_drop": 8e-5}
MAX_ROUNDING = 2.5e-5
GRADIENT_ROUNDING = {
    "g_lora": 6e-4,
    "t_glue_lora": 2e-4,
    "t_glue_lst_drop": 1e-4,
    "t_glue_lst_merge_last": 1e-4,
}
MAX_GRADIENT_ROUNDING = 2e-5
SIDE_STATES = {"enc_side_last_hidden", "dec_side_last_hidden"}
BACKBONE_STATES = {"enc_backbone_last_hidden", "dec_backbone_last_hidden"}


def compare(precision: str, golden: Path, folder: Path) -> dict[str, dict]:
    out = folder / f"{precision}.json"
    script = REPOSITORY / "benchmarks" / "reference_parity.py"
    chosen = ["--fixtures", golden / "lst", "--json", out, "--precision", precision]
    subprocess.run([sys.executable, script, *chosen], check=True, capture_output=True)
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def parity(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    return compare("float32", golden, tmp_path_factory.mktemp("parity"))


@pytest.fixture(scope="module")
def exact(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    return compare("float64", golden, tmp_path_factory.mktemp("exact"))


@pytest.mark.parametrize("fixture", FIXTURES)
def test_outputs_agree(parity: dict[str, dict], exact: dict[str, dict], fixture: str) -> None:
    found, rounding = (
        {name: d for name, d in each[fixture]["max_abs"].items() if d is not None}
        for each in (parity, exact)
    )
    wanted = {"loss_per_token", "logits", *BACKBONE_STATES}
    if fixture in (*LADDERS, *TEXT_LADDERS):
        wanted |= SIDE_STATES
    if fixture in TEXT:
        wanted.add("loss")
    if fixture == CLASSIFIER:
        wanted |= {"cls_head_input", "cls_logit", "cls_loss"}
    assert wanted <= set(found)
    assert max(rounding.values()) <= ROUNDING.get(fixture, MAX_ROUNDING)
    for name, difference in found.items():
        assert difference <= 1e-5 + rounding[name], name


@pytest.mark.parametrize("fixture", FIXTURES)
def test_gradients_agree_to_1e_4_of_their_size(
    parity: dict[str, dict], exact: dict[str, dict], fixture: str
) -> None:
    assert parity[fixture]["max_rel_grad"] <= 1e-4 + exact[fixture]["max_rel_grad"]
    allowed = GRADIENT_ROUNDING.get(fixture, MAX_GRADIENT_ROUNDING)
    # Without any difference in float64, nothing has been compared.
    assert 0 < exact[fixture]["max_rel_grad"] <= allowed


@pytest.mark.parametrize("fixture", FIXTURES)
def test_the_same_parameters_train(parity: dict[str, dict], fixture: str) -> None:
    assert parity[fixture]["trainable_equal"] is True


@pytest.mark.parametrize("fixture", TEXT)
def test_greedy_search_finds_the_same_ids(parity: dict[str, dict], fixture: str) -> None:
    assert parity[fixture]["greedy_equal"] is True


@pytest.mark.parametrize("fixture", [*LADDERS, *BASELINES])
def test_greedy_and_beam_search_find_the_same_ids(parity: dict[str, dict], fixture: str) -> None:
    assert parity[fixture]["greedy_equal"] is True
    assert parity[fixture]["beam_equal"] is True


def test_pruning_keeps_the_same_rows(parity: dict[str, dict]) -> None:
    pruning = parity["f_pruning"]
    assert pruning["kept_rows_equal"] == {"keep_mag": True, "keep_fisher": True}
    assert pruning["max_abs"]["fisher"] <= 1e-5
