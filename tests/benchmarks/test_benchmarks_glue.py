"""The comparison on GLUE searches learning rates with equal effort and resumes."""

import json
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from benchmark_programs import import_benchmark
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

REPOSITORY = Path(__file__).resolve().parents[2]
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = "rte stsb sentence1 sentence2 : . the a river rose rain fell ship left two".split()
ENTAILS = ("the river rose", "the rain fell", "two ship left", "the ship rose")


@pytest.fixture(scope="module")
def glue() -> Any:
    return import_benchmark("glue")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random encoder in the format of the pretrained one."""
    folder = tmp_path_factory.mktemp("encoder")
    ids = {token: number for number, token in enumerate((*SPECIAL, *WORDS))}
    config = BertConfig(
        vocab_size=len(ids),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=160,
        pad_token_id=0,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL, strict=True))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{name}_token": token for name, token in special.items()}
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for folder, heads, labels in (
        ("RTE", "index\tsentence1\tsentence2\tlabel", ("entailment", "not_entailment")),
        ("STS-B", "index\tsentence1\tsentence2\tscore", ("4.750", "1.2", "0")),
    ):
        (root / "glue" / folder).mkdir(parents=True)
        for split, count in (("train", 12), ("dev", 8)):
            rows = [
                f"{row}\t{ENTAILS[row % 4]}\t{ENTAILS[row % 3]}\t{labels[row % len(labels)]}"
                for row in range(count)
            ]
            path = root / "glue" / folder / f"{split}.tsv"
            path.write_text("\n".join([heads, *rows, ""]))
    return root


class InlinePool:
    """Executor that runs each call at once, in this process."""

    def submit(self, function: Any, /, *given: Any, **named: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        future.set_result(function(*given, **named))
        return future


def settings(glue: Any, backbone: Path, data_root: Path, out: Path) -> Any:
    return glue.Settings(
        backbone=str(backbone),
        data_root=data_root,
        out=out,
        lengths=dict.fromkeys(("rte", "stsb"), ("training.steps", 2)),
        batch_size=4,
        precision="fp32",
    )


def test_every_rate_trains_with_the_first_seed_and_the_best_with_the_others(
    glue: Any, backbone: Path, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = settings(glue, backbone, data_root, tmp_path)
    rates = {"lst:rungs=linear": [1e-3, 3e-3], "probe": [1e-3, 3e-3]}

    def whole() -> Any:
        benchmark = glue.Benchmark(shared, InlinePool(), rates, 5)
        for task in ("rte", "stsb"):
            benchmark.search(task)
            for seed in (5, 6):
                benchmark.score([task], seed)
        return benchmark

    benchmark = whole()
    floor = glue.floors(("rte", "stsb"), data_root)
    text = glue.write_tables(shared, benchmark, floor, glue.costs(shared, list(rates)))
    written = json.loads((tmp_path / "glue.json").read_text())
    for method, found in written["methods"].items():
        for task, entry in found["tasks"].items():
            assert set(entry["search"]) == {"1.0e-03", "3.0e-03"}
            assert entry["search"][f"{entry['rate']:.1e}"] == max(entry["search"].values())
            assert entry["seeds"] == [5, 6]
            folders = sorted((tmp_path / "runs" / task / method.replace(":", "+")).glob("*/*"))
            assert len(folders) == 3
            recipe = (folders[0] / "recipe.yaml").read_text()
            assert ("rungs: linear" in recipe) == (method != "probe")
    assert written["floor"]["rte"]["average"] == 50.0
    assert written["methods"]["probe"]["costs"]["saved_bytes"] > 0
    assert len(text.splitlines()) == 2 + 1 + len(rates)
    # A rate that was scored on its own, when no others were tried, changes no other table.
    for rate in rates["probe"]:
        alone = glue.Benchmark(shared, InlinePool(), {"probe": [rate]}, 5)
        alone.search("rte")
        alone.score(["rte"], 5)
    # Without training, the table has what is finished, nothing of a method that was never trained.
    rates |= {"side": [1e-3]}
    partial = glue.Benchmark(shared, InlinePool(), rates, 5, trains=False)
    partial.search("rte")
    partial.score(["rte"], 5)
    assert {trial.method for trial in partial.cells} == {"lst:rungs=linear", "probe"}
    del rates["side"]
    # The same command again trains nothing and keeps the measured costs.
    runs = sys.modules["_glue_runs"]
    monkeypatch.setattr(runs, "train", None)
    monkeypatch.setattr(runs, "load_run", None)
    assert glue.write_tables(shared, whole(), floor) == text


def test_of_equal_rates_the_smallest_is_chosen(glue: Any, tmp_path: Path) -> None:
    shared = settings(glue, tmp_path, tmp_path, tmp_path)
    rates = [1e-2, 1e-3, 3e-3]
    benchmark = glue.Benchmark(shared, InlinePool(), {"full": rates}, 0)
    for rate, score in zip(rates, (70.0, 60.0, 70.0), strict=True):
        trial = glue.Trial("rte", "full", rate, 0)
        benchmark.cells[trial] = glue.Cell(
            trial=trial,
            steps=2,
            best_step=2,
            validation={"average": score},
            test=None,
            trainable_percent=100.0,
        )
    assert benchmark._best_rate("rte", "full") == 3e-3
