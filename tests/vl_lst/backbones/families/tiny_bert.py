"""Tiny BERT, DistilBERT and DeBERTa v3: encoders without a decoder."""

from tiny_backbones import TinyBackbone, TinyTokenizer
from transformers import (
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertModel,
)

PIECES = TinyTokenizer(
    special={
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    },
    template="[CLS] $A [SEP]",
)
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
# As in DeBERTa v3.
RELATIVE = {
    "relative_attention": True,
    "position_buckets": 4,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
}

BACKBONES = {
    "bert": TinyBackbone(
        build=lambda: BertModel(BertConfig(vocab_size=61, **SIZES), add_pooling_layer=False),
        tokenizer=PIECES,
        has_decoder=False,
    ),
    "distilbert": TinyBackbone(
        build=lambda: DistilBertModel(
            DistilBertConfig(
                vocab_size=59,
                dim=32,
                hidden_dim=56,
                n_layers=2,
                n_heads=2,
                max_position_embeddings=40,
            )
        ),
        tokenizer=PIECES,
        has_decoder=False,
    ),
    "deberta-v3": TinyBackbone(
        build=lambda: DebertaV2Model(DebertaV2Config(vocab_size=67, **SIZES, **RELATIVE)),
        tokenizer=PIECES,
        has_decoder=False,
    ),
}
