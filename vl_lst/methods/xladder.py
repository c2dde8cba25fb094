"""xLadder (Zheng et al. 2025, arXiv 2512.14237), as far as its paper tells.

The top layers of the backbone are connected to the first blocks of the side network; its other
blocks are free: they have no rung. There is no published code.
"""

from collections.abc import Mapping

from pydantic import BaseModel, Field

from vl_lst.backbones.frozen import FrozenBackbone
from vl_lst.methods._frozen_backbone import FrozenBackboneMethod
from vl_lst.models.config import HeadConfig, LadderConfig, LadderSettings, VisualConfig
from vl_lst.models.ladder.model import LadderModel

__all__ = ["METHOD", "CrossLadder", "CrossLadderOptions"]


class CrossLadderOptions(LadderSettings):
    """Options of xLadder; those not listed here are in `SideSettings` and `LadderSettings`.

    Args:
        encoder_layers: Backbone encoder layers that are connected to the first side blocks,
            ascending and counted from 0; `None` means the top half, with the middle layer of an odd
            number.
        decoder_layers: Backbone decoder layers, likewise.
        free_blocks: Number of side blocks without a rung, which follow the connected ones in each
            stack; `None` means as many as are connected.
    """

    free_blocks: int | None = Field(None, ge=0, le=1000)


class CrossLadder(FrozenBackboneMethod):
    """Side network that continues where the backbone ends."""

    options: type[BaseModel] = CrossLadderOptions
    reads_states_alone = True

    def attach(
        self,
        backbone: FrozenBackbone,
        options: BaseModel,
        *,
        visual: VisualConfig | None,
        heads: Mapping[str, HeadConfig],
    ) -> LadderModel:
        """Build the side network next to `backbone`."""
        assert isinstance(options, CrossLadderOptions)
        settings = options.model_dump(include=set(LadderSettings.model_fields))
        free = {"encoder": 0, "decoder": 0}
        for stack in free:
            if stack == "decoder" and not backbone.has_decoder:
                continue
            layers = settings[f"{stack}_layers"]
            if layers is None:
                sizes = backbone.decoder_sizes if stack == "decoder" else backbone.encoder_sizes
                layers = tuple(range(sizes.depth // 2, sizes.depth))
                settings[f"{stack}_layers"] = layers
            free[stack] = len(layers) if options.free_blocks is None else options.free_blocks
        ladder = LadderConfig(
            **settings, free_encoder_blocks=free["encoder"], free_decoder_blocks=free["decoder"]
        )
        return LadderModel(backbone, visual=visual, ladder=ladder, head=heads)


METHOD = CrossLadder()
