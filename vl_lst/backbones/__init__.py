"""Pretrained backbones.

`backbone` wraps a T5, frozen or not; `loading` loads one with its `tokenizer`, from a `folder` that
need not be trusted; `quantization` shrinks its weights; `t5_sizes` lists published models.
"""
