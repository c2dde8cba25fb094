"""Environment variables of launchers, and an error for each mistake."""

import pytest

from vl_lst.errors import LaunchError
from vl_lst.launch import Launch, read_launch, refuse_separate_processes

TORCHRUN = {
    "WORLD_SIZE": "4",
    "RANK": "3",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
}


def test_variables_of_torchrun_are_read() -> None:
    launch = read_launch(TORCHRUN)
    assert launch == Launch(3, 4, 1, 2, "node1", 29500)
    assert not launch.is_first
    refuse_separate_processes(launch, TORCHRUN)


@pytest.mark.parametrize(
    "leftover",
    [
        {},
        {"WORLD_SIZE": "1"},
        {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_PORT": "1"},
        {"WORLD_SIZE": "", "RANK": " "},
        {"RANK": "0"},
        {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"},
    ],
)
def test_leftover_variables_of_one_process_are_ignored(leftover: dict[str, str]) -> None:
    assert read_launch(leftover) == Launch()
    refuse_separate_processes(Launch(), leftover)


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"])
@pytest.mark.parametrize("value", ["two", "-1", "1.5", "0x2", "9" * 5000, "²"])
def test_a_malformed_number_is_refused(name: str, value: str) -> None:
    with pytest.raises(LaunchError, match=rf"{name}='.*expected a whole number"):
        read_launch({**TORCHRUN, name: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE='0'"),
        ({"RANK": "4"}, "RANK='4' and WORLD_SIZE='4'"),
        ({"RANK": ""}, "no RANK and WORLD_SIZE='4'"),
        ({"WORLD_SIZE": ""}, "RANK='3' and no WORLD_SIZE"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK=2 and LOCAL_WORLD_SIZE=2"),
        ({"MASTER_ADDR": ""}, "no MASTER_ADDR and MASTER_PORT='29500'"),
        ({"MASTER_PORT": ""}, "MASTER_ADDR='node1' and no MASTER_PORT"),
        ({"MASTER_PORT": "0"}, "MASTER_PORT='0'"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT='65536'"),
    ],
)
def test_variables_that_contradict_each_other_are_refused(
    changes: dict[str, str], message: str
) -> None:
    with pytest.raises(LaunchError, match=message):
        read_launch(TORCHRUN | changes)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR and MASTER_PORT"),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}, "srun started 4 processes"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "mpirun started 2 processes"),
        (
            {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
            "asked for several processes but started one",
        ),
    ],
)
def test_processes_that_would_each_train_alone_are_refused(
    environment: dict[str, str], message: str
) -> None:
    with pytest.raises(LaunchError, match=message):
        refuse_separate_processes(read_launch(environment), environment)


def test_one_task_of_slurm_trains_alone() -> None:
    environment = {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1", "OMPI_COMM_WORLD_SIZE": "x"}
    refuse_separate_processes(read_launch(environment), environment)
