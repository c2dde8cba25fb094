"""What this package knows of a family of Hugging Face models, by meaning.

A family is one file in `vl_lst/backbones/families`; `docs/adding_a_backbone.md` adds one step by
step. Nothing outside `vl_lst/backbones` names a family. Only the loader of reference checkpoints
and initialisations from the backbone's weights, which need `matches_side_blocks`, name modules.

B examples, T text tokens, I images per example, N tokens per image, S = I * N + T, D width of the
encoder, W width of the decoder, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSeq2SeqLM,
    DynamicCache,
    EncoderDecoderCache,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from vl_lst.backbones.config_fields import ConfigFields
from vl_lst.backbones.layers import AttentionLayers, BlockSizes, FeedForwardLayers, OutputLayer
from vl_lst.backbones.pretraining import PretrainingObjective

__all__ = ["Family"]


class Family(ABC):
    """Interface of a family; its methods take a model, or a configuration, of that family.

    A model is a stock Hugging Face model, which is only used through its public interface and
    through forward hooks on its modules.
    """

    model_types: ClassVar[tuple[str, ...]]
    """Values of `model_type` in `config.json`."""

    fields: ClassVar[type[ConfigFields]]
    """Fields of `config.json` that are read, with their ranges."""

    has_decoder: ClassVar[bool] = True
    """Whether the models can generate text."""

    leaves_out_positions: ClassVar[bool] = False
    """Whether `limit_positions` can leave tokens without a position."""

    reads_images: ClassVar[bool] = False
    """Whether the encoder reads image tokens that the model's own image encoder computes."""

    merges_attention: ClassVar[bool] = False
    """Whether the decoder reads its own tokens and the encoder's states in one attention."""

    pretraining: ClassVar[PretrainingObjective | None] = None
    """Objective of the pretraining, if the models still have the output layer for it."""

    optional_tensors: ClassVar[tuple[str, ...]] = ()
    """Names of tensors that a checkpoint may lack; the model then keeps its initial values."""

    matches_side_blocks: ClassVar[bool] = False
    """Whether the blocks are built like the side network's: norm without a bias first, attention
    without biases, scale or rotation, relative positions."""

    # Reading a checkpoint

    def build_config(self, values: Mapping[str, Any]) -> PretrainedConfig:
        """Return the configuration of a model.

        Args:
            values: Validated `fields`, by name, with `model_type`.
        """
        values = dict(values)
        config: PretrainedConfig = CONFIG_MAPPING[values.pop("model_type")](**values)
        return config

    def model_class(self, config: PretrainedConfig) -> type[PreTrainedModel]:
        """Return the class that models with this configuration are loaded with."""
        classes: Any = AutoModelForSeq2SeqLM._model_mapping
        kind: type[PreTrainedModel] = classes[type(config)]
        return kind

    def model_arguments(self, config: Any) -> Mapping[str, Any]:
        """Return the arguments of that class besides the configuration; by default, none."""
        return {}

    def tensor_name(self, name: str) -> str | None:
        """Return the name in the model's state dict of a tensor in a checkpoint.

        Args:
            name: Name in the checkpoint, of this class or of another class of the family.

        Returns:
            The name; `None` if the model does not need the tensor.
        """
        return name

    def build_random(self, config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
        """Return a model with random weights, on torch's default device."""
        model: PreTrainedModel = self.model_class(config)._from_config(
            config, dtype=dtype, **self.model_arguments(config)
        )
        return model

    def read_tokenizer(self, config: Any, tokenizer: Any) -> None:  # noqa: B027
        """Add to a configuration what only the tokenizer tells; by default, nothing."""

    # Sizes and tokens

    @abstractmethod
    def encoder_sizes(self, config: Any) -> BlockSizes:
        """Return the sizes of the encoder."""

    def decoder_sizes(self, config: Any) -> BlockSizes:
        """Return the sizes of the decoder; by default, those of the encoder.

        Called only if `has_decoder`.
        """
        return self.encoder_sizes(config)

    def max_positions(self, config: Any) -> int | None:
        """Return the maximum number of tokens of the encoder or decoder; `None` if unlimited."""
        return None

    def relative_positions(self, config: Any) -> tuple[int, int]:
        """Return the buckets and the maximum distance of the side network's relative positions.

        By default, those of Raffel et al. 2020 (arXiv 1910.10683, section 2.1).
        """
        return 32, 128

    def has_shared_positions(self, config: Any) -> bool:
        """Return whether the blocks of a stack share one table of relative positions.

        It is read if `matches_side_blocks`. By default they do, as in the side network.
        """
        return True

    def vocabulary_size(self, config: Any) -> int:
        """Return V."""
        return int(config.vocab_size)

    def set_vocabulary_size(self, config: Any, size: int) -> None:
        """Change the vocabulary of a configuration."""
        config.vocab_size = size

    def pad_token_id(self, config: Any) -> int:
        """Return the id of the padding token."""
        return int(config.pad_token_id)

    def eos_token_id(self, config: Any) -> int:
        """Return the id that ends an answer of beam search: the first of `end_token_ids`."""
        return self.end_token_ids(config)[0]

    def end_token_ids(self, config: Any) -> tuple[int, ...]:
        """Return the ids of all tokens that end a generated answer.

        A model that was tuned to follow instructions also ends its turn with a token of its own.
        """
        chosen = config.eos_token_id
        return tuple(map(int, chosen if isinstance(chosen, list | tuple) else (chosen,)))

    def start_token_id(self, model: Any) -> int:
        """Return the id of the token that the decoder reads first."""
        for source in (model.generation_config, model.config):
            chosen = getattr(source, "decoder_start_token_id", None)
            if chosen is not None:
                return int(chosen)
        return self.default_start_token_id(model.config)

    def default_start_token_id(self, config: Any) -> int:
        """Return the start token of a model whose settings have none; by default, padding."""
        return self.pad_token_id(config)

    def forced_bos_token_id(self, model: Any) -> int | None:
        """Return the id of the token that every answer begins with; `None` if there is none."""
        chosen: int | None = getattr(model.generation_config, "forced_bos_token_id", None)
        return chosen

    def forced_eos_token_id(self, model: Any) -> int | None:
        """Return the id of the token that ends an answer of the maximum length, if any."""
        chosen: int | None = getattr(model.generation_config, "forced_eos_token_id", None)
        return chosen

    # Running the model

    def encoder(self, model: Any) -> Any:
        """Return the module called with `inputs_embeds` and `attention_mask`."""
        return model.get_encoder()

    def decoder(self, model: Any) -> Any:
        """Return the module called with `inputs_embeds`, `encoder_hidden_states` and a cache."""
        return model.get_decoder()

    @abstractmethod
    def encoder_blocks(self, model: Any) -> Sequence[nn.Module]:
        """Return the blocks of the encoder; the first input of each is its residual stream."""

    def decoder_blocks(self, model: Any) -> Sequence[nn.Module]:
        """Return the blocks of the decoder."""
        raise NotImplementedError

    def embed(self, model: Any, ids_BT: Tensor) -> Tensor:
        """Return token embeddings [B, T, D] as the encoder takes them for `inputs_embeds`."""
        embedded_BTD: Tensor = model.get_input_embeddings()(ids_BT)
        return embedded_BTD

    def input_scale(self, config: Any) -> float:
        """Return the factor by which the encoder multiplies `inputs_embeds`.

        Token embeddings are small because of it. Tokens of a visual embedding or of a learned
        prefix are not, and are divided by it.
        """
        return 1.0

    def embed_answer(self, model: Any, ids_BL: Tensor) -> Tensor:
        """Return token embeddings [B, L, W] as the decoder takes them for `inputs_embeds`."""
        return self.embed(model, ids_BL)

    def join_images(self, model: Any, images_BIND: Tensor, ids_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return what an encoder that reads images reads, and its mask.

        Called only if `reads_images`. By default, the images' tokens come first, then the text.

        Args:
            model: Model.
            images_BIND: Image tokens from the model's own image encoder.
            ids_BT: Token ids of the text, padded.

        Returns:
            Embeddings [B, S, D] and a mask [B, S], False for padding.
        """
        text_BTD = self.embed(model, ids_BT)
        images_BVD = images_BIND.flatten(1, 2).to(text_BTD.dtype)
        mask_BT = ids_BT != self.pad_token_id(model.config)
        mask_BS = nn.functional.pad(mask_BT, (images_BVD.shape[1], 0), value=True)
        return torch.cat((images_BVD, text_BTD), 1), mask_BS

    def tokens_per_image(self, config: Any) -> int:
        """Return the number of tokens that an encoder that reads images reads of each.

        Called only if `reads_images`.
        """
        raise NotImplementedError

    def projection_tensor_name(self, name: str) -> str | None:
        """Return the name within the projection of a tensor in a checkpoint.

        The projection is the last part of the model's image encoder. Its hash tells whether
        features belong to the model. Called only if `reads_images`.

        Args:
            name: Name in the checkpoint.

        Returns:
            The name, such as `weight`; `None` if the tensor belongs to another part.
        """
        raise NotImplementedError

    def limit_positions(self, model: Any, text: int) -> AbstractContextManager[None]:
        """Return a context in which only the encoder's first `text` tokens have positions.

        Image tokens of a visual embedding follow the text and have no order of their own. Called
        only if `leaves_out_positions`; without that, these tokens have the positions after the
        text.
        """
        return nullcontext()

    def new_cache(self, model: Any) -> EncoderDecoderCache:
        """Return an empty cache of the decoder's keys and values."""
        return EncoderDecoderCache(DynamicCache(), DynamicCache())

    # Running one block with other inputs

    def replace_tokens(
        self, model: Any, arguments: MutableMapping[str, Any], states_BSD: Tensor, mask_BS: Tensor
    ) -> None:
        """Change the arguments of an encoder block so that they fit other tokens.

        Called only without a decoder. By default, the block has an `attention_mask` that is added
        to attention scores, and nothing else that depends on the tokens but its first input.

        Args:
            model: Model.
            arguments: Arguments of the block's `forward` by name, changed in place.
            states_BSD: States of the tokens, in any number.
            mask_BS: False for padding.
        """
        arguments["attention_mask"] = _added_mask(mask_BS, states_BSD.dtype)

    def replace_memory(
        self, arguments: MutableMapping[str, Any], states_BSD: Tensor, mask_BS: Tensor
    ) -> None:
        """Change the arguments of a decoder block so that it attends to other encoder states.

        By default, the block has `encoder_hidden_states`, and an `encoder_attention_mask` that is
        added to attention scores.

        Args:
            arguments: See `replace_tokens`.
            states_BSD: Encoder states, in any number unless `reads_images`.
            mask_BS: False for padding.
        """
        arguments["encoder_hidden_states"] = states_BSD
        arguments["encoder_attention_mask"] = _added_mask(mask_BS, states_BSD.dtype)

    # Output layer

    def output_layer(self, model: Any) -> OutputLayer:
        """Return the output layer, if `has_decoder`."""
        layer = model.get_output_embeddings()
        return OutputLayer(weight_VW=layer.weight, bias_V=layer.bias)

    # Layers that methods adapt

    @abstractmethod
    def attentions(self, model: Any) -> Iterator[AttentionLayers]:
        """Yield all attentions, block by block."""

    @abstractmethod
    def feed_forwards(self, model: Any) -> Iterator[FeedForwardLayers]:
        """Yield all feed-forward layers, block by block."""

    def norms(self, model: Any) -> Iterator[nn.Module]:
        """Yield all norms: by default, the modules with a weight of one dimension."""
        for module in model.modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, nn.Parameter) and weight.ndim == 1:
                yield module

    def final_norms(self, model: Any) -> Iterator[nn.Module]:
        """Yield the norms at the end of a stack, after its last block; by default, none."""
        yield from ()

    def linear_layers(self, model: Any) -> Iterator[nn.Linear]:
        """Yield all linear layers but the output layer."""
        output_layer = model.get_output_embeddings()
        for module in model.modules():
            if isinstance(module, nn.Linear) and module is not output_layer:
                yield module

    def untrained_parameters(self, model: Any) -> Iterator[nn.Parameter]:
        """Yield the parameters that never train, as no gradient reaches them; by default, none."""
        yield from ()

    def position_tables(self, model: Any) -> Iterator[nn.Module]:
        """Yield the tables of relative position biases; by default, none."""
        yield from ()

    def set_dropout(self, model: Any, probability: float) -> None:
        """Set the probability of every dropout; it applies in training mode.

        By default, that of all dropout modules, and all numbers named `...dropout` that modules
        pass to functions. Whole layers are never dropped.
        """
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = probability
                continue
            for name, value in list(vars(module).items()):
                if name == "layerdrop":
                    setattr(module, name, 0.0)
                elif name.endswith("dropout") and type(value) in (float, int):
                    setattr(module, name, probability)


def _added_mask(mask_BS: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask [B, 1, 1, S] with zeros, and the smallest number for padding."""
    added_BS = torch.zeros_like(mask_BS, dtype=dtype)
    return added_BS.masked_fill(~mask_BS, torch.finfo(dtype).min)[:, None, None]
