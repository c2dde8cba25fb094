"""Time and memory of loading as many questions as GQA's balanced train split has.

Generates a questions file of that size in a temporary folder. A fresh process loads it twice: the
first load reads the JSON and writes the Arrow file, the second maps the Arrow file. Then two forked
workers, as in a data loader, each read all examples.

Memory is counted as resident, in which pages of the mapped file count in every process that has
touched them, and as private, which no other process shares. "Together" is the sum of proportional
set sizes of the parent and both workers, the total that the machine spends.

    python benchmarks/gqa_loading.py [--questions 943000] [--json FILE]
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

from _gqa_questions import made_up_questions

from eval.outputs import write_json
from tasks import ExampleTable, get_task

TRAIN_QUESTIONS = 943_000
WORKERS = 2
MIB = 1 << 20


def main() -> None:
    """Print times in seconds and sizes in MiB."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=TRAIN_QUESTIONS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        file = write_questions(root, options.questions)
        os.environ["VL_LST_CACHE"] = str(root / "cache")
        figures: dict[str, float] = {"questions": options.questions, "file": file.stat().st_size}
        # Fresh processes, so that no load inherits the memory of another.
        spawned = multiprocessing.get_context("spawn")
        for load in ("first", "cached"):
            with spawned.Pool(1) as pool:
                measured = pool.apply(load_once, (root,))
            figures |= {f"{load}_{each}": value for each, value in measured.items()}
        receiver, sender = spawned.Pipe(duplex=False)
        process = spawned.Process(target=load_with_workers, args=(root, sender))
        process.start()
        figures |= receiver.recv()
        process.join()

    for each, value in figures.items():
        shown = f"{value / MIB:12,.1f} MiB"
        if each == "questions":
            shown = f"{value:12,.0f}"
        elif each.endswith("seconds"):
            shown = f"{value:12,.2f} s"
        print(f"{each:28}{shown}")
    if options.json is not None:
        write_json(options.json, figures)


def write_questions(root: Path, count: int) -> Path:
    """Write the official file of a data root and return it."""
    file = root / "gqa" / "train_balanced_questions.json"
    file.parent.mkdir()
    with file.open("w", encoding="utf-8") as out:
        mark = "{"
        for id_, question in made_up_questions(count, balanced_only=True):
            out.write(f"{mark}{json.dumps(id_)}: {json.dumps(question)}")
            mark = ", "
        out.write("}")
    return file


def load_once(root: Path) -> dict[str, float]:
    """Load the split in this process; return times, and memory before and at its peak."""
    import datasets  # noqa: F401  (its own memory is not counted)

    before = memory()["Rss"]
    started = time.perf_counter()
    get_task("gqa").load(root, "train")
    seconds = time.perf_counter() - started
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    return {
        "seconds": seconds,
        "resident_before": before,
        "resident_peak": peak,
        "resident_after": memory()["Rss"],
    }


def load_with_workers(root: Path, sender: Connection) -> None:
    """Load the split, fork workers that read all of it, and send their memory use."""
    examples = get_task("gqa").load(root, "train")
    figures: dict[str, float] = {}
    read_all(examples)
    figures["alone_resident"] = memory()["Rss"]
    figures["alone_private"] = private(memory())
    forked = multiprocessing.get_context("fork")
    queue = forked.Queue()
    barrier = forked.Barrier(WORKERS + 1)
    workers = [forked.Process(target=work, args=(examples, queue, barrier)) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    barrier.wait()
    together = memory()["Pss"]
    for number in range(WORKERS):
        measured = queue.get()
        figures[f"worker_{number}_resident"] = measured["Rss"]
        figures[f"worker_{number}_private"] = private(measured)
        together += measured["Pss"]
    barrier.wait()
    for worker in workers:
        worker.join()
    sender.send({**figures, "together": together})


def work(
    examples: ExampleTable, queue: "multiprocessing.Queue[dict[str, int]]", barrier: Barrier
) -> None:
    """Read all examples and report memory while the other processes are alive."""
    read_all(examples)
    barrier.wait()
    queue.put(memory())
    barrier.wait()


def read_all(examples: ExampleTable) -> None:
    """Read every example once."""
    for example in examples:
        if not example.id:
            raise SystemExit("an example came back empty")


def memory() -> dict[str, int]:
    """Return this process's memory in bytes, as reported by the kernel."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    fields = (line.partition(":") for line in lines)
    return {name: int(rest.split()[0]) * 1024 for name, _, rest in fields}


def private(measured: Mapping[str, int]) -> int:
    """Return the memory that no other process shares."""
    return measured["Private_Clean"] + measured["Private_Dirty"]


if __name__ == "__main__":
    main()
