"""Freed memory is kept if the C library supports it."""

import subprocess
import sys

import pytest

from feature_extraction.allocation import keep_freed_memory

# Count page faults when an array of 64 MiB is created and freed twenty times.
COUNT_FAULTS = """
import resource, sys
import numpy as np
from feature_extraction.allocation import keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "keep" else None
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2**23)
before = faults()
for _ in range(20):
    np.ones(2**23)
print(kept, faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="an option of glibc")
def test_memory_is_not_cleared_again_for_every_array() -> None:
    """In separate processes, because the option holds for the whole process."""
    found = {}
    for way in ("keep", "give back"):
        command = [sys.executable, "-c", COUNT_FAULTS, way]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        kept, faults = output.split()
        if kept == "False":
            pytest.skip("the C library has no such option")
        found[way] = int(faults)
    assert found["keep"] * 10 < found["give back"]


def test_a_system_without_the_option_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert keep_freed_memory() is False
