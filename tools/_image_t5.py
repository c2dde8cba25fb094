"""The demo's backbone that reads images, and the pictures it is pretrained on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from feature_extraction.encoders.encoder import Encoder
from feature_extraction.encoders.projected import pool_with_positions
from feature_extraction.images.preprocess import prepare
from tools.pretrain_t5 import END, PAD, SpanBatch
from vl_lst.demo.rendering import render
from vl_lst.demo.scenes import Scene
from vl_lst.demo.splits import PICTURE_SIZE

__all__ = ["GRID_SIDE", "IMAGE_TOKENS", "MODEL_CONFIG", "ImageT5", "PictureFile"]

# B batch, I images of a sample, V image tokens, C channels, D model width, S source, G target
# X image tokens of a sample (I * V), or these and its text

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

PICTURES_PER_BATCH = 64


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

    def forward(self, cells_BIVC: Tensor, texts: SpanBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, the logits [B, G, vocabulary] and the targets [B, G] of a batch."""
        source_BS = torch.from_numpy(texts.source).to(cells_BIVC.device)
        target_BG = torch.from_numpy(texts.target).to(cells_BIVC.device)
        device = cells_BIVC.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            output = self.language_model(**self.inputs(cells_BIVC, source_BS), labels=target_BG)
        return output.loss, output.logits, target_BG


class PictureFile:
    """The image encoder's pooled cells of scenes, in a memory-mapped file.

    Args:
        path: File to write.
        scenes: The scenes.
        encoder: Image encoder with a grid.

    Attributes:
        channels: Channels of a cell.
    """

    def __init__(self, path: Path, scenes: Sequence[Scene], encoder: Encoder) -> None:
        self.channels = encoder.spec.channels + 2 * GRID_SIDE
        self._cells = np.lib.format.open_memmap(
            path, "w+", np.float16, (len(scenes), IMAGE_TOKENS, self.channels)
        )
        for first in range(0, len(scenes), PICTURES_PER_BATCH):
            part = scenes[first : first + PICTURES_PER_BATCH]
            self._cells[first : first + len(part)] = _encode(part, encoder)

    def cells(self, pictures: npt.NDArray[np.int64], device: torch.device) -> Tensor:
        """Return the cells of numbered pictures [B, I] as float32 [B, I, V, C]."""
        return torch.from_numpy(self._cells[pictures]).to(device).float()


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
