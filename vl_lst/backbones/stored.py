"""A frozen backbone without a model in memory: its states are read from a file.

U unique encoder inputs, P unique (input, answer) pairs, N either of these, T tokens that the
encoder reads, L answer tokens, D width of a stack, K kept blocks, V vocabulary.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vl_lst.backbones.backbone import BackboneCache
from vl_lst.backbones.family import Family
from vl_lst.backbones.folder import empty_model
from vl_lst.backbones.frozen import DecoderTaps, EncoderTaps, FrozenBackbone
from vl_lst.backbones.layers import OutputLayer
from vl_lst.backbones.states.reader import PaddedStates
from vl_lst.errors import ModelError

__all__ = ["BackboneStates", "StoredBackbone"]


@dataclass(frozen=True, slots=True)
class BackboneStates:
    """States of the texts of a batch, read from a file.

    Args:
        encoder: States of the unique encoder inputs.
        decoder: States of the unique pairs, or those at the start token for each encoder input if
            the head does not generate; `None` without a decoder.
    """

    encoder: PaddedStates
    decoder: PaddedStates | None = None

    def encoder_taps(self) -> EncoderTaps:
        """Return the states as `FrozenBackbone.encode` returns them."""
        states = _computable(self.encoder)
        return EncoderTaps(
            states.embedding_NTD, states.blocks_KNTD, _final_of(states), states.mask_NT
        )

    def decoder_taps(self) -> DecoderTaps | None:
        """Return the states as `FrozenBackbone.decode` returns them; `None` without a decoder."""
        if self.decoder is None:
            return None
        states = _computable(self.decoder)
        return DecoderTaps(states.embedding_NTD, states.blocks_KNTD, _final_of(states))

    def map(self, change: Callable[[Tensor], Tensor]) -> "BackboneStates":
        """Return the states after a change of each tensor, such as a copy to a device."""
        return BackboneStates(
            _changed(self.encoder, change),
            None if self.decoder is None else _changed(self.decoder, change),
        )

    def select(self, rows_B: Tensor, pairs_B: Tensor | None) -> "BackboneStates":
        """Return the states of some texts, which may occur several times.

        Args:
            rows_B: Index of each encoder input.
            pairs_B: Index of each pair; `None` keeps all.
        """
        decoder = self.decoder
        if decoder is not None and pairs_B is not None:
            decoder = _selected(decoder, pairs_B)
        return BackboneStates(_selected(self.encoder, rows_B), decoder)


def _selected(states: PaddedStates, rows: Tensor) -> PaddedStates:
    final_NTD = states.final_NTD
    return PaddedStates(
        states.embedding_NTD.index_select(0, rows),
        states.blocks_KNTD.index_select(1, rows),
        None if final_NTD is None else final_NTD.index_select(0, rows),
        states.mask_NT.index_select(0, rows),
    )


def _changed(states: PaddedStates, change: Callable[[Tensor], Tensor]) -> PaddedStates:
    return PaddedStates(
        change(states.embedding_NTD),
        change(states.blocks_KNTD),
        None if states.final_NTD is None else change(states.final_NTD),
        change(states.mask_NT),
    )


def _computable(states: PaddedStates) -> PaddedStates:
    """Return states in a type to compute with: squares of float16 numbers overflow."""
    if states.embedding_NTD.dtype != torch.float16:
        return states
    return replace(
        states,
        embedding_NTD=states.embedding_NTD.float(),
        blocks_KNTD=states.blocks_KNTD.float(),
        final_NTD=None if states.final_NTD is None else states.final_NTD.float(),
    )


def _final_of(states: PaddedStates) -> Tensor:
    """Return the output of the stack; NaN, which no loss survives, if it is not kept."""
    if states.final_NTD is not None:
        return states.final_NTD
    like = states.embedding_NTD
    return like.new_full((), math.nan).expand(like.shape)


class StoredBackbone(FrozenBackbone):
    """Backbone with the configuration of a model, and none of its weights but the output layer.

    It answers for sizes and token ids, and for the output layer if the file has one. Its states
    come with the batch (`Batch.states`), so it cannot encode or decode texts.

    Args:
        config: Configuration of the model, with the vocabulary size of the run.
        family: Its family.
        output: Weight and bias of the output layer; `None` if no head generates.
    """

    def __init__(self, config: Any, family: Family, output: OutputLayer | None) -> None:
        model = empty_model(config, family)
        super().__init__(model, family)
        # No part of the modules: nothing may move, count or save weights that do not exist.
        del self._modules["model"]
        self.__dict__["model"] = model
        self.__dict__["linear_layers"] = ()
        self.output_weight: nn.Parameter | None = None
        self.output_bias: nn.Parameter | None = None
        if output is not None:
            self.output_weight = nn.Parameter(output.weight_VW, requires_grad=False)
            if output.bias_V is not None:
                self.output_bias = nn.Parameter(output.bias_V, requires_grad=False)

    @property
    def num_absent_parameters(self) -> int:
        """Number of the model's parameters that are not in memory."""
        model: PreTrainedModel = self.model
        present = sum(parameter.numel() for parameter in self.parameters())
        return sum(parameter.numel() for parameter in model.parameters()) - present

    def stacks(self) -> Mapping[str, tuple[nn.Module, Sequence[nn.Module]]]:
        """Return no stack, since none runs."""
        return {}

    def enable_dropout(self, probability: float) -> None:
        """Refuse dropout in the backbone, with which states differ from step to step.

        Raises:
            ModelError: The probability is above 0.
        """
        if probability > 0:
            raise ModelError(
                f"backbone_dropout is {probability:g}, and the backbone's states are read from a "
                "file, which holds those without dropout: expected 0 (--set "
                "method.options.backbone_dropout=0), or no --states"
            )

    def encode(
        self, ids_UT: Tensor, layers: Sequence[int], images_UIMD: Tensor | None = None
    ) -> EncoderTaps:
        """Refuse to compute states."""
        raise self._absent()

    def decode(
        self,
        ids_PL: Tensor,
        layers: Sequence[int],
        *,
        encoder_states_PTD: Tensor,
        encoder_mask_PT: Tensor,
        cache: BackboneCache | None = None,
    ) -> DecoderTaps:
        """Refuse to compute states."""
        raise self._absent()

    def new_cache(self) -> BackboneCache:
        """Refuse to generate."""
        raise self._absent()

    def _absent(self) -> RuntimeError:
        return RuntimeError(
            "the weights of the backbone are not in memory, and the batch has no states: expected "
            "Batch.states, or a loaded backbone"
        )

    def _output_layer(self) -> OutputLayer:
        if self.output_weight is None:
            raise RuntimeError(
                "the file of states has no output layer, which a head that generates needs"
            )
        return replace(
            super()._output_layer(), weight_VW=self.output_weight, bias_V=self.output_bias
        )
