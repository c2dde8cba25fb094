"""Pretrained backbones: loading, quantisation, tokenizers."""
