"""`vl-lst train` on text alone, with each method's default recipe and each recipe of GLUE."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import fitting_options, tiny_settings, write_backbone
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, T5ForConditionalGeneration

from tasks import get_task
from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.cli import main
from vl_lst.methods import method_names
from vl_lst.models.initialisation.pruning import fisher_importance
from vl_lst.recipes import bundled_recipes, load_recipe
from vl_lst.run import load_run
from vl_lst.runs.directory import RunDirectory
from vl_lst.runs.record import read_record

DATA = Path(__file__).resolve().parents[2] / "fixtures" / "rte"
OF_GLUE = [name for name in bundled_recipes() if name.startswith("glue-")]
# Trains heads alone, and those that generate belong to the backbone.
PROBE = "probe"
# A class is one token of such a tokenizer, so no answer is too long.
WORDS = ("0", "1", "rte", "sentence1", "sentence2", ".")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a T5 as deep as the largest of the paper, whose sizes a reduction of 8 divides."""
    folder = tmp_path_factory.mktemp("text")
    sizes = {"d_model": 16, "d_kv": 8, "num_heads": 2, "num_layers": 24, "num_decoder_layers": 24}
    with tiny_settings(folder):
        yield write_backbone(folder / "t5", WORDS, **sizes)


def arguments(out: Path, backbone: Path, *more: str) -> list[str]:
    return [
        *("train", "--task", "rte", "--data-root", str(DATA), "--out", str(out), "--quiet"),
        *("--backbone", str(backbone), "--set", "training.epochs=1"),
        *("--set", "training.workers=0", "--set", "training.device=cpu", *more),
    ]


def require_trained(out: Path, method: str, split: str) -> None:
    record = read_record(RunDirectory(out))
    assert record is not None
    assert (record.method, record.status, record.tasks) == (method, "success", ["rte"])
    assert record.feature_spec_sha256 is None
    evaluation = load_run(out).evaluate(split)
    assert evaluation.score is not None
    assert set(evaluation.score.metrics) >= {"accuracy", "average"}


@pytest.mark.parametrize("method", sorted({*method_names()} - {PROBE}))
def test_every_method_has_a_default_recipe_for_text(
    backbone: Path, tmp_path: Path, method: str
) -> None:
    out = tmp_path / "run"
    assert main(arguments(out, backbone, "--method", method, *fitting_options(method))) == 0
    recipe = load_recipe(out / "recipe.yaml")
    assert recipe.training.batch_size == {"rte": 100}
    assert recipe.data.train_split == {"rte": "train"}
    require_trained(out, method, "dev")


@pytest.mark.parametrize("name", OF_GLUE)
def test_every_recipe_of_glue_trains(backbone: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "run"
    method = name.split("-")[1]
    fewer = ("--set", "method.options.initialisation_samples=2") if method == "lst" else ()
    assert main(arguments(out, backbone, "--recipe", name, *fewer)) == 0
    require_trained(out, method, "paper_test")
    # Selected by the average of the task's metrics on the paper's validation examples.
    record = read_record(RunDirectory(out))
    assert record is not None
    assert "average" in record.scores["rte"]["paper_validation"]


def test_fisher_information_is_that_of_training_examples_of_text(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the paper's code: the mean loss of each example, squared gradients, summed."""
    seen: list[tuple[Tensor, Tensor]] = []
    importance: dict[str, Tensor] = {}

    def measure(frozen: FrozenBackbone, samples: Iterable[tuple[Tensor, Tensor]]) -> Any:
        seen.extend(samples)
        importance.update(fisher_importance(frozen, seen))
        return importance

    monkeypatch.setattr("vl_lst.methods.lst.fisher_importance", measure)
    few = ("--set", "method.options.initialisation_samples=5")
    assert main(arguments(tmp_path / "run", backbone, "--recipe", "glue-lst-paper", *few)) == 0
    assert len(seen) == 5
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    prompts = {f"rte {example.prompt}" for example in get_task("rte").read_examples(DATA, "train")}
    known = {tuple(tokenizer(text + "</s>").input_ids) for text in prompts}
    assert {tuple(prompt_ids[0].tolist()) for prompt_ids, _ in seen} <= known

    model = T5ForConditionalGeneration.from_pretrained(backbone).eval()
    expected: dict[str, Any] = dict.fromkeys(importance, 0.0)
    for prompt_ids, label_ids in seen:
        model.zero_grad()
        mask = torch.ones_like(prompt_ids)
        logits = model(input_ids=prompt_ids, attention_mask=mask, labels=label_ids).logits
        cross_entropy(logits[0], label_ids[0], reduction="mean").backward()
        for name, parameter in model.named_parameters():
            expected[name] = expected[name] + parameter.grad.square()
    for name, tensor in importance.items():
        torch.testing.assert_close(tensor, expected[name])
