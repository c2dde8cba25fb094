"""Pretrain the demo's backbone that reads images: `python -m tools.pretrain_image_t5 --out DIR`.

It is of the BLIP-2 kind (arXiv 2301.12597): a T5 that reads `[image tokens; text]`. The image
tokens are cells of the demo's frozen CLIP, pooled and projected by one linear layer; T5 and
projection are trained together, from random weights. Of two images, the tokens of the left one
come first.

Texts are captions, lists of all shapes, and lines with hidden spans (`tools.image_texts`); a tenth
of the steps use the text-only lines of the demo's T5, so that it remains a language model. The
folder written has the names and the configuration of `Blip2ForConditionalGeneration`, without
vision model and query transformer.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import GenerationConfig, T5Config, T5ForConditionalGeneration

from eval.outputs import write_json
from feature_extraction.encoders.encoder import Encoder, build_encoder
from feature_extraction.encoders.projected import pool_with_positions
from feature_extraction.images.preprocess import prepare
from tools._pretraining import Options, Schedule, ordered_batches, parse_options
from tools.image_texts import LIST_PROMPT, Text, list_of, text_about, text_about_pair
from tools.pretrain_t5 import (
    END,
    IGNORED,
    MAX_SOURCE_LENGTH,
    PAD,
    SpanBatch,
    corrupt,
    load_tokenizer,
    padded,
)
from tools.shapes_texts import line_about
from vl_lst.bundled import CLIP_FOLDER, T5_FOLDER
from vl_lst.demo.captions import noun_phrase
from vl_lst.demo.rendering import render
from vl_lst.demo.scenes import Purpose, Scene, sample_scene, scene_seed
from vl_lst.demo.splits import PICTURE_SIZE

# B batch, I images of a sample, V image tokens, C channels, D model width, S source, G target

__all__ = ["MODEL_CONFIG", "ImageBatch", "ImageT5", "PictureFile", "main", "make_batch"]

SCENES = 32_768
HELD_OUT_SCENES = 1024
OBJECT_COUNTS = (1, 1, 1, 2, 2, 3, 3, 4)
# Images of each sample, for consecutive steps.
IMAGES_PER_STEP = (1, 1, 2, 1, 1, 2, 1, 1, 1, 0)
# More than for text alone: a hidden word must often be one that only the image tells.
NOISE_DENSITY = 0.3
MAX_LINE_LENGTH = 40

GRID_SIDE = 4
IMAGE_TOKENS = GRID_SIDE**2

MODEL_CONFIG: dict[str, Any] = {
    "d_model": 128,
    "d_kv": 32,
    "num_heads": 4,
    "d_ff": 384,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "feed_forward_proj": "relu",
    "tie_word_embeddings": True,
    "dropout_rate": 0.0,
    "pad_token_id": PAD,
    "eos_token_id": END,
    "decoder_start_token_id": PAD,
}

PEAK_LEARNING_RATE = 2e-3
STEPS_PER_LOG_LINE = 100
PICTURES_PER_BATCH = 64
HELD_OUT_BATCHES = 20
LISTED_SCENES = 512

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Samples of one step.

    Args:
        pictures: Number of each image's scene [B, I]; every sample has I images.
        texts: Source and target token ids.
    """

    pictures: npt.NDArray[np.int64]
    texts: SpanBatch


class ImageT5(nn.Module):
    """A T5 that reads projected image cells before its text.

    Parameters have the names of `Blip2ForConditionalGeneration`.

    Args:
        vocabulary_size: Size of the tokenizer's vocabulary.
        channels: Channels of a cell.
    """

    def __init__(self, *, vocabulary_size: int, channels: int) -> None:
        super().__init__()
        config = T5Config(**MODEL_CONFIG, vocab_size=vocabulary_size)
        self.language_model = T5ForConditionalGeneration(config)
        self.language_projection = nn.Linear(channels, config.d_model)
        # Tokens as large as T5's embeddings, which have unit variance.
        nn.init.normal_(self.language_projection.weight, std=0.1)

    def inputs(self, cells_BIVC: Tensor, source_BS: Tensor) -> dict[str, Tensor]:
        """Return the encoder's input embeddings and attention mask.

        Args:
            cells_BIVC: Cells of the images; I may be 0.
            source_BS: Token ids.
        """
        tokens_BXD = self.language_projection(cells_BIVC.flatten(1, 2))
        text_BSD = self.language_model.get_input_embeddings()(source_BS)
        mask_BX = torch.ones(tokens_BXD.shape[:2], dtype=torch.long, device=source_BS.device)
        return {
            "inputs_embeds": torch.cat((tokens_BXD, text_BSD), dim=1),
            "attention_mask": torch.cat((mask_BX, (source_BS != PAD).long()), dim=1),
        }


class PictureFile:
    """The image encoder's pooled cells of a purpose's first scenes, in a memory-mapped file.

    Args:
        path: File to write.
        purpose: Seed range of the scenes.
        count: Number of scenes.
        seed: Seed of the scenes.
        encoder: Image encoder with a grid.
    """

    def __init__(
        self, path: Path, *, purpose: Purpose, count: int, seed: int, encoder: Encoder
    ) -> None:
        channels = encoder.spec.channels + 2 * GRID_SIDE
        self._cells = np.lib.format.open_memmap(
            path, "w+", np.float16, (count, IMAGE_TOKENS, channels)
        )
        for first in range(0, count, PICTURES_PER_BATCH):
            numbers = range(first, min(first + PICTURES_PER_BATCH, count))
            self._cells[first : numbers.stop] = _encode(
                [scene_of(purpose, number, seed) for number in numbers], encoder
            )

    def cells(self, pictures: npt.NDArray[np.int64], device: torch.device) -> Tensor:
        """Return the cells of pictures [B, I] as float32 [B, I, V, C]."""
        return torch.from_numpy(self._cells[pictures]).to(device).float()


def scene_of(purpose: Purpose, number: int, seed: int) -> Scene:
    """Return the `number`-th scene of a purpose."""
    return sample_scene(scene_seed(purpose, (seed << 32) + number), counts=OBJECT_COUNTS)


def make_batch(
    index: int, *, tokenizer_json: str, purpose: Purpose, scenes: int, batch_size: int, seed: int
) -> ImageBatch:
    """Return the batch of a step.

    Args:
        index: Index of the step; it also decides the number of images of each sample.
        tokenizer_json: The serialised tokenizer.
        purpose: Seed range of the scenes.
        scenes: Number of scenes to sample from.
        batch_size: Number of samples.
        seed: Seed of the scenes, wordings and spans.
    """
    tokenizer = load_tokenizer(tokenizer_json)
    images = IMAGES_PER_STEP[index % len(IMAGES_PER_STEP)]
    rng = Random(f"{seed} {purpose.name} {index}")
    pictures = np.empty((batch_size, images), dtype=np.int64)
    pairs = []
    for row in pictures:
        row[:] = [int(rng.random() * scenes) for _ in range(images)]
        shown = [scene_of(purpose, int(number), seed) for number in row]
        if images == 0:
            unseen = scenes + int(rng.random() * (2**32 - scenes))
            text = Text(line_about(scene_seed(purpose, (seed << 32) + unseen)))
        else:
            text = text_about(*shown, rng) if images == 1 else text_about_pair(*shown, rng)
        pairs.append(_token_ids(text, tokenizer, rng))
    return ImageBatch(
        pictures,
        SpanBatch(
            padded([source for source, _ in pairs], PAD),
            padded([target for _, target in pairs], IGNORED),
        ),
    )


def main() -> None:
    """Train, evaluate and save the model."""
    options = parse_options(
        "Pretrain the demo's backbone that reads images on the shapes world.",
        steps=7000,
        batch_size=64,
    )
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    encoder = build_encoder(CLIP_FOLDER, device=str(options.device))
    with TemporaryDirectory() as folder:
        train, held_out = (
            PictureFile(
                Path(folder) / purpose.name,
                purpose=purpose,
                count=count,
                seed=options.seed,
                encoder=encoder,
            )
            for purpose, count in (
                (Purpose.PRETRAIN_IMAGE_T5, SCENES),
                (Purpose.PRETRAIN_IMAGE_T5_HELD_OUT, HELD_OUT_SCENES),
            )
        )
        pretrain(options, train, held_out)


def pretrain(options: Options, train: PictureFile, held_out: PictureFile) -> None:
    """Train on pictures, evaluate on others and save the model."""
    tokenizer = Tokenizer.from_file(str(T5_FOLDER / "tokenizer.json"))
    channels = train.cells(np.zeros((1, 1), dtype=np.int64), options.device).shape[-1]
    model = ImageT5(vocabulary_size=tokenizer.get_vocab_size(), channels=channels)
    nn.Module.to(model, options.device)
    _train(model, tokenizer, train, options)
    model.eval()
    _save(model, options.out)
    for images, (loss, accuracy) in _held_out(model, tokenizer, held_out, options).items():
        print(f"held-out texts, {images}: loss {loss:.3f} per token, token accuracy {accuracy:.3f}")
    exact, found = _listed(model, tokenizer, held_out, options)
    print(f"held-out lists of shapes: {exact:.3f} exact, {found:.3f} of the objects found")


def _train(model: ImageT5, tokenizer: Tokenizer, pictures: PictureFile, options: Options) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    schedule = Schedule(peak=PEAK_LEARNING_RATE, steps=options.steps, minutes=options.minutes)
    model.train()
    batches = _batches(tokenizer, options, Purpose.PRETRAIN_IMAGE_T5, SCENES, options.steps)
    for step, batch in enumerate(batches):
        learning_rate = schedule.learning_rate(step)
        if learning_rate is None:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        cells_BIVC = pictures.cells(batch.pictures, options.device)
        loss = _forward(model, cells_BIVC, batch.texts)[0]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % STEPS_PER_LOG_LINE == 0:
            print(f"step {step}: loss {loss.item():.3f}, lr {learning_rate:.2e}", flush=True)


def _forward(model: ImageT5, cells_BIVC: Tensor, texts: SpanBatch) -> tuple[Tensor, Tensor, Tensor]:
    source_BS = torch.from_numpy(texts.source).to(cells_BIVC.device)
    target_BG = torch.from_numpy(texts.target).to(cells_BIVC.device)
    device = cells_BIVC.device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
        output = model.language_model(**model.inputs(cells_BIVC, source_BS), labels=target_BG)
    return output.loss, output.logits, target_BG


@torch.no_grad()
def _held_out(
    model: ImageT5, tokenizer: Tokenizer, pictures: PictureFile, options: Options
) -> dict[str, tuple[float, float]]:
    """Return loss and token accuracy with the right images, with zeros, and with other images."""
    changes = {
        "own images": lambda cells_BIVC: cells_BIVC,
        "blank images": torch.zeros_like,
        "other images": lambda cells_BIVC: cells_BIVC.roll(1, 0),
    }
    results = {}
    for name, change in changes.items():
        total, hits, tokens = 0.0, 0, 0
        batches = _batches(
            tokenizer,
            options,
            Purpose.PRETRAIN_IMAGE_T5_HELD_OUT,
            HELD_OUT_SCENES,
            HELD_OUT_BATCHES,
        )
        for batch in batches:
            if batch.pictures.shape[1] == 0:
                continue
            cells_BIVC = change(pictures.cells(batch.pictures, options.device))
            loss, logits, target_BG = _forward(model, cells_BIVC, batch.texts)
            counted = int((target_BG != IGNORED).sum())
            total += float(loss) * counted
            hits += int((logits.argmax(-1) == target_BG).sum())
            tokens += counted
        results[name] = total / tokens, hits / tokens
    return results


@torch.no_grad()
def _listed(
    model: ImageT5, tokenizer: Tokenizer, pictures: PictureFile, options: Options
) -> tuple[float, float]:
    """Return the share of exact lists of shapes, and of named pairs of colour and shape."""
    prompt_1S = torch.tensor([tokenizer.encode(LIST_PROMPT).ids], device=options.device)
    exact, found, objects = 0, 0, 0
    for first in range(0, LISTED_SCENES, PICTURES_PER_BATCH):
        numbers = np.arange(first, first + PICTURES_PER_BATCH)[:, None]
        inputs = model.inputs(
            pictures.cells(numbers, options.device), prompt_1S.expand(len(numbers), -1)
        )
        ids_BG = model.language_model.generate(**inputs, max_new_tokens=MAX_SOURCE_LENGTH)
        written = tokenizer.decode_batch(ids_BG.tolist())
        for text, number in zip(written, numbers.flat, strict=True):
            scene = scene_of(Purpose.PRETRAIN_IMAGE_T5_HELD_OUT, int(number), options.seed)
            exact += text == list_of(scene)
            pairs = {noun_phrase(item) for item in scene.objects}
            found += sum(pair in text for pair in pairs)
            objects += len(pairs)
    return exact / LISTED_SCENES, found / objects


def _batches(
    tokenizer: Tokenizer, options: Options, purpose: Purpose, scenes: int, count: int
) -> Iterator[ImageBatch]:
    make = partial(
        make_batch,
        tokenizer_json=tokenizer.to_str(),
        purpose=purpose,
        scenes=scenes,
        batch_size=options.batch_size,
        seed=options.seed,
    )
    return ordered_batches(make, count=count, workers=options.workers)


def _token_ids(text: Text, tokenizer: Tokenizer, rng: Random) -> tuple[list[int], list[int]]:
    """Return source and target ids, both with end-of-sequence."""
    ids = tokenizer.encode(text.source, add_special_tokens=False).ids[:MAX_LINE_LENGTH]
    if text.target is None:
        first_sentinel = tokenizer.get_vocab_size() - 1
        return corrupt(ids, rng, first_sentinel=first_sentinel, noise_density=NOISE_DENSITY)
    return [*ids, END], tokenizer.encode(text.target).ids


def _encode(scenes: Sequence[Scene], encoder: Encoder) -> npt.NDArray[np.float16]:
    """Return the pooled cells of scenes, [scenes, V, C]."""
    spec = encoder.spec
    squares_B3SS = np.concatenate(
        [prepare(render(s, PICTURE_SIZE), spec.image_size, spec.resize, 1) for s in scenes]
    )
    features = encoder.encode(torch.from_numpy(squares_B3SS), [str(s.seed) for s in scenes])
    grid_BCHW = torch.from_numpy(features).float().mT.unflatten(2, spec.grid)
    cells_BVC = pool_with_positions(grid_BCHW, GRID_SIDE).flatten(2).mT
    cells: npt.NDArray[np.float16] = cells_BVC.half().numpy()
    return cells


def _save(model: ImageT5, folder: Path) -> None:
    """Write to a temporary folder, then rename it."""
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    config = model.language_model.config
    # Named parameters: every tied tensor once.
    state = {
        name: parameter.detach().half().cpu().contiguous()
        for name, parameter in model.named_parameters()
    }
    save_file(state, unfinished / "model.safetensors", metadata={"format": "pt"})
    write_json(
        unfinished / "config.json",
        {
            "architectures": ["Blip2ForConditionalGeneration"],
            "dtype": "float32",
            "model_type": "blip-2",
            "num_query_tokens": IMAGE_TOKENS,
            "text_config": {**config.to_dict(), "dtype": "float32"},
            "use_decoder_only_language_model": False,
        },
    )
    GenerationConfig.from_model_config(config).save_pretrained(unfinished)
    for name in TOKENIZER_FILES:
        shutil.copyfile(T5_FOLDER / name, unfinished / name)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.replace(folder)


if __name__ == "__main__":
    main()
