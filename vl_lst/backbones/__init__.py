"""Pretrained backbones: loading, quantisation, tokenizer."""
