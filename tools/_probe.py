"""Linear probes on the grid of the image encoder's last layer."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vl_lst.demo.rendering import render
from vl_lst.demo.scenes import COLOURS, SHAPES, Purpose, Scene, sample_scene, scene_seed

__all__ = ["probe_accuracies"]

# N objects, D channels

# First held-out scene of the probes; those before it serve the contrastive evaluation.
FIRST_SCENE = 2**20
TRAIN_SCENES, TEST_SCENES = 2400, 800
PICTURES_PER_BATCH = 200
FITTING_STEPS = 300

Prepare = Callable[[Tensor, torch.device], Tensor]


def probe_accuracies(tower: Any, prepare: Prepare, device: torch.device) -> dict[str, float]:
    """Fit linear classifiers of shape and colour on held-out scenes; return test accuracies.

    Probes read two features: the maximum over all cells, for 64-pixel pictures of one object, and
    the cell that holds an object's centre, for 128-pixel pictures of several objects.

    Args:
        tower: open_clip image tower with `forward_intermediates`.
        prepare: Converts uint8 pictures [images, side, side, 3] to the tower's input.
        device: Device to compute on.
    """
    accuracies = {}
    for name, counts, size in (("one object, 64 px", (1,), 64), ("own cell, 128 px", (3, 4), 128)):
        scenes = [
            sample_scene(scene_seed(Purpose.PRETRAIN_CLIP_HELD_OUT, FIRST_SCENE + n), counts=counts)
            for n in range(TRAIN_SCENES + TEST_SCENES)
        ]
        read = _maximum if counts == (1,) else _own_cells
        train_ND = _features(scenes[:TRAIN_SCENES], size, tower, prepare, device, read)
        test_ND = _features(scenes[TRAIN_SCENES:], size, tower, prepare, device, read)
        for attribute, values in (("shape", SHAPES), ("colour", tuple(COLOURS))):
            train_N, test_N = (
                torch.tensor(
                    [values.index(getattr(o, attribute)) for scene in part for o in scene.objects],
                    device=device,
                )
                for part in (scenes[:TRAIN_SCENES], scenes[TRAIN_SCENES:])
            )
            accuracies[f"{attribute}, {name}"] = _fit(
                train_ND, train_N, test_ND, test_N, classes=len(values)
            )
    return accuracies


def _maximum(grid: Tensor, scene: Scene) -> Tensor:
    return grid.amax((1, 2))[None]


def _own_cells(grid: Tensor, scene: Scene) -> Tensor:
    rows, columns = grid.shape[1:]
    return torch.stack([grid[:, int(o.y * rows), int(o.x * columns)] for o in scene.objects])


@torch.no_grad()
def _features(
    scenes: Sequence[Scene],
    size: int,
    tower: Any,
    prepare: Prepare,
    device: torch.device,
    read: Callable[[Tensor, Scene], Tensor],
) -> Tensor:
    rows = []
    for first in range(0, len(scenes), PICTURES_PER_BATCH):
        part = scenes[first : first + PICTURES_PER_BATCH]
        pictures = np.stack([np.asarray(render(scene, size)) for scene in part])
        images = prepare(torch.from_numpy(pictures), device)
        output = tower.forward_intermediates(images, indices=1, intermediates_only=True)
        grids = output["image_intermediates"][0].float()
        rows += [read(grid, scene) for grid, scene in zip(grids, part, strict=True)]
    return torch.cat(rows)


def _fit(
    train_ND: Tensor, train_N: Tensor, test_ND: Tensor, test_N: Tensor, *, classes: int
) -> float:
    mean, std = train_ND.mean(0), train_ND.std(0) + 1e-3
    layer = torch.nn.Linear(train_ND.shape[1], classes).to(train_ND.device)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2, weight_decay=1e-2)
    for _ in range(FITTING_STEPS):
        optimizer.zero_grad()
        functional.cross_entropy(layer((train_ND - mean) / std), train_N).backward()
        optimizer.step()
    hits = layer((test_ND - mean) / std).argmax(1) == test_N
    return float(hits.float().mean())
