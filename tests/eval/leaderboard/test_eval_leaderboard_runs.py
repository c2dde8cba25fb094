"""Finding runs, and the reasons why some are left out."""

import json
import os
from pathlib import Path

import pytest
from board_runs import make_record, write_card, write_run

from eval.errors import InputError
from eval.leaderboard.protocol import method_settings, protocol_of, rounded_fingerprints
from eval.leaderboard.runs import find_runs


def reasons(folder: Path) -> dict[str, str]:
    return {each.name: each.reason for each in find_runs(folder).left_out}


def test_runs_are_found_at_any_depth_and_sorted_by_name(tmp_path: Path) -> None:
    for name in ("b", "a/deep/er", ".hidden"):
        write_run(tmp_path, name)
    assert [run.name for run in find_runs(tmp_path).runs] == ["a/deep/er", "b"]


def test_the_folder_itself_may_be_the_run(tmp_path: Path) -> None:
    run = write_run(tmp_path, "alone")
    assert [each.name for each in find_runs(run).runs] == ["alone"]


def test_failed_cancelled_and_changed_code_are_left_out_with_the_reason(tmp_path: Path) -> None:
    write_run(tmp_path, "failed", status="failed", error="the loss is nan")
    write_run(tmp_path, "cancelled", status="cancelled")
    write_run(tmp_path, "dirty", git__dirty=True)
    write_run(tmp_path, "installed", git=None)
    found = reasons(tmp_path)
    assert found["failed"] == "failed: the loss is nan"
    assert found["cancelled"] == "cancelled"
    assert "--include-dirty" in found["dirty"]
    assert [run.name for run in find_runs(tmp_path).runs] == ["installed"]
    runs = find_runs(tmp_path, include_dirty=True).runs
    assert [run.name for run in runs] == ["dirty", "installed"]


def test_runs_of_several_checkouts_are_left_out_with_the_reason(tmp_path: Path) -> None:
    """Several sessions are fine if all of them ran the same clean commit."""
    same, other = ({"commit": letter * 40, "dirty": False} for letter in "cd")
    write_run(tmp_path, "changed", git__changed_during_run=True)
    write_run(tmp_path, "other", earlier_git=[other])
    write_run(tmp_path, "dirty", earlier_git=[same | {"dirty": True}])
    write_run(tmp_path, "same", earlier_git=[same])
    found = reasons(tmp_path)
    assert found["changed"].startswith("its code changed during training (--include-dirty")
    assert "different commits (dddddddddddd, cccccccccccc)" in found["other"]
    assert found["dirty"].startswith("its code had uncommitted changes")
    assert [run.name for run in find_runs(tmp_path).runs] == ["same"]
    assert len(find_runs(tmp_path, include_dirty=True).runs) == 4


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"schema_version": 1, "sta',
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps(make_record(schema_version=2)).encode(),
        json.dumps(make_record(seed="0")).encode(),
        json.dumps(make_record(seed=10**30)).encode(),
        json.dumps(make_record(tasks=[])).encode(),
        json.dumps(make_record(recipe=[])).encode(),
        json.dumps(make_record(train_seconds=float("nan"))).encode(),
        json.dumps(make_record(recipe__note=float("inf"))).encode(),
        json.dumps(make_record(method="\ud800")).encode(),
        json.dumps({}).encode(),
    ],
)
def test_a_broken_record_is_left_out_whatever_is_wrong_with_it(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "record.json").write_bytes(content)
    write_run(tmp_path, "sound")
    found = find_runs(tmp_path)
    assert [run.name for run in found.runs] == ["sound"]
    assert found.left_out[0].reason.startswith("unreadable record: ")


def test_linked_runs_count_once_and_cycles_of_links_end(tmp_path: Path) -> None:
    write_run(tmp_path / "disk", "a")
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "linked").symlink_to(tmp_path / "disk")
    (runs / "again").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "circle").symlink_to(runs)
    assert [run.name for run in find_runs(runs).runs] == ["again/a"]


def test_a_dangling_link_is_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, "sound")
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "record.json").symlink_to(tmp_path / "nowhere.json")
    assert reasons(tmp_path)["gone"].startswith("unreadable record: ")


def test_fields_of_later_versions_are_ignored(tmp_path: Path) -> None:
    write_run(tmp_path, "later", energy_joules=5, memory_bytes__swap=3)
    assert not find_runs(tmp_path).left_out


def test_a_name_that_is_not_unicode_can_be_displayed(tmp_path: Path) -> None:
    run = write_run(tmp_path, "plain")
    os.rename(run, os.fsencode(tmp_path) + b"/caf\xe9")
    (found,) = find_runs(tmp_path).runs
    found.name.encode()
    assert found.name == "caf�"


def test_a_missing_or_empty_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not exist; expected a folder with runs"):
        find_runs(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no record\.json in it or its subfolders"):
        find_runs(tmp_path)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InputError, match="is not a folder"):
        find_runs(file)


def test_the_digest_of_training_examples_is_read_if_available(tmp_path: Path) -> None:
    write_card(write_run(tmp_path, "a"), train="d" * 64)
    (write_run(tmp_path, "b") / "model.json").write_text("{")
    write_run(tmp_path, "c")
    assert [run.train_digests for run in find_runs(tmp_path).runs] == [{"vqa": "d" * 64}, {}, {}]


def test_runs_of_earlier_versions_are_comparable(tmp_path: Path) -> None:
    """They had no field for the limit of 20 prompt tokens, one answer count for all tasks, and no
    fields for the visual embedding, the vocabulary, the steps of the warm-up and the newer options
    of methods."""
    scores = {"vqa": 60.0, "gqa": 50.0}
    ladder = {"reduction": 4}
    former = {"recipe__data__min_answer_count": 9, "recipe__method__options": ladder}
    write_run(tmp_path, "then", scores=scores, **former)
    limits = {"recipe__data__max_prompt_tokens": dict.fromkeys(scores, 20)}
    counts = {"recipe__data__min_answer_count": dict.fromkeys(scores, 9)}
    new = {
        "recipe__visual": {"embedding": None},
        "recipe__backbone__vocabulary": None,
        "recipe__optimizer__warmup_steps": None,
        "recipe__method__options": {**ladder, "merge_last": False, "random_weights": "by_width"},
    }
    write_run(tmp_path, "now", scores=scores, seed=1, **limits, **counts, **new)
    longer = {"recipe__data__max_prompt_tokens": dict.fromkeys(scores, 128)}
    write_run(tmp_path, "longer", scores=scores, seed=2, **longer, **counts)
    then, now, other = (
        next(run for run in find_runs(tmp_path).runs if run.name == name)
        for name in ("then", "now", "longer")
    )
    splits = {"vqa": "val2014", "gqa": "val"}
    assert protocol_of(then, splits) == protocol_of(now, splits) == protocol_of(other, splits)
    assert method_settings(then) == method_settings(now) != method_settings(other)


def test_runs_with_one_backbone_in_two_precisions_are_comparable(tmp_path: Path) -> None:
    """Full fine-tuning keeps weights in float32 where others keep them in bf16. A run of an earlier
    version has the fingerprint of one of them."""
    rounded = "r" * 64
    names = {"exact": "a" * 64, "in bf16": rounded, "before": "a" * 64, "other": "c" * 64}
    for seed, (name, fingerprint) in enumerate(names.items()):
        known = None if name in ("before", "other") else rounded
        write_run(
            tmp_path,
            name,
            seed=seed,
            scores={"vqa": 60.0},
            backbone_fingerprint=fingerprint,
            backbone_fingerprint_bf16=known,
        )
    runs = find_runs(tmp_path).runs
    by_fingerprint = rounded_fingerprints(runs)
    protocols = {run.name: protocol_of(run, {"vqa": "val2014"}, by_fingerprint) for run in runs}
    assert protocols["exact"] == protocols["in bf16"] == protocols["before"]
    assert protocols["other"] != protocols["exact"]


@pytest.mark.parametrize(
    ("dtype", "precision", "is_rounded"),
    [
        ("bfloat16", "fp32", True),
        ("bfloat16", "bf16", False),
        ("float16", "bf16", True),
        ("float32", "fp32", False),
    ],
)
def test_stored_states_that_were_rounded_are_another_setting_of_the_method(
    tmp_path: Path, dtype: str, precision: str, is_rounded: bool
) -> None:
    kept = {"recipe__backbone__precision": precision, "scores": {"vqa": 60.0}}
    write_run(tmp_path, "computed", **kept)
    write_run(tmp_path, "stored", **kept, states_dtype=dtype)
    computed, stored = find_runs(tmp_path).runs
    assert (method_settings(computed) != method_settings(stored)) == is_rounded
