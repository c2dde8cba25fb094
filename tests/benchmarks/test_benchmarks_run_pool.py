"""Processes that train a benchmark's runs leave nothing behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmark_programs import BENCHMARKS

SECONDS = 60
PROGRAM = """
import os, sys, time
import _run_pool

_run_pool.SECONDS_TO_STOP = 0.1
if __name__ == "__main__":
    pool = _run_pool.run_pool(1, runs_per_process=None)
    print(pool.submit(os.getpid).result(), pool.submit(os.getenv, "OMP_NUM_THREADS").result())
    sys.stdout.flush()
    time.sleep(600)
"""


def is_running(process: int) -> bool:
    """Return whether a process exists, and is not only waiting for somebody to read its status."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_waiting_process_ends_when_the_program_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    with subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(BENCHMARKS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as program:
        assert program.stdout is not None
        worker, threads = map(int, program.stdout.readline().split())
        program.send_signal(signal.SIGKILL)
    assert threads == 1
    end = time.monotonic() + SECONDS
    while is_running(worker) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_running(worker)
