"""Ladder Side-Tuning model: frozen backbone, visual embedding, ladder side network and heads.

L answer tokens, D backbone width, R side width (that of the states that heads read, which is D with
a last gate).
"""

from collections.abc import Mapping

from torch import Tensor, nn

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.errors import ModelError
from vl_lst.models.config import HeadConfig, LadderConfig, VisualConfig
from vl_lst.models.ladder.rungs import LearnedGates, RungBuilder
from vl_lst.models.ladder.side_network import LadderSideNetwork, SideDecoder
from vl_lst.models.side_model import SideModel

__all__ = ["LadderModel"]


class LadderModel(SideModel):
    """Ladder Side-Tuning of a frozen backbone for vision and language.

    Without a visual embedding, the backbone reads the images, if there are any. With one, it reads
    the text only, and image tokens enter the side network.

    Args:
        backbone: Frozen backbone.
        visual: See `VisionLanguageModel`.
        ladder: Settings of the side network.
        head: See `VisionLanguageModel.add_heads`.
        build_rungs: Function that builds the rungs and gates of each stack. Default: those that
            `ladder` describes.
        last_gate: See `LadderSideNetwork`.

    Raises:
        ModelError: The settings do not fit the backbone.
    """

    side: LadderSideNetwork

    def __init__(
        self,
        backbone: FrozenBackbone,
        *,
        visual: VisualConfig | None,
        ladder: LadderConfig,
        head: HeadConfig | Mapping[str, HeadConfig],
        build_rungs: RungBuilder | None = None,
        last_gate: LearnedGates | None = None,
    ) -> None:
        super().__init__(backbone, visual=visual)
        if visual is None and ladder.image_rungs != "pass":
            raise ModelError(
                f"image_rungs is {ladder.image_rungs}, which changes the tokens of a visual "
                "embedding, and the model has none: expected pass"
            )
        self.side = LadderSideNetwork(backbone, ladder.for_visual(visual), build_rungs, last_gate)
        self.add_heads(head, width=self.side.output_width)

    @property
    def reads_final_states(self) -> bool:
        """Whether heads read the final states of the backbone too: those that a last gate mixes."""
        return self.side.last_gate is not None

    @property
    def side_decoder(self) -> SideDecoder:
        """Side decoder, which a model with a generation head has."""
        assert self.side.decoder is not None
        return self.side.decoder

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters by name: all outside the backbone that the heads use."""
        is_used = self.generates or self.side.last_gate is not None
        upsample = None if is_used else self.side.upsample
        unused = () if upsample is None else tuple(upsample.parameters())
        return {
            name: parameter
            for name, parameter in super().trainable().items()
            if all(parameter is not other for other in unused)
        }

    def trained_blocks(self) -> list[nn.Module]:
        """Return the blocks of the side network."""
        stacks = (self.side.encoder, self.side.decoder)
        return [block for stack in stacks if stack is not None for block in stack.side_blocks()]

    def vocabulary_states(self, states_BLR: Tensor) -> Tensor:
        """Return the states at the backbone's width [B, L, D], scaled for its output layer."""
        is_wide = self.side.last_gate is not None
        return super().vocabulary_states(states_BLR if is_wide else self.side.widen(states_BLR))
