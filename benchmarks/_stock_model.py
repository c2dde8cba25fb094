"""Training of the stock Hugging Face model, against which this package is measured."""

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.models.batch import Batch
from vl_lst.models.config import VisualConfig
from vl_lst.models.visual import VisualEmbedding

if TYPE_CHECKING:
    from transformers import T5ForConditionalGeneration

__all__ = ["Stock", "StockFineTuning"]

Stock = Literal["full", "lora"]
DROPOUT = 0.1
# As in the recipe `lora`.
LORA_RANK, LORA_ALPHA, LORA_LAYERS = 150, 32, ["q", "v"]


class StockFineTuning(nn.Module):
    """The stock model, with image tokens after the text in its encoder.

    Args:
        backbone: Backbone whose model trains; nothing else uses it.
        visual: Settings of the visual embedding.
        train: What trains: all weights, or low-rank updates of the package `peft`.
        checkpointing: Whether the model recomputes its blocks in the backward pass.
    """

    def __init__(
        self,
        backbone: FrozenBackbone,
        visual: VisualConfig,
        *,
        train: Stock = "full",
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        backbone.set_dropout(DROPOUT)
        stock: T5ForConditionalGeneration = backbone.model.requires_grad_(True)
        config = stock.config
        if checkpointing:
            enable = getattr(
                stock, "activation_checkpointing_enable", stock.gradient_checkpointing_enable
            )
            enable()
        self.t5: Any = _with_low_rank_updates(stock) if train == "lora" else stock
        self.visual = VisualEmbedding(
            visual, width=config.d_model, epsilon=config.layer_norm_epsilon
        )

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters by name."""
        return {name: each for name, each in self.named_parameters() if each.requires_grad}

    def forward(self, batch: Batch, _loss_average: str) -> Tensor:
        """Return the mean cross-entropy of the answers."""
        text = self.t5.get_input_embeddings()(batch.prompt_ids_UT)
        inputs = torch.cat((text, self.visual(batch.features_BINF).to(text.dtype)), 1)
        loss: Tensor = self.t5(inputs_embeds=inputs, labels=batch.labels_BL, use_cache=False).loss
        return loss


def _with_low_rank_updates(stock: "T5ForConditionalGeneration") -> Any:
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=LORA_RANK, lora_alpha=LORA_ALPHA, lora_dropout=DROPOUT, target_modules=LORA_LAYERS
    )
    return get_peft_model(stock, settings)
