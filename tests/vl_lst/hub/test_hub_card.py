"""The model card: the Hub's formats, scores on official data alone, and hostile names."""

import html
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results
from markdown_it import MarkdownIt
from tiny_run import TinyWorld

from vl_lst.hub.card import model_card
from vl_lst.hub.files import PortableRun, portable_run
from vl_lst.hub.scores import result_files
from vl_lst.runs.directory import RunDirectory

BACKBONE = "someone/tiny-backbone"
HOSTILE = "a|b](javascript:alert(1))<script>x</script>\n---\nlicense: mit\n# `c` **d** www.e.org"


@pytest.fixture(scope="module")
def portable(world: TinyWorld, trained: Path) -> PortableRun:
    return portable_run(RunDirectory(trained), backbone=BACKBONE)


def header_and_text(run: PortableRun, name: str = "someone/run") -> tuple[dict, str]:
    card = model_card(run, name, license_id="apache-2.0", has_curve=True)
    _, header, text = re.split(r"^---\n", card, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(header), text


def with_backbone(run: PortableRun, name: str) -> PortableRun:
    return replace(run, record=run.record.model_copy(update={"backbone": name}))


def official(run: PortableRun) -> PortableRun:
    """The run as if it had been trained on all examples of VQA v2."""
    task = run.card.tasks["vqa"].model_copy(update={"train_examples": 443_757})
    return replace(run, card=run.card.model_copy(update={"tasks": {"vqa": task}}))


def test_the_header_is_in_the_hubs_format(portable: PortableRun) -> None:
    header, text = header_and_text(portable)
    assert header["license"] == "apache-2.0"
    assert header["base_model"] == BACKBONE
    assert header["pipeline_tag"] == "visual-question-answering"
    name, [result] = model_index_to_eval_results(header["model-index"])
    score = portable.record.scores["vqa"]["val2014"]["accuracy"]
    assert (name, result.metric_type, result.metric_value) == ("run", "accuracy", score)
    assert f"| {score:.2f} |" in text
    assert 'load_run("someone/run")' in text
    assert 'predict someone/run --image photograph.jpg --question "..."' in text
    assert "evaluate someone/run --split val2014 --data-root data --features features.h5" in text
    assert "(training_curve.png)" in text


def test_only_official_data_name_a_dataset_of_the_hub(portable: PortableRun) -> None:
    header, text = header_and_text(portable)
    assert "datasets" not in header
    assert "VQA v2" not in text
    assert result_files(portable) == {}
    header, text = header_and_text(official(portable))
    assert header["datasets"] == ["lmms-lab/VQAv2"]
    assert header["model-index"][0]["results"][0]["dataset"]["type"] == "lmms-lab/VQAv2"
    assert "[VQA v2](https://huggingface.co/datasets/lmms-lab/VQAv2)" in text
    files = result_files(official(portable))
    assert files.keys() == {".eval_results/vqa.yaml"}
    [entry] = yaml.safe_load(files[".eval_results/vqa.yaml"])
    assert entry["dataset"] == {"id": "lmms-lab/VQAv2", "task_id": "default"}
    assert entry["value"] == portable.record.scores["vqa"]["val2014"]["accuracy"]
    assert "split val2014" in entry["notes"]


def test_a_bundled_backbone_is_no_repository(portable: PortableRun) -> None:
    header, text = header_and_text(with_backbone(portable, "demo"))
    assert "base_model" not in header
    assert "huggingface.co/demo" not in text


def test_hostile_names_show_as_they_are(portable: PortableRun) -> None:
    plain, text = header_and_text(portable)
    run = with_backbone(portable, HOSTILE)
    run = replace(run, record=run.record.model_copy(update={"device": HOSTILE}))
    header, hostile_text = header_and_text(run)
    assert {**header, "base_model": BACKBONE} == plain
    page, plain_page = (
        MarkdownIt("gfm-like", {"linkify": False}).render(each) for each in (hostile_text, text)
    )
    shown = " ".join(HOSTILE.split())
    assert html.unescape(page).count(shown) == 2
    assert "<script" not in page
    for tag in ("<a ", "<td", "<tr", "<h1", "<h2", "<code", "<strong", "<hr"):
        # The link to the backbone is left out, since the name is none.
        assert page.count(tag) == plain_page.count(tag) - (tag == "<a "), tag
