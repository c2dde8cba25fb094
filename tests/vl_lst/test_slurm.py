"""Tasks of a Slurm job step become processes that train together, and other processes do not."""

import fake_srun
import pytest

from vl_lst.launch import Launch, read_launch
from vl_lst.slurm import adopt_slurm_step

STEP = {
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_STEP_NODELIST": "gpu[03-05,9]",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}


def launch_of(environment: dict[str, str]) -> Launch:
    changed = dict(environment)
    adopt_slurm_step(changed)
    return read_launch(changed)


def test_a_task_has_the_place_that_slurm_gave_it() -> None:
    assert launch_of(STEP) == Launch(3, 5, 1, 2, "gpu03", 15_000 + 3456 + 74)
    last = STEP | {"SLURM_PROCID": "4", "SLURM_LOCALID": "0", "SLURM_NODEID": "2"}
    assert launch_of(last) == Launch(4, 5, 0, 1, "gpu03", 15_000 + 3456 + 74)


@pytest.mark.parametrize(
    "variable", [{"SLURM_GPUS_PER_TASK": "1"}, {"SLURM_TRES_PER_TASK": "cpu=4,gres/gpu=1"}]
)
def test_a_task_that_sees_one_gpu_uses_that(variable: dict[str, str]) -> None:
    """Its local rank counts GPUs that it does not see."""
    launch = launch_of(STEP | variable)
    assert (launch.local_rank, launch.local_num_processes) == (0, 1)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node7", "node7"),
        ("a,b", "a"),
        ("n[1,5-6]", "n1"),
        ("r[10-11]n[3-4],x", "r10n3"),
        ("node-a-[08-09].site", "node-a-08.site"),
    ],
)
def test_the_first_node_is_where_processes_connect(nodes: str, first: str) -> None:
    assert launch_of(STEP | {"SLURM_STEP_NODELIST": nodes}).address == first


def test_given_addresses_win() -> None:
    given = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
    launch = launch_of(STEP | given)
    assert (launch.address, launch.port) == ("10.0.0.1", 29500)


@pytest.mark.parametrize(
    "changes",
    [
        {"SLURM_STEP_NUM_TASKS": "1"},
        {"SLURM_STEP_NUM_TASKS": ""},
        {"SLURM_STEP_NUM_TASKS": "many"},
        # torchrun in a job step.
        {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "x", "MASTER_PORT": "1"},
    ],
)
def test_other_processes_stay_as_they_are(changes: dict[str, str]) -> None:
    before = STEP | changes
    after = dict(before)
    adopt_slurm_step(after)
    assert after == before


def test_the_stand_in_of_tests_sets_what_is_read() -> None:
    assert fake_srun.task_variables(1, 2, 7).keys() == STEP.keys()
    assert launch_of(fake_srun.task_variables(1, 2, 7)) == Launch(1, 2, 1, 2, "localhost", 15_007)
