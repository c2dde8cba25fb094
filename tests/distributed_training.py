"""Train in one of several processes and save the gradients of each step."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_mixture import score_captions_without_java

from vl_lst.recipes import load_recipe
from vl_lst.training.session import train
from vl_lst.training.trainer import Trainer


def main(recipe: Path, out: Path, gradients: Path) -> None:
    """Train to the end; save gradients to a safetensors file under `STEP NAME`."""
    torch.set_num_threads(1)
    gradients_by_step: dict[str, torch.Tensor] = {}
    take_step = Trainer._train_step

    def step(self: Trainer, batch: Any) -> None:
        optimizer = self._optimizer

        def keep(*_: object) -> None:
            for name, parameter in self._built.trainable.items():
                if parameter.grad is not None:
                    gradients_by_step[f"{self.counters.step} {name}"] = parameter.grad.clone()

        hook = optimizer.register_step_pre_hook(keep)
        take_step(self, batch)
        hook.remove()

    with pytest.MonkeyPatch.context() as patch:
        score_captions_without_java(patch)
        patch.setattr(Trainer, "_train_step", step)
        train(load_recipe(recipe), out)
    save_file(gradients_by_step, gradients)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
