"""UniPT model: frozen backbone, visual embedding, a stack next to each of its stacks, and heads.

L answer tokens, N unique texts, D width of the backbone's output, R side width.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.models.config import HeadConfig, VisualConfig
from vl_lst.models.side_model import SideModel
from vl_lst.models.tapped_layers import require_divisor
from vl_lst.models.unipt.stacks import Form, StackDecoder, StackEncoder, StackSettings

__all__ = ["UniPTModel", "UniPTNetwork"]


class UniPTNetwork(nn.Module):
    """Stacks next to the encoder and the decoder, and the projection to the backbone's width.

    Next to a backbone without a decoder, there is a stack next to the encoder only.

    Args:
        backbone: Backbone that is tapped; only its sizes are used.
        reduction: Ratio of D to R.
        form: See `UniPTOptions`.
        dropout: See `UniPTOptions`.
        recompute: See `UniPTOptions`.

    Raises:
        ModelError: The reduction does not divide D.
    """

    def __init__(
        self,
        backbone: FrozenBackbone,
        *,
        reduction: int,
        form: Form,
        dropout: float,
        recompute: bool,
    ) -> None:
        super().__init__()
        width = backbone.output_width
        require_divisor(reduction, {"width": width}, "output")
        # One width for both stacks, since the features of one attend to the states of the other.
        settings = StackSettings(
            side_width=width // reduction, form=form, dropout=dropout, recompute=recompute
        )
        self.encoder = StackEncoder(backbone.encoder_sizes, settings)
        self.decoder: StackDecoder | None = None
        if backbone.has_decoder:
            self.decoder = StackDecoder(backbone.decoder_sizes, settings)
        self.activates = form == "text"
        self.upsample = nn.Linear(settings.side_width, width)

    def merge(self, states_BLR: Tensor, final_NLD: Tensor, index_B: Tensor | None = None) -> Tensor:
        """Return the states at the backbone's width [B, L, D], which heads read.

        Args:
            states_BLR: States of the last stack.
            final_NLD: Final states of the backbone, which UniPT reads as a feature only.
            index_B: Index of each example's text.
        """
        states_BLD: Tensor = self.upsample(torch.relu(states_BLR) if self.activates else states_BLR)
        return states_BLD


class UniPTModel(SideModel):
    """UniPT of a frozen backbone for vision and language.

    Args:
        backbone: Frozen backbone.
        visual: See `VisionLanguageModel`.
        network: Network next to the backbone.
        head: See `VisionLanguageModel.add_heads`.

    Raises:
        ModelError: A head does not fit the backbone.
    """

    side: UniPTNetwork

    def __init__(
        self,
        backbone: FrozenBackbone,
        *,
        visual: VisualConfig | None,
        network: UniPTNetwork,
        head: HeadConfig | Mapping[str, HeadConfig],
    ) -> None:
        super().__init__(backbone, visual=visual)
        self.side = network
        self.add_heads(head, width=network.upsample.out_features)
