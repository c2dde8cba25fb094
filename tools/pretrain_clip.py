"""Pretrain the demo's CLIP on the shapes world: `python -m tools.pretrain_clip --out DIR`.

Model and contrastive loss are open_clip's own; the image tower is its `ModifiedResNet`, the
architecture of RN50 and RN101 with fewer and narrower layers, so its last layer also has a 7 x 7
grid at 224 pixels. The output folder loads with `open_clip.create_model("local-dir:DIR")`.

The loss is the sum of two: pictures against captions (CLIP, arXiv 2103.00020), and the grid cell at
an object's centre against phrases such as "small red circle", as RegionCLIP (arXiv 2112.09106) does
with regions. The second makes single cells meaningful after an hour on two cores. Cells are
projected through the attention pool's value and output projections (MaskCLIP, arXiv 2112.01071).
Most steps use small pictures, which cost a third. The text tower reads `caption_ids`, a vocabulary
of the words of the shapes world: an embedding of the stock 49,408 tokens would dwarf the model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from PIL import Image, ImageFilter
from safetensors.torch import save_file
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from eval.outputs import atomic_path, write_json
from tools._pretraining import Options, Schedule, ordered_batches, parse_options
from tools._probe import probe_accuracies
from vl_lst.demo.captions import CAPTION_WORDS, caption
from vl_lst.demo.rendering import render
from vl_lst.demo.scenes import (
    COLOURS,
    SHAPES,
    SIZES,
    Purpose,
    SceneObject,
    sample_scene,
    scene_seed,
)

__all__ = ["MODEL_CONFIG", "ClipBatch", "caption_ids", "main", "make_batch"]

# B images, L caption length, N objects, P phrases, G grid cells and their mean, W width

CONTEXT_LENGTH = 40
VOCABULARY_SIZE = 128
END = VOCABULARY_SIZE - 1  # the highest id: where open_clip's "argmax" pooling reads

MODEL_CONFIG: dict[str, Any] = {
    "embed_dim": 192,
    "vision_cfg": {
        "image_size": 224,
        "layers": [1, 1, 2, 1],
        "width": 16,
        "head_width": 64,
        "patch_size": None,
    },
    "text_cfg": {
        "context_length": CONTEXT_LENGTH,
        "vocab_size": VOCABULARY_SIZE,
        "width": 64,
        "heads": 2,
        "layers": 1,
    },
}

FULL_SIDE: int = MODEL_CONFIG["vision_cfg"]["image_size"]

PREPROCESSING: dict[str, Any] = {
    "size": 224,
    "mode": "RGB",
    "mean": list(open_clip.OPENAI_DATASET_MEAN),
    "std": list(open_clip.OPENAI_DATASET_STD),
    "interpolation": "bicubic",
    "resize_mode": "squash",
    "fill_color": 0,
}

# Picture sizes in pixels; a batch holds equally many of each. Small pictures, upscaled to 224, are
# common in real data.
PICTURE_SIZES = (64, 64, 64, 96, 112, 128, 160, 224)
OBJECT_COUNTS = (1, 1, 1, 2, 2, 3, 3, 4, 5, 6)
SMALL_SIDE = 128  # pixels, for a 4 x 4 grid
SMALL_STEP_PROBABILITY = 0.75
BLUR_PROBABILITY = 0.15
JPEG_PROBABILITY = 0.5

PEAK_LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.1
MAX_LOGIT_SCALE = 100.0
STEPS_PER_LOG_LINE = 10
HELD_OUT_BATCHES = 4

PHRASES = tuple(f"{s} {c} {shape}" for s in SIZES for c in COLOURS for shape in SHAPES)
WORD_IDS = {word: number for number, word in enumerate(CAPTION_WORDS, start=1)}


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """Pictures and captions of one training step.

    Args:
        pictures: One uint8 array [images, side, side, 3] per entry of `PICTURE_SIZES`.
        captions: Token ids [images, length] of the same pictures, in order.
        objects: One row (picture, phrase) per object.
        centres: Centre (x, y) of each object, as fractions of the picture.
    """

    pictures: tuple[npt.NDArray[np.uint8], ...]
    captions: npt.NDArray[np.int64]
    objects: npt.NDArray[np.int64]
    centres: npt.NDArray[np.float32]


def caption_ids(text: str) -> list[int]:
    """Return the token ids of a caption, padded with 0 to the context length."""
    ids = [WORD_IDS[word] for word in text.replace(",", "").split()][: CONTEXT_LENGTH - 1]
    return [*ids, END, *[0] * (CONTEXT_LENGTH - 1 - len(ids))]


def make_batch(index: int, *, purpose: Purpose, batch_size: int, seed: int) -> ClipBatch:
    """Return the batch of a step.

    Args:
        index: Index of the step; every step has different scenes.
        purpose: Seed range of the scenes.
        batch_size: Batch size, a multiple of `len(PICTURE_SIZES)`.
        seed: Seed of the scenes and wordings.
    """
    share = batch_size // len(PICTURE_SIZES)
    first = (seed << 32) + index * batch_size
    pictures: list[npt.NDArray[np.uint8]] = []
    captions: list[list[int]] = []
    objects: list[tuple[int, int]] = []
    centres: list[tuple[float, float]] = []
    for group, size in enumerate(PICTURE_SIZES):
        images = []
        for number in range(first + group * share, first + (group + 1) * share):
            scene = sample_scene(scene_seed(purpose, number), counts=OBJECT_COUNTS)
            rng = Random(f"{seed} {scene.seed}")
            images.append(np.asarray(_augment(render(scene, size), rng)))
            objects.extend((len(captions), _phrase(o)) for o in scene.objects)
            centres.extend((o.x, o.y) for o in scene.objects)
            captions.append(caption_ids(caption(scene, rng)))
        pictures.append(np.stack(images))
    return ClipBatch(
        tuple(pictures),
        np.asarray(captions),
        np.asarray(objects),
        np.asarray(centres, dtype=np.float32),
    )


def _phrase(thing: SceneObject) -> int:
    return PHRASES.index(f"{thing.size} {thing.colour} {thing.shape}")


def main() -> None:
    """Train, evaluate and save the model."""
    options = parse_options(
        "Pretrain the demo's CLIP on the shapes world.", steps=800, batch_size=128
    )
    if options.batch_size % len(PICTURE_SIZES):
        raise SystemExit(f"--batch-size must be a multiple of {len(PICTURE_SIZES)}")
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    model = open_clip.CLIP(**MODEL_CONFIG, output_dict=True).to(options.device)
    model.to(memory_format=torch.channels_last)
    _train(model, options)
    model.eval()
    _save(model, options)
    top_1 = _held_out_top_1(model, options)
    print(f"held-out contrastive top-1 (image to text, {options.batch_size} apart): {top_1:.3f}")
    for name, accuracy in probe_accuracies(model.visual, _normalised, options.device).items():
        print(f"linear probe, {name}: {accuracy:.3f}", flush=True)


def _train(model: open_clip.CLIP, options: Options) -> None:
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0}],
        betas=(0.9, 0.98),
    )
    schedule = Schedule(peak=PEAK_LEARNING_RATE, steps=options.steps, minutes=options.minutes)
    loss_of = open_clip.ClipLoss()
    phrases_PL = torch.tensor([caption_ids(phrase) for phrase in PHRASES], device=options.device)
    model.train()
    for step, batch in enumerate(_batches(options, Purpose.PRETRAIN_CLIP, options.steps)):
        learning_rate = schedule.learning_rate(step)
        if learning_rate is None:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        side = SMALL_SIDE if step < SMALL_STEP_PROBABILITY * options.steps else FULL_SIDE
        images, captions_BL = _on_device(batch, options.device, side)
        picture_N, phrase_N = torch.from_numpy(batch.objects).to(options.device).unbind(1)
        centres_N2 = torch.from_numpy(batch.centres).to(options.device)
        with torch.autocast(options.device.type, dtype=torch.bfloat16):
            grid_BWhw, image_features = _encode(model.visual, images)
            column_N, row_N = (centres_N2 * grid_BWhw.shape[-1]).long().unbind(1)
            pool = model.visual.attnpool
            cell_features = pool.c_proj(pool.v_proj(grid_BWhw[picture_N, :, row_N, column_N]))
            texts = model.encode_text(torch.cat((captions_BL, phrases_PL)), normalize=True)
        caption_features, phrase_features = texts.float().split((len(images), len(PHRASES)))
        scale = model.logit_scale.exp()
        cell_features = functional.normalize(cell_features.float(), dim=-1)
        loss = loss_of(
            functional.normalize(image_features.float(), dim=-1), caption_features, scale
        ) + functional.cross_entropy(scale * cell_features @ phrase_features.T, phrase_N)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, float(np.log(MAX_LOGIT_SCALE)))
        if step % STEPS_PER_LOG_LINE == 0:
            print(f"step {step}: loss {loss.item():.3f}, lr {learning_rate:.2e}", flush=True)


def _encode(visual: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the last layer's grid [B, W, rows, columns], and the attention pool's output."""
    grid = visual.stem(images)
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        grid = layer(grid)
    positions = _positions_of(visual.attnpool.positional_embedding, grid.shape[-1])
    pooled: Tensor = functional_call(visual.attnpool, {"positional_embedding": positions}, grid)
    return grid, pooled


def _positions_of(positions_GW: Tensor, side: int) -> Tensor:
    """Resize position embeddings to another grid; the first, of the mean token, is kept."""
    own_side = round((len(positions_GW) - 1) ** 0.5)
    if side == own_side:
        return positions_GW
    grid = positions_GW[1:].T.unflatten(1, (own_side, own_side))[None]
    resized = functional.interpolate(grid, (side, side), mode="bicubic", align_corners=False)
    return torch.cat((positions_GW[:1], resized[0].flatten(1).T))


def _batches(options: Options, purpose: Purpose, count: int) -> Iterator[ClipBatch]:
    make = partial(make_batch, purpose=purpose, batch_size=options.batch_size, seed=options.seed)
    return ordered_batches(make, count=count, workers=options.workers)


def _augment(image: Image.Image, rng: Random) -> Image.Image:
    """Blur some pictures and JPEG-compress some."""
    if rng.random() < BLUR_PROBABILITY:
        image = image.filter(ImageFilter.GaussianBlur(image.width / 128 * (0.3 + rng.random())))
    if rng.random() < JPEG_PROBABILITY:
        file = BytesIO()
        image.save(file, "JPEG", quality=int(50 + 45 * rng.random()))
        image = Image.open(file)
    return image


def _on_device(batch: ClipBatch, device: torch.device, side: int) -> tuple[Tensor, Tensor]:
    images = [_normalised(torch.from_numpy(pictures), device, side) for pictures in batch.pictures]
    captions_BL = torch.from_numpy(batch.captions).to(device, non_blocking=True)
    return torch.cat(images), captions_BL


def _normalised(pictures: Tensor, device: torch.device, side: int = FULL_SIDE) -> Tensor:
    """Convert uint8 pictures [images, side, side, 3] to the tower's input, as Pillow would."""
    images = pictures.to(device, non_blocking=True).permute(0, 3, 1, 2).float()
    if images.shape[-1] != side:
        images = functional.interpolate(images, (side, side), mode="bicubic", antialias=True)
    images = images.round().clamp(0, 255) / 255
    mean, std = (images.new_tensor(PREPROCESSING[key])[:, None, None] for key in ("mean", "std"))
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def _held_out_top_1(model: open_clip.CLIP, options: Options) -> float:
    hits, total = 0, 0
    for batch in _batches(options, Purpose.PRETRAIN_CLIP_HELD_OUT, HELD_OUT_BATCHES):
        images, captions_BL = _on_device(batch, options.device, FULL_SIDE)
        image_features = model.encode_image(images, normalize=True)
        similarity = image_features @ model.encode_text(captions_BL, normalize=True).T
        own = torch.arange(len(images), device=options.device)
        hits += int((similarity.argmax(1) == own).sum())
        total += len(images)
    return hits / total


def _save(model: open_clip.CLIP, options: Options) -> None:
    # Running statistics of batch norm stay in float32: half precision would lose small variances.
    parameters = {name for name, _ in model.named_parameters()}
    state = {
        name: (value.half() if name in parameters else value).cpu().contiguous()
        for name, value in model.state_dict().items()
    }
    with atomic_path(options.out / "open_clip_model.safetensors") as temporary:
        save_file(state, temporary)
    write_json(
        options.out / "open_clip_config.json",
        {"model_cfg": MODEL_CONFIG, "preprocess_cfg": PREPROCESSING},
    )


if __name__ == "__main__":
    main()
