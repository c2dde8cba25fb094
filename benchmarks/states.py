"""Bytes of stored backbone states, and when it pays to store them.

    python benchmarks/states.py [--backbone t5-base] [--precision fp32] [--batch-size 16]
        [--texts 128] [--rounds 3] [--device auto] [--json OUT]
    python benchmarks/states.py --sizes

The first table has the bytes that states take, which are exact: for each token, for a prompt of 15
tokens with an answer of 4, the shapes at which the reference implementation was measured, and for
100,000 such pairs. `--sizes` prints it alone.

The second compares training steps of a ladder whose backbone runs with steps whose states are read
from a file, for all layers and for the last one. The backbone has random weights. Texts are
extracted in batches, each prompt with one answer, and every prompt is different, which is the worst
case. `saved` is what an example saves in an epoch, and the extraction pays from `break-even` epochs
on. On the CPU, times are CPU seconds of all threads, which other load on the machine hardly
changes; but reading takes the time on the clock, the disk included, and the file is dropped from
memory before where the system can do so. Rows are measured in turns, warm-up steps included; only
ratios within one run are meaningful.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import torch
from _step_rows import VOCABULARY, tiny_config
from torch import Tensor

from eval.outputs import write_json
from feature_extraction.sizes import format_bytes
from vl_lst.backbones.family import Family
from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.backbones.loading import DTYPES
from vl_lst.backbones.random_weights import backbone_config, random_backbone
from vl_lst.backbones.states.keys import input_key, pair_key
from vl_lst.backbones.states.reader import StateReader
from vl_lst.backbones.states.spec import (
    STATE_DTYPES,
    OutputSpec,
    StackSpec,
    StateDtype,
    StateSpec,
)
from vl_lst.backbones.states.table import StateTable, Texts, expected_bytes
from vl_lst.backbones.states.writer import StateWriter
from vl_lst.backbones.stored import BackboneStates, StoredBackbone
from vl_lst.choices import ArithmeticPrecision
from vl_lst.devices import autocast, choose_device, device_name
from vl_lst.models.batch import Batch
from vl_lst.profiling.steps import measure_steps
from vl_lst.profiling.workload import Workload
from vl_lst.recipes.building import attach_method
from vl_lst.recipes.schema import OptimizerSection
from vl_lst.training.resources import WARM_UP_STEPS

BACKBONES = ("t5-base", "t5-large", "t5-3b")
PAIRS = 100_000
OPTIMIZER = OptimizerSection(lr=1e-4)
PRECISIONS: tuple[ArithmeticPrecision, ...] = get_args(ArithmeticPrecision)
SEED = 0


@dataclass(frozen=True, slots=True)
class Layers:
    """Which blocks a ladder reads.

    Args:
        name: Name in tables.
        encoder: Blocks of the encoder.
        decoder: Blocks of the decoder.
    """

    name: str
    encoder: tuple[int, ...]
    decoder: tuple[int, ...]

    @classmethod
    def choices(cls, config: Any, family: Family) -> list["Layers"]:
        """Return all layers of a backbone, and the last ones."""
        encoder, decoder = family.encoder_sizes(config).depth, family.decoder_sizes(config).depth
        return [
            cls("all layers", tuple(range(encoder)), tuple(range(decoder))),
            cls("one layer", (encoder - 1,), (decoder - 1,)),
        ]


@dataclass
class Measured:
    """Seconds with some layers; lists have one value per round.

    Args:
        file_bytes: Size of the file, output layer included.
        extraction: Extraction of one text, to the finished file.
        backbone: Step in which the backbone runs.
        states: Step whose states are at hand.
        reading: Reading of the states of one batch.
    """

    file_bytes: int
    extraction: float
    backbone: list[float] = field(default_factory=list)
    states: list[float] = field(default_factory=list)
    reading: list[float] = field(default_factory=list)

    def row(self, batch_size: int) -> dict[str, float | None]:
        """Return the medians, and what follows from them; no break-even if nothing is saved."""
        backbone, states, reading = (
            statistics.median(each) for each in (self.backbone, self.states, self.reading)
        )
        saved = (backbone - states - reading) / batch_size
        return {
            "backbone": backbone,
            "states": states,
            "reading": reading,
            "ratio": (states + reading) / backbone,
            "extraction": self.extraction,
            "saved": saved,
            "break_even": self.extraction / saved if saved > 0 else None,
        }


def state_spec(
    config: Any, family: Family, layers: Layers, dtype: StateDtype, *, output: StateDtype | None
) -> StateSpec:
    """Return the settings of states of a generating head, which reads no final states."""
    encoder, decoder = family.encoder_sizes(config), family.decoder_sizes(config)
    size = family.vocabulary_size(config)
    return StateSpec(
        backbone="random",
        weights_sha256="0" * 64,
        precision="fp32",
        vocabulary=None,
        tokenizer_sha256="0" * 64,
        encoder=StackSpec(layers=layers.encoder, width=encoder.width, has_final=False),
        decoder=StackSpec(layers=layers.decoder, width=decoder.width, has_final=False),
        dtype=dtype,
        output=output
        and OutputSpec(vocabulary_size=size, width=decoder.width, dtype=output, has_bias=False),
    )


def size_rows(workload: Workload) -> list[dict[str, Any]]:
    """Return the bytes of states of published backbones."""
    rows = []
    for name in BACKBONES:
        config, family = backbone_config(name)
        for layers in Layers.choices(config, family):
            spec = state_spec(config, family, layers, "bfloat16", output=None)
            assert spec.decoder is not None
            token = spec.encoder.planes * spec.encoder.width * spec.itemsize
            answer_token = spec.decoder.planes * spec.decoder.width * spec.itemsize
            table = StateTable(
                Texts.of((bytes(16), workload.text_tokens) for _ in range(PAIRS)),
                Texts.of((bytes(16), workload.answer_tokens) for _ in range(PAIRS)),
            )
            pair = workload.text_tokens * token + workload.answer_tokens * answer_token
            rows.append(
                {
                    "backbone": name,
                    "layers": layers.name,
                    "token_bytes": token,
                    "pair_bytes": pair,
                    "bytes_of_100000_pairs": expected_bytes(spec, table),
                }
            )
    return rows


def print_sizes(rows: Sequence[Mapping[str, Any]], workload: Workload) -> None:
    """Print the table of bytes."""
    print(
        f"\nBytes of states in bf16; fp32 takes twice as much. Prompts of {workload.text_tokens} "
        f"tokens, answers of {workload.answer_tokens}.\n"
    )
    print("| backbone | kept | per token | prompt and answer | 100,000 of them |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['backbone']} | {row['layers']} | {format_bytes(row['token_bytes'])} | "
            f"{format_bytes(row['pair_bytes'])} | {format_bytes(row['bytes_of_100000_pairs'])} |"
        )


class StatesBench:
    """Extracts the states of random texts, and trains with and without them.

    Args:
        config: Configuration of the backbone.
        family: Its family.
        workload: Shapes of a batch.
        precision: Precision of arithmetic, of the backbone and of the states.
        texts: Number of texts, a multiple of the batch size.
        device: Device to measure on.
        folder: Folder for files of states.
    """

    def __init__(
        self,
        config: Any,
        family: Family,
        workload: Workload,
        precision: ArithmeticPrecision,
        texts: int,
        device: torch.device,
        folder: Path,
    ) -> None:
        self._config, self._family, self._workload = config, family, workload
        self._precision, self._device, self._folder = precision, device, folder
        self._clock = time.process_time if device.type == "cpu" else time.perf_counter
        torch.manual_seed(SEED)
        self._backbone = random_backbone(config, family, dtype=DTYPES[precision]).to(device)
        vocabulary = family.vocabulary_size(config)
        self._batch = workload.batch(vocabulary)
        self._prompts_NT = torch.randint(2, vocabulary, (texts, workload.text_tokens))
        self._labels_NL = torch.randint(2, vocabulary, (texts, workload.answer_tokens))
        self._decoder_ids_NL = self._backbone.shift_right(self._labels_NL)
        self._inputs = [input_key(ids) for ids in self._prompts_NT.tolist()]
        self._pairs = [
            pair_key(key, ids)
            for key, ids in zip(self._inputs, self._decoder_ids_NL.tolist(), strict=True)
        ]

    def measure(self, choices: Sequence[Layers], rounds: int) -> dict[str, Measured]:
        """Extract with each choice of layers, then measure steps in turns."""
        readers, results = {}, {}
        for layers in choices:
            path = self._folder / f"{layers.name}.h5"
            started = self._clock()
            self._extract(path, layers)
            seconds = (self._clock() - started) / len(self._inputs)
            results[layers.name] = Measured(path.stat().st_size, seconds)
            readers[layers.name] = StateReader(path)
        for round_number in range(rounds):
            for layers in choices:
                result, reader = results[layers.name], readers[layers.name]
                batch = self._text_batch(round_number)
                result.backbone.append(self._step(layers, self._backbone, batch))
                _drop_from_memory(reader.path)
                started = time.perf_counter()
                states = self._read(reader, round_number)
                result.reading.append(time.perf_counter() - started)
                stored = StoredBackbone(self._config, self._family, reader.output_layer())
                result.states.append(self._step(layers, stored, replace(batch, states=states)))
        return results

    @torch.no_grad()
    def _extract(self, path: Path, layers: Layers) -> None:
        output = self._family.output_layer(self._backbone.model)
        dtype = STATE_DTYPES[self._precision]
        spec = state_spec(self._config, self._family, layers, dtype, output=dtype)
        table = StateTable(
            Texts.of((key, self._workload.text_tokens) for key in self._inputs),
            Texts.of((key, self._workload.answer_tokens) for key in self._pairs),
        )
        with StateWriter(path, spec, table, output=output) as writer:
            for start in range(0, len(self._inputs), self._workload.batch_size):
                rows = slice(start, start + self._workload.batch_size)
                with autocast(self._precision, self._device):
                    encoder = self._backbone.encode(
                        self._prompts_NT[rows].to(self._device), layers.encoder
                    )
                    decoder = self._backbone.decode(
                        self._decoder_ids_NL[rows].to(self._device),
                        layers.decoder,
                        encoder_states_PTD=encoder.final_UTD,
                        encoder_mask_PT=encoder.mask_UT,
                    )
                writer.write_inputs(start, _planes(encoder.embedding_UTD, encoder.blocks_KUTD))
                writer.write_pairs(start, _planes(decoder.embedding_PLD, decoder.blocks_KPLD))
            writer.finish()

    def _rows(self, round_number: int) -> list[int]:
        """Return the texts of a round, which are spread over the file."""
        step = len(self._inputs) // self._workload.batch_size
        return [row * step + round_number % step for row in range(self._workload.batch_size)]

    def _text_batch(self, round_number: int) -> Batch:
        rows = self._rows(round_number)
        return replace(
            self._batch, prompt_ids_UT=self._prompts_NT[rows], labels_BL=self._labels_NL[rows]
        )

    def _read(self, reader: StateReader, round_number: int) -> BackboneStates:
        rows = self._rows(round_number)
        assert reader.decoder is not None
        return BackboneStates(
            reader.encoder.read([self._inputs[row] for row in rows]),
            reader.decoder.read([self._pairs[row] for row in rows]),
        )

    def _step(self, layers: Layers, backbone: FrozenBackbone, batch: Batch) -> float:
        """Return the seconds of a step."""
        torch.manual_seed(SEED)
        kept = {"encoder_layers": [*layers.encoder], "decoder_layers": [*layers.decoder]}
        model, trainable = attach_method(
            "lst",
            {**kept, "recompute": False},
            backbone,
            visual=self._workload.visual(),
            heads={batch.task: self._workload.head(has_decoder=True)},
            precision="fp32",
            optimizer=OPTIMIZER.name,
        )
        model.train().to(self._device)
        batch, started = batch.to(self._device), self._clock()
        measure_steps(
            model,
            trainable,
            batch,
            precision=self._precision,
            optimizer=OPTIMIZER,
            steps=1,
        )
        return (self._clock() - started) / (WARM_UP_STEPS + 1)


def _planes(embedding_NTD: Tensor, blocks_KNTD: Tensor) -> list[Tensor]:
    return list(torch.cat((embedding_NTD[None], blocks_KNTD)).unbind(1))


def _drop_from_memory(path: Path) -> None:
    """Drop a file from the system's page cache; only a hint, and not available everywhere."""
    with suppress(AttributeError, OSError), path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def print_times(rows: Mapping[str, Mapping[str, Any]], device: torch.device) -> None:
    """Print the table of times."""
    kind = "CPU seconds" if device.type == "cpu" else "Seconds"
    print(f"\n{kind} on {device_name(device)}, {torch.get_num_threads()} threads; medians.\n")
    print(
        "| kept | step | step with states | reading | ratio | extraction, ms | saved, ms | "
        "break-even, epochs |\n|---|---|---|---|---|---|---|---|"
    )
    for name, row in rows.items():
        epochs = "never" if row["break_even"] is None else f"{row['break_even']:.1f}"
        print(
            f"| {name} | {row['backbone']:.3f} | {row['states']:.3f} | {row['reading']:.4f} | "
            f"{row['ratio']:.0%} | {1e3 * row['extraction']:.1f} | {1e3 * row['saved']:.1f} | "
            f"{epochs} |"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", choices=BACKBONES, default="t5-base")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--texts", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--sizes", action="store_true", help="print the bytes alone")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to test this program")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    if options.texts % options.batch_size:
        parser.error(
            f"--texts {options.texts}: expected a multiple of the batch size, {options.batch_size}"
        )
    workload = Workload(batch_size=options.batch_size)
    sizes = size_rows(workload)
    print_sizes(sizes, workload)
    document: dict[str, Any] = {"sizes": sizes}
    if not options.sizes:
        device = choose_device(options.device)
        config, family = backbone_config(options.backbone, vocabulary=VOCABULARY)
        if options.tiny:
            config, family = tiny_config()
            workload = replace(workload, channels=16)
        with tempfile.TemporaryDirectory() as folder:
            bench = StatesBench(
                config, family, workload, options.precision, options.texts, device, Path(folder)
            )
            measured = bench.measure(Layers.choices(config, family), options.rounds)
        rows = {name: each.row(options.batch_size) for name, each in measured.items()}
        print_times(rows, device)
        document |= {
            "device": device_name(device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "backbone": options.backbone,
            "precision": options.precision,
            "batch_size": options.batch_size,
            "texts": options.texts,
            "rows": rows,
        }
    if options.json:
        write_json(options.json, document)


if __name__ == "__main__":
    main()
