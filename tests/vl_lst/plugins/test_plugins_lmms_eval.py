"""A run inside lmms-eval: it answers there as by `predict`, and its samples can be scored here.

lmms-eval brings many packages, so most tests use a stand-in for the two classes of it that the
adapter needs. The others are skipped where it is not installed: `pip install vl-lst[lmms-eval]`.
"""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from tiny_run import QUESTIONS, TinyWorld

from eval.errors import InputError
from vl_lst.cli import main
from vl_lst.run import Question, load_run
from vl_lst.training.session import train

REPOSITORY = Path(__file__).resolve().parents[3]
ENTRY_POINTS = importlib.metadata.entry_points(group="lmms_eval.models")
needs_lmms_eval = pytest.mark.skipif(
    importlib.util.find_spec("lmms_eval") is None or "vl_lst" not in ENTRY_POINTS.names,
    reason="lmms-eval is not installed, or vl-lst was installed without its entry point",
)
# The task's own prompt, metric and postprocessing of lmms-eval, on a data set of the test.
TASK = """
task: tiny_vqa
dataset_path: {data}
dataset_kwargs:
  load_from_disk: true
test_split: validation
output_type: generate_until
doc_to_visual: !function utils.vqav2_doc_to_visual
doc_to_text: !function utils.vqav2_doc_to_text
doc_to_target: "answer"
process_results: !function utils.vqav2_process_results
generation_kwargs:
  max_new_tokens: 16
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
lmms_eval_specific_kwargs:
  default:
    pre_prompt: ""
    post_prompt: "\\nAnswer the question using a single word or phrase."
"""


@pytest.fixture(scope="module")
def run_folder(world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    # Enough to give different answers to different photographs.
    train(world.recipe(training__epochs=30, head="generate"), str(out))
    return out


def image_files(world: TinyWorld) -> list[Path]:
    return sorted((world.root / "images" / "val2014").iterdir())


def read_image(file: Path) -> Image.Image:
    with Image.open(file) as image:
        return image.convert("RGB")


def asked(world: TinyWorld) -> list[Question]:
    """The questions of the validation split, in its order."""
    return [Question(file, text) for file in image_files(world) for text in QUESTIONS]


def write_task(world: TinyWorld, folder: Path) -> None:
    """Write a task file for lmms-eval, with the validation split as its data set."""
    import datasets

    annotations = json.loads(
        (world.root / "vqa" / "v2_mscoco_val2014_annotations.json").read_text()
    )["annotations"]
    rows = [
        {
            "image": str(each.image),
            "question": each.question,
            "question_id": annotation["question_id"],
            "answer": annotation["multiple_choice_answer"],
            "answers": annotation["answers"],
        }
        for each, annotation in zip(asked(world), annotations, strict=True)
    ]
    data = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    datasets.DatasetDict({"validation": data}).save_to_disk(str(folder / "data"))
    (folder / "utils.py").write_text("from lmms_eval.tasks.vqav2.utils import *\n")
    (folder / "tiny_vqa.yaml").write_text(TASK.format(data=folder / "data"))


def lmms_eval(folder: Path, model_args: str, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lmms_eval", "--model", "vl_lst", "--model_args", model_args]
        + ["--include_path", str(folder), "--tasks", "tiny_vqa", "--batch_size", "5"]
        + ["--log_samples", "--output_path", str(folder / "out"), *more],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")},
        capture_output=True,
        text=True,
        check=False,
    )


def read_lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@needs_lmms_eval
def test_a_run_answers_in_lmms_eval_as_by_predict(
    world: TinyWorld, run_folder: Path, tmp_path: Path
) -> None:
    write_task(world, tmp_path)
    done = lmms_eval(tmp_path, f"run={run_folder},encoder_weights={world.encoder}")
    assert done.returncode == 0, done.stderr[-3000:]
    (samples,) = (tmp_path / "out").rglob("*_samples_tiny_vqa.jsonl")
    run = load_run(run_folder)
    weights = world.encoder
    expected = [
        run.predict(each.image, each.question, encoder_weights=weights).answer
        for each in asked(world)
    ]
    assert len(set(expected)) > 1
    answered = {row["doc_id"]: row["filtered_resps"] for row in read_lines(samples)}
    assert [answered[number] for number in range(len(expected))] == expected
    # The same accuracy by the metric of lmms-eval and by the official one.
    report = tmp_path / "score.json"
    command = ["score", "--task", "vqa", "--data-root", str(world.root), "--split", "val2014"]
    assert main([*command, "--predictions", str(samples), "--json", str(report)]) == 0
    (results,) = (tmp_path / "out").rglob("*_results.json")
    found = json.loads(results.read_text())["results"]["tiny_vqa"]["exact_match,none"]
    accuracy = json.loads(report.read_text())["metrics"]["accuracy"]
    assert 100 * found == pytest.approx(accuracy, abs=0.005)


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The adapter's module on a stand-in for lmms-eval."""

    class Interface:
        rank = 0

        def __init__(self) -> None:
            self.task_dict: dict[str, Any] = {}

    for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.models"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    contents: dict[str, dict[str, object]] = {
        "api.instance": {"Instance": object},
        "api.model": {"lmms": Interface},
        "models.registry_v2": {"ModelManifest": SimpleNamespace},
    }
    for name, content in contents.items():
        module = ModuleType(f"lmms_eval.{name}")
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    yield importlib.import_module("vl_lst.plugins.lmms_eval")
    del sys.modules["vl_lst.plugins.lmms_eval"]
    sys.modules.pop("vl_lst.plugins.lmms_eval_manifest", None)


def request(context: str, file: Path, **row: object) -> tuple[SimpleNamespace, dict[str, object]]:
    """A request as of lmms-eval, and the row of the data set that it is about."""
    visual = read_image(file)
    arguments = (context, {"max_new_tokens": 16}, lambda row: [visual], 0, "some_task", "test")
    return SimpleNamespace(args=arguments, task_name="some_task"), dict(row)


def answer_one(model: Any, asked: tuple[SimpleNamespace, dict[str, object]]) -> list[str]:
    model.task_dict = {"some_task": {"test": [asked[1]]}}
    return list(model.generate_until([asked[0]]))


def test_the_entry_point_leads_to_the_adapter(adapter: Any) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    value = project["entry-points"]["lmms_eval.models"]["vl_lst"]
    manifest = importlib.metadata.EntryPoint("vl_lst", value, "lmms_eval.models").load()()
    assert manifest.model_id == "vl_lst"
    module, _, name = manifest.simple_class_path.rpartition(".")
    assert getattr(importlib.import_module(module), name) is adapter.LmmsEvalModel


def test_the_adapter_asks_the_question_without_instructions(
    world: TinyWorld, run_folder: Path, adapter: Any
) -> None:
    file, question = image_files(world)[0], QUESTIONS[0]
    expected = load_run(run_folder).predict(file, question, encoder_weights=world.encoder).answer
    prompt = f"{question}\nAnswer the question using a single word or phrase."
    options = {"run": str(run_folder), "encoder_weights": str(world.encoder), "batch_size": "2"}
    model = adapter.LmmsEvalModel(**options)
    asked = []
    predict_batch = model._run.predict_batch
    model._run.predict_batch = lambda batch, **more: (
        asked.extend(batch) or predict_batch(batch, **more)
    )
    assert answer_one(model, request(prompt, file, question=question)) == [expected]
    model._fields = adapter.LmmsEvalModel(**options, text_field="prompt")._fields
    answer_one(model, request(prompt, file, question=question))
    assert [each.question for each in asked] == [question, prompt]


def test_the_adapter_refuses_what_it_cannot_do(
    world: TinyWorld, run_folder: Path, adapter: Any
) -> None:
    run = str(run_folder)
    with pytest.raises(InputError, match="trained on vqa: found task=gqa in --model_args"):
        adapter.LmmsEvalModel(run, task="gqa")
    with pytest.raises(InputError, match="--batch_size is 'auto': expected a number"):
        adapter.LmmsEvalModel(run, batch_size="auto")
    with pytest.raises(InputError, match="uses the device cpu: found --device cuda:0"):
        adapter.LmmsEvalModel(run, device="cuda:0")
    model = adapter.LmmsEvalModel(run)
    other = request("is it red?", image_files(world)[0], sentence="it is red", number=3)
    with pytest.raises(InputError, match="no such field, expected one of the texts sentence. Name"):
        answer_one(model, other)
    with pytest.raises(NotImplementedError, match="some_task asks for the likelihood of given"):
        model.loglikelihood([other[0]])


def test_a_batch_of_questions_has_the_answers_of_single_ones(
    world: TinyWorld, run_folder: Path
) -> None:
    run = load_run(run_folder)
    questions: Sequence[Question] = [
        *asked(world),
        Question(read_image(image_files(world)[0]), QUESTIONS[1]),
    ]
    together = run.predict_batch(questions, encoder_weights=world.encoder)
    assert len(together) == len(questions)
    for each, answer in zip(questions, together, strict=True):
        alone = run.predict(each.image, each.question, encoder_weights=world.encoder)
        assert answer == alone
