"""One schema for a run's files: strict for writers, lenient for readers."""

import pytest
from board_runs import make_record
from pydantic import ValidationError

from eval.run_files import GitState, ModelCard, RunRecord, TaskCard, first_problem

CARD = {
    "schema_version": 2,
    "backbone_fingerprint": "b" * 64,
    "feature_spec": {"encoder": "RN101"},
    "tasks": {"vqa": {"train_examples": 3, "train_examples_sha256": "c", "answers": ["yes"]}},
}


def test_a_writer_must_know_every_field() -> None:
    later = make_record(energy_joules=5)
    with pytest.raises(ValidationError, match="energy_joules"):
        RunRecord.model_validate(later)
    with pytest.raises(ValidationError, match=r"git\.branch"):
        RunRecord.model_validate(make_record(git__branch="main"))
    with pytest.raises(ValidationError, match="extra"):
        ModelCard.model_validate(CARD | {"extra": 1})


def test_a_reader_ignores_fields_of_later_versions_at_any_depth() -> None:
    later = make_record(energy_joules=5, git__branch="main", memory_bytes__swap=3)
    assert RunRecord.read_leniently(later) == RunRecord.read_leniently(make_record())
    tasks = {"vqa": CARD["tasks"]["vqa"] | {"shards": 2}}  # type: ignore[index]
    assert ModelCard.read_leniently(CARD | {"tasks": tasks}) == ModelCard.model_validate(CARD)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"schema_version": 2}, "schema_version: Input should be 1"),
        ({"seed": "0"}, "seed: Input should be a valid integer"),
        ({"seed": True}, "seed: Input should be a valid integer"),
        ({"num_processes": 0}, "num_processes: Input should be greater than or equal to 1"),
        ({"parameters__percent_of_total": 101.0}, "parameters.percent_of_total: "),
        ({"git__dirty": "yes"}, "git.dirty: Input should be a valid boolean"),
    ],
)
def test_a_reader_converts_no_types_and_names_the_field(
    changes: dict[str, object], problem: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        RunRecord.read_leniently(make_record(**changes))
    assert first_problem(caught.value).startswith(problem)


def test_records_of_the_first_version_can_be_read() -> None:
    """They lack what was added since: processes, environment, earlier checkouts, mean score."""
    record = make_record()
    for name in ("error", "best_step", "train_seconds"):
        del record[name]
    found = RunRecord.read_leniently(record)
    assert (found.num_processes, found.mean_score, found.environment) == (None, None, {})
    assert (found.earlier_git, found.best_step_of_task) == ([], {})
    assert found.git == GitState(commit="c" * 40, dirty=False)
    assert found.validation_split("vqa") == "val2014"
    assert found.validation_split("gqa") is None


def test_the_order_of_fields_in_the_files_stays() -> None:
    """Programs and people compare these files line by line."""
    record = RunRecord.read_leniently(make_record()).model_dump(mode="json")
    assert list(record)[:9] == [
        *("schema_version", "status", "error", "method", "tasks", "protocol", "scores"),
        *("mean_score", "best_step"),
    ]
    assert list(record)[-8:] == [
        *("num_processes", "git", "earlier_git", "environment", "packages", "python"),
        *("device", "recipe"),
    ]
    assert list(record["git"]) == ["commit", "dirty", "diff_sha256", "changed_during_run"]
    assert list(ModelCard.model_fields) == [
        *("schema_version", "backbone_fingerprint", "feature_spec", "tasks"),
        *("states_sha256", "states_dtype", "backbone_fingerprint_bf16"),
    ]
    assert list(TaskCard.model_fields) == [
        *("train_examples", "train_examples_sha256", "validation_examples_sha256", "answers"),
    ]
