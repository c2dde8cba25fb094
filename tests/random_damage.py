"""Damage a file at random many times, and read each copy in a process with little memory."""

import subprocess
import sys
from pathlib import Path

__all__ = ["SECONDS", "require_values_or_errors"]

SECONDS = 100

# In a separate process: HDF5 may crash it, or allocate any amount of memory.
READ_DAMAGED = """
import random, resource, signal, sys
from pathlib import Path
from feature_extraction.errors import StoreError
{before}

path, trials = Path(sys.argv[1]), int(sys.argv[2])
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**28,) * 2)
whole = path.read_bytes()
used = [place for place, byte in enumerate(whole) if byte]
target = path.with_name("damaged.h5")
for trial in range(trials):
    generator, content = random.Random(trial), bytearray(whole)
    if trial % 3 == 0:
        del content[generator.randrange(len(content)):]
    else:
        places = used if trial % 3 == 1 else range(len(content))
        for _ in range(generator.choice([1, 2, 8, 32])):
            start = generator.choice(places)
            for place in range(start, min(len(content), start + generator.choice([1, 1, 4, 8]))):
                content[place] = generator.choice([0, 255, generator.randrange(256)])
    target.write_bytes(content)
    print("trial", trial, flush=True)
    signal.alarm(20)
    try:
        read(target)
    except StoreError:
        pass
    signal.alarm(0)
"""


def require_values_or_errors(path: Path, before: str, trials: int) -> None:
    """Require that every damaged copy can be read, or is refused by a `StoreError`.

    Args:
        path: The undamaged file.
        before: Statements that define `read(path)`; what they load is not limited in memory.
        trials: Number of damaged copies.
    """
    code = READ_DAMAGED.format(before=before)
    command = [sys.executable, "-c", code, str(path), str(trials)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ended.returncode == 0, (ended.stdout.splitlines()[-1:], ended.stderr[-2000:])
