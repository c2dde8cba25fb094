"""The demo's backbone that reads images, and the pictures it is pretrained on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from feature_extraction.encoders.encoder import Encoder
from feature_extraction.encoders.projected import pool_with_positions
from feature_extraction.images.decode import decode_image
from feature_extraction.images.preprocess import prepare
from tools.pretrain_t5 import END, PAD, SpanBatch
from vl_lst.demo.captions import noun_phrase
from vl_lst.demo.rendering import render
from vl_lst.demo.scenes import Scene
from vl_lst.demo.splits import PICTURE_SIZE

__all__ = ["GRID_SIDE", "IMAGE_TOKENS", "MODEL_CONFIG", "ImageT5", "PictureFile"]

# B batch, I images of a sample, V image tokens, C channels, D model width, S source, G target
# N scenes or cells, X image tokens of a sample (I * V), or these and its text

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
RIDGE = 1e-3


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

    @torch.no_grad()
    def name_objects(
        self, scenes: Sequence[Scene], pictures: "PictureFile", tokenizer: Tokenizer
    ) -> None:
        """Start the projection as a ridge regression from cells to the names of their objects.

        The target of a cell is the sum of the embeddings of the words for colour, shape and size of
        the objects whose centres it holds. From there T5 learns in few steps to read the tokens.

        Args:
            scenes: The first scenes of `pictures`.
            pictures: The pictures.
            tokenizer: Tokenizer whose vocabulary has these words.
        """
        embedding = self.language_model.get_input_embeddings()
        device = embedding.weight.device
        cells_NVC = pictures.cells(np.arange(len(scenes)), device).double()
        named_NVD = torch.zeros(*cells_NVC.shape[:2], embedding.weight.shape[1], device=device)
        for row_VD, scene in zip(named_NVD, scenes, strict=True):
            for item in scene.objects:
                ids = tokenizer.encode(noun_phrase(item, size=True), add_special_tokens=False).ids
                cell = int(item.y * GRID_SIDE) * GRID_SIDE + int(item.x * GRID_SIDE)
                row_VD[cell] += embedding.weight[ids].sum(0)
        x_NC, y_ND = cells_NVC.flatten(0, 1), named_NVD.flatten(0, 1).double()
        x_mean_C, y_mean_D = x_NC.mean(0), y_ND.mean(0)
        x_NC, y_ND = x_NC - x_mean_C, y_ND - y_mean_D
        ridge_CC = RIDGE * len(x_NC) * torch.eye(x_NC.shape[1], device=device)
        weight_CD = torch.linalg.solve(x_NC.T @ x_NC + ridge_CC, x_NC.T @ y_ND)
        self.language_projection.weight.copy_(weight_CD.T)
        self.language_projection.bias.copy_(y_mean_D - x_mean_C @ weight_CD)
        # The regression does not tell cells apart.
        nn.init.normal_(self.language_projection.weight[:, -2 * GRID_SIDE :])

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
        [
            prepare(
                decode_image(render(scene, PICTURE_SIZE), spec.decoded_side),
                spec.image_size,
                spec.resize,
                spec.crops,
            )
            for scene in scenes
        ]
    )
    features = encoder.encode(torch.from_numpy(squares_B3SS), [str(s.seed) for s in scenes])
    grid_BCHW = torch.from_numpy(features).float().mT.unflatten(2, spec.grid)
    cells_BVC = pool_with_positions(grid_BCHW, GRID_SIDE).flatten(2).mT
    cells: npt.NDArray[np.float16] = cells_BVC.half().numpy()
    return cells
