"""Extract the states of a run's backbone into one file.

    recipe -> examples -> distinct texts, sorted by length -> backbone -> file of states

Extraction can be interrupted at any point. The finished file is byte-identical to that of an
uninterrupted run with the same batch size.

U encoder inputs, P pairs, I images, M tokens per image, S states per token, T tokens, D width.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from eval.errors import InputError
from feature_extraction.errors import StoreError
from feature_extraction.sizes import format_bytes
from feature_extraction.store import open_features
from feature_extraction.store.outputs import check_output_file, remove_leftovers
from feature_extraction.store.shards import Shard
from tasks import ExampleTable, Task
from vl_lst.backbones.layers import OutputLayer
from vl_lst.backbones.states.layout import ShardOfStates
from vl_lst.backbones.states.reader import StateReader
from vl_lst.backbones.states.spec import StackSpec, StateSpec
from vl_lst.backbones.states.table import StateTable, expected_bytes
from vl_lst.backbones.states.writer import StateWriter
from vl_lst.choices import StatePrecision
from vl_lst.data.backbone_texts import TextInput
from vl_lst.data.examples import load_examples, require_images
from vl_lst.data.stored_texts import backbone_texts
from vl_lst.devices import choose_device, float32_products, inference_autocast
from vl_lst.extraction.plan import InputBatch, Pair, TextPlan
from vl_lst.extraction.spec import state_spec
from vl_lst.methods import require_states_alone
from vl_lst.models.side_model import SideModel
from vl_lst.progress import ProgressReport, silent
from vl_lst.recipes import Recipe
from vl_lst.recipes.building import build_model, require_heads

__all__ = ["StatesResult", "extract_states"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatesResult:
    """The result of an extraction.

    Args:
        path: The finished file.
        inputs: Number of encoder inputs in it.
        pairs: Number of (input, answer) pairs in it.
        computed: Number of inputs that this run has computed; the others were finished before.
        file_bytes: Size of the file in bytes.
        seconds: Wall time of this run.
        spec: Settings of the states.
    """

    path: Path
    inputs: int
    pairs: int
    computed: int
    file_bytes: int
    seconds: float
    spec: StateSpec


def extract_states(
    recipe: Recipe,
    out: str | Path,
    *,
    splits: Sequence[str] = (),
    precision: StatePrecision | None = None,
    batch_size: int = 64,
    shard: Shard | None = None,
    report: ProgressReport = silent,
) -> StatesResult:
    """Extract the states that a run of a recipe reads of its backbone into one file.

    An interrupted extraction is resumed. A finished file is not changed.

    Args:
        recipe: Recipe of the run, without a file of states.
        out: File to write. For a shard, the name of the joined file; the shard is written next to
            it.
        splits: Splits of the recipe's tasks. Default: those for training, and those for validation
            of heads that do not generate, since generation runs the backbone anyway.
        precision: Type of the stored states. Default: that of the backbone's activations.
        batch_size: Maximum number of texts that the backbone reads at once.
        shard: Part of the texts to extract. Default: all.
        report: Progress callback.

    Raises:
        RecipeError: The method runs the backbone while it trains.
        InputError: The annotations are not usable, or have no answers for a head that generates.
        StoreError: `out` cannot be written, holds other states, or does not fit the disk.
        ModelError: The backbone cannot be loaded, or does not fit the settings.
        FeatureError: There are more shards than batches of texts.
    """
    started = time.monotonic()
    require_states_alone(recipe.method.name)
    require_heads(recipe)
    out = Path(out)
    path = out if shard is None else shard.path(out)
    check_output_file(path)
    extraction = _Extraction(recipe, splits, precision, batch_size, shard)
    spec, table = extraction.spec, extraction.table
    log.info(
        "%s prompts and %s pairs of a prompt and an answer: %s of states",
        f"{len(table.inputs):,}",
        f"{len(table.pairs):,}",
        format_bytes(expected_bytes(spec, table)),
    )
    computed = 0
    if path.exists():
        _require_same(path, spec, table)
        remove_leftovers(path)
    else:
        with StateWriter(
            path, spec, table, output=extraction.output, shard=extraction.shard
        ) as writer:
            computed = extraction.run(writer, report)
            writer.finish()
    return StatesResult(
        path=path,
        inputs=len(table.inputs),
        pairs=len(table.pairs),
        computed=computed,
        file_bytes=path.stat().st_size,
        seconds=time.monotonic() - started,
        spec=spec,
    )


def _require_same(path: Path, spec: StateSpec, table: StateTable) -> None:
    """Refuse to replace a finished file that holds other states.

    Raises:
        StoreError: It has other settings or other texts.
    """
    found = StateReader(path)
    differences = found.spec.differences(spec)
    if not differences and found.texts_sha256 != table.sha256:
        differences = ["the texts differ"]
    if differences:
        raise StoreError(
            f"{path} holds other states ({'; '.join(differences)}). Choose another --out, or "
            "remove the file."
        )


class _Extraction:
    """The backbone of a run, and all texts that it has to read; see `extract_states`."""

    def __init__(
        self,
        recipe: Recipe,
        splits: Sequence[str],
        precision: StatePrecision | None,
        batch_size: int,
        shard: Shard | None,
    ) -> None:
        self._recipe = recipe
        features = open_features(recipe.features) if recipe.features else None
        examples = {name: load_examples(recipe, name, features) for name in recipe.tasks}
        answers = {name: each.answers for name, each in examples.items()}
        spec = None if features is None else features.spec
        built = build_model(recipe, spec, answers, loads_backbone=True)
        built.quantize_backbone()
        self._device = choose_device(recipe.training.device)
        model = built.model.to(self._device).eval()
        assert isinstance(model, SideModel), "methods that read states alone attach one"
        self._backbone = model.backbone
        self._tokenizer = built.tokenizer
        self._features = features if model.backbone_reads_images else None
        self.spec = state_spec(
            recipe, built, precision, spec if model.backbone_reads_images else None
        )
        found: dict[TextInput, dict[tuple[int, ...], None]] = {}
        for name, each in examples.items():
            texts = backbone_texts(recipe, built, each.task, name)
            tables = [each.train] if texts.generates else [each.train, each.validation]
            if splits:
                tables = [self._load(each.task, split) for split in splits]
            for table in tables:
                texts.collect(table, found)
        if not found:
            raise InputError(
                f"no example of {', '.join(splits)} has an answer, which a head that generates "
                "learns from: expected a split with answers"
            )
        self._plan = TextPlan.of(found, batch_size)
        # Images add the same number of tokens to each text with as many images.
        one_of_each = {len(text.image_ids): text for text in found}
        image_tokens = {
            images: self._count_image_tokens(text) for images, text in one_of_each.items()
        }
        self.table = self._plan.table(image_tokens)
        self.shard = None
        if shard is not None:
            self.shard = ShardOfStates(
                number=shard.number, count=shard.count, whole_sha256=self.table.sha256
            )
            self._plan = self._plan.part(shard)
            self.table = self._plan.table(image_tokens)
        self.output = None
        if model.generates:
            backbone = model.backbone
            self.output = OutputLayer(
                weight_VW=backbone.vocabulary_weight, bias_V=backbone.vocabulary_bias
            )

    def run(self, writer: StateWriter, report: ProgressReport) -> int:
        """Compute and write all states that are not written yet.

        Returns:
            The number of encoder inputs that were computed.
        """
        training, device = self._recipe.training, self._device
        with (
            inference_autocast(self._backbone, training.precision, device),
            float32_products(tf32=training.tf32, device=device),
        ):
            return self._compute_all(writer, report)

    def _compute_all(self, writer: StateWriter, report: ProgressReport) -> int:
        input_row = pair_row = computed = 0
        for batch in self._plan.batches:
            next_input, next_pair = input_row + len(batch.inputs), pair_row + len(batch.pairs)
            is_done = (
                writer.inputs_done[input_row:next_input].all()
                and writer.pairs_done[pair_row:next_pair].all()
            )
            if not is_done:
                self._compute(writer, batch, input_row, pair_row)
                computed += len(batch.inputs)
            input_row, pair_row = next_input, next_pair
            report(input_row, len(self.table.inputs))
        return computed

    def _compute(
        self, writer: StateWriter, batch: InputBatch, first_input: int, first_pair: int
    ) -> None:
        """Compute and write the states of a batch, given the rows of its first texts."""
        kept = (self.spec.encoder, self.spec.decoder)
        texts = batch.inputs
        ids_UT = torch.tensor([text.ids for text in texts], device=self._device)
        taps = self._backbone.encode(ids_UT, kept[0].layers, self._images(texts))
        writer.write_inputs(
            first_input,
            _planes(taps.embedding_UTD, taps.blocks_KUTD, taps.final_UTD, kept[0]),
            lambda place: self._describe(texts[place]),
        )
        if kept[1] is None:
            return
        for place, pairs in batch.pair_batches(self._plan.size):
            rows_P = torch.tensor([row for row, _ in pairs], device=self._device)
            answers = self._backbone.decode(
                torch.tensor([ids for _, ids in pairs], device=self._device),
                kept[1].layers,
                encoder_states_PTD=taps.final_UTD[rows_P],
                encoder_mask_PT=taps.mask_UT[rows_P],
            )
            writer.write_pairs(
                first_pair + place,
                _planes(answers.embedding_PLD, answers.blocks_KPLD, answers.final_PLD, kept[1]),
                partial(self._describe_pair, texts, pairs),
            )

    def _load(self, task: Task, split: str) -> ExampleTable:
        examples = task.load(self._recipe.data.folder, split)
        if self._features is not None and task.images_per_example:
            require_images(self._features, split, examples)
        return examples

    def _images(self, texts: Sequence[TextInput]) -> Tensor | None:
        """Return the image tokens [U, I, M, D] that the encoder reads; `None` for text alone."""
        count = len(texts[0].image_ids)
        if not count:
            return None
        assert self._features is not None, "a backbone that reads images has their features"
        ids = [image_id for text in texts for image_id in text.image_ids]
        images: Tensor = torch.from_numpy(self._features.read(ids)).to(self._device)
        return images.view(len(texts), count, *images.shape[1:])

    def _count_image_tokens(self, text: TextInput) -> int:
        """Return the number of tokens that the encoder reads of a text's images."""
        if not text.image_ids:
            return 0
        ids_1T = torch.tensor([text.ids], device=self._device)
        _, mask_1T = self._backbone.encoder_input(ids_1T, self._images([text]))
        return mask_1T.shape[1] - len(text.ids)

    def _describe_pair(self, texts: Sequence[TextInput], pairs: Sequence[Pair], place: int) -> str:
        return f"an answer to {self._describe(texts[pairs[place][0]])}"

    def _describe(self, text: TextInput) -> str:
        return repr(self._tokenizer.decode(text.ids))


def _planes(
    embedding_NTD: Tensor, blocks_KNTD: Tensor, final_NTD: Tensor, kept: StackSpec
) -> list[Tensor]:
    """Return the kept states [S, T, D] of each text."""
    planes = [embedding_NTD[None], blocks_KNTD]
    if kept.has_final:
        planes.append(final_NTD[None])
    return list(torch.cat(planes).unbind(1))
