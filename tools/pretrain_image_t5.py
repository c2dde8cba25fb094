"""Pretrain the demo's backbone that reads images: `python -m tools.pretrain_image_t5 --out DIR`.

It is of the BLIP-2 kind (arXiv 2301.12597): a T5 that reads `[image tokens; text]`. The image
tokens are cells of the demo's frozen CLIP, pooled and projected by one linear layer; T5 and
projection are trained together, from random weights. Of two images, the tokens of the left one
come first.

It learns to write captions and complete lists of a picture's shapes, and to fill hidden spans in
statements about one picture or two (`tools.image_texts`); a second stage hides above all the one
word of a statement that only the image tells. Some steps use the text-only lines of the
demo's T5, so that it remains a language model. The output folder has the names and the
configuration of `Blip2ForConditionalGeneration`, without vision model and query transformer.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn
from transformers import GenerationConfig

from eval.outputs import write_json
from feature_extraction.encoders.encoder import build_encoder
from feature_extraction.encoders.projected import CONFIG_NAME as IMAGE_ENCODER_CONFIG
from tools import image_texts
from tools._image_t5 import GRID_SIDE, IMAGE_TOKENS, ImageT5, PictureFile
from tools._image_t5_measures import cloze_accuracies, held_out_scores, list_scores
from tools._pretraining import (
    Options,
    finished_folder,
    ordered_batches,
    parse_options,
    train_on,
)
from tools.image_texts import Text
from tools.pretrain_t5 import END, IGNORED, PAD, SpanBatch, corrupt, load_tokenizer, padded
from tools.shapes_texts import line_about
from vl_lst.bundled import CLIP_FOLDER, T5_FOLDER
from vl_lst.demo.scenes import (
    BENCHMARK_COLOURS,
    BENCHMARK_SHAPES,
    Purpose,
    Scene,
    sample_scene,
    scene_seed,
)

# B batch, I images of a sample

__all__ = ["ImageBatch", "main", "make_batch", "save"]

SCENES = 32_768
HELD_OUT_SCENES = 1024
# Scenes that the projection's first values are fitted to.
NAMED_SCENES = 8192
PROBE_SCENES = 400
# First scene of those with hidden words, of the benchmark's shapes and colours.
FIRST_PROBE_SCENE = 2**20
OBJECT_COUNTS = (1, 1, 1, 2, 2, 3, 3, 4)
PROBE_OBJECT_COUNTS = (1, 2, 3)
# More than for text alone: a hidden word must often be one that only the image tells.
NOISE_DENSITY = 0.3
MAX_LINE_LENGTH = 40

# Per stage; the second has a quarter of the steps.
PEAK_LEARNING_RATES = (2e-3, 1e-3)
STAGE_SHARES = (1, 0.25)
HELD_OUT_BATCHES = 24
LISTED_SCENES = 512

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class StepKind:
    """Kind of text of a step. Texts of one kind have similar lengths, which saves padding.

    Args:
        images: Number of images of each sample.
        write: Returns a text about the scenes of these images.
    """

    images: int
    write: Callable[[Sequence[Scene], Random], Text]


FACTS = StepKind(1, image_texts.state_facts)
LISTS = StepKind(1, image_texts.list_objects)
PAIRS = StepKind(2, image_texts.compare_scenes)
HIDDEN_WORDS = StepKind(1, image_texts.hide_a_word)
FIRST_STAGE = (
    FACTS,
    LISTS,
    PAIRS,
    FACTS,
    StepKind(1, image_texts.write_caption),
    FACTS,
    LISTS,
    PAIRS,
    FACTS,
    StepKind(2, image_texts.list_side),
    StepKind(1, image_texts.describe_scene),
    StepKind(0, lambda scenes, rng: Text(line_about(text_seed(rng)))),
)
# Random spans seldom hide the one word that only the image tells.
SECOND_STAGE = (
    HIDDEN_WORDS,
    HIDDEN_WORDS,
    PAIRS,
    HIDDEN_WORDS,
    HIDDEN_WORDS,
    FACTS,
    HIDDEN_WORDS,
    HIDDEN_WORDS,
    LISTS,
    HIDDEN_WORDS,
    HIDDEN_WORDS,
    PAIRS,
)
# Kinds of consecutive steps, by stage.
STAGES = (FIRST_STAGE, SECOND_STAGE)


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Samples of one step.

    Args:
        pictures: Number of each image's scene [B, I]; every sample has I images.
        texts: Source and target token ids.
    """

    pictures: npt.NDArray[np.int64]
    texts: SpanBatch


def scene_of(purpose: Purpose, number: int, seed: int) -> Scene:
    """Return the `number`-th scene of a purpose."""
    return sample_scene(scene_seed(purpose, (seed << 32) + number), counts=OBJECT_COUNTS)


def text_seed(rng: Random) -> int:
    """Return a seed for a line of the demo's T5."""
    return scene_seed(Purpose.PRETRAIN_T5, int(rng.random() * 2**32))


def make_batch(
    index: int,
    *,
    stage: int,
    tokenizer_json: str,
    purpose: Purpose,
    scenes: int,
    batch_size: int,
    seed: int,
) -> ImageBatch:
    """Return the batch of a step.

    Args:
        index: Index of the step; it also decides the kind of text.
        stage: Index of the stage in `STAGES`.
        tokenizer_json: The serialised tokenizer.
        purpose: Seed range of the scenes.
        scenes: Number of scenes to sample from.
        batch_size: Number of samples.
        seed: Seed of the scenes, wordings and spans.
    """
    tokenizer = load_tokenizer(tokenizer_json)
    kind = STAGES[stage][index % len(STAGES[stage])]
    rng = Random(f"{seed} {purpose.name} {index}")
    pictures = np.empty((batch_size, kind.images), dtype=np.int64)
    pairs = []
    for row in pictures:
        row[:] = [int(rng.random() * scenes) for _ in range(kind.images)]
        text = kind.write([scene_of(purpose, int(number), seed) for number in row], rng)
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
        # Of the first stage.
        steps=5000,
        batch_size=64,
    )
    torch.set_float32_matmul_precision("high")
    encoder = build_encoder(CLIP_FOLDER, device=str(options.device))
    tokenizer = Tokenizer.from_file(str(T5_FOLDER / "tokenizer.json"))
    with TemporaryDirectory() as folder:
        scenes = _scenes(Purpose.PRETRAIN_IMAGE_T5, SCENES, options)
        training = PictureFile(Path(folder) / "training.npy", scenes, encoder)
        torch.manual_seed(options.seed)
        model = ImageT5(vocabulary_size=tokenizer.get_vocab_size(), channels=training.channels)
        nn.Module.to(model, options.device)
        model.name_objects(scenes[:NAMED_SCENES], training, tokenizer)
        for stage, (peak, share) in enumerate(zip(PEAK_LEARNING_RATES, STAGE_SHARES, strict=True)):
            train_stage(
                model,
                tokenizer,
                training,
                replace(options, steps=int(options.steps * share)),
                stage=stage,
                peak=peak,
            )
        model.eval()
        save(model, options.out)
        held_out = _scenes(Purpose.PRETRAIN_IMAGE_T5_HELD_OUT, HELD_OUT_SCENES, options)
        evaluate(
            model,
            tokenizer,
            held_out,
            PictureFile(Path(folder) / "held-out.npy", held_out, encoder),
            options,
        )
        probed = _probe_scenes()
        pictures = PictureFile(Path(folder) / "probe.npy", probed, encoder)
        accuracies = cloze_accuracies(model, tokenizer, probed, pictures, options.device)
        for name, by_kind in accuracies.items():
            text = ", ".join(f"{kind} {accuracy:.3f}" for kind, accuracy in by_kind.items())
            print(f"hidden words, {name}: {text}", flush=True)


def train_stage(
    model: ImageT5,
    tokenizer: Tokenizer,
    pictures: PictureFile,
    options: Options,
    *,
    stage: int,
    peak: float,
) -> None:
    """Train a model on the pictures and texts of a stage."""
    train_on(
        _batches(tokenizer, options, Purpose.PRETRAIN_IMAGE_T5, SCENES, options.steps, stage),
        model,
        lambda b: model(pictures.cells(b.pictures, options.device), b.texts)[0],
        peak=peak,
        options=options,
    )


def evaluate(
    model: ImageT5,
    tokenizer: Tokenizer,
    scenes: Sequence[Scene],
    pictures: PictureFile,
    options: Options,
) -> None:
    """Print how well a model fills spans in texts about held-out pictures, and lists shapes."""
    batches = _batches(
        tokenizer, options, Purpose.PRETRAIN_IMAGE_T5_HELD_OUT, len(scenes), HELD_OUT_BATCHES
    )
    seen = ((b.pictures, b.texts) for b in batches if b.pictures.shape[1])
    for name, (loss, accuracy) in held_out_scores(model, seen, pictures, options.device).items():
        print(f"held-out texts, {name}: loss {loss:.3f} per token, token accuracy {accuracy:.3f}")
    listed = scenes[:LISTED_SCENES]
    exact, found = list_scores(model, tokenizer, listed, pictures, options.device)
    print(f"held-out lists: {exact:.3f} exact, {found:.3f} of the objects listed", flush=True)


def _scenes(purpose: Purpose, count: int, options: Options) -> list[Scene]:
    return [scene_of(purpose, number, options.seed) for number in range(count)]


def _probe_scenes() -> list[Scene]:
    return [
        sample_scene(
            scene_seed(Purpose.PRETRAIN_IMAGE_T5_HELD_OUT, FIRST_PROBE_SCENE + number),
            counts=PROBE_OBJECT_COUNTS,
            shapes=BENCHMARK_SHAPES,
            colours=BENCHMARK_COLOURS,
        )
        for number in range(PROBE_SCENES)
    ]


def _batches(
    tokenizer: Tokenizer,
    options: Options,
    purpose: Purpose,
    scenes: int,
    count: int,
    stage: int = 0,
) -> Iterator[ImageBatch]:
    make = partial(
        make_batch,
        stage=stage,
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


def save(model: ImageT5, folder: Path) -> None:
    """Write a model, its tokenizer, and how its image tokens are made."""
    config = model.language_model.config
    # Named parameters: every tied tensor once.
    state = {
        name: parameter.detach().half().cpu().contiguous()
        for name, parameter in model.named_parameters()
    }
    with finished_folder(folder) as unfinished:
        save_file(state, unfinished / "model.safetensors", metadata={"format": "pt"})
        write_json(
            unfinished / "config.json",
            {
                "architectures": ["Blip2ForConditionalGeneration"],
                "dtype": "float32",
                "model_type": "blip-2",
                "num_query_tokens": IMAGE_TOKENS,
                "text_config": {**config.to_diff_dict(), "dtype": "float32"},
                "use_decoder_only_language_model": False,
            },
        )
        encoder = {"folder": CLIP_FOLDER.name, "side": GRID_SIDE}
        write_json(unfinished / IMAGE_ENCODER_CONFIG, encoder)
        GenerationConfig.from_model_config(config).save_pretrained(unfinished)
        for name in TOKENIZER_FILES:
            shutil.copyfile(T5_FOLDER / name, unfinished / name)


if __name__ == "__main__":
    main()
