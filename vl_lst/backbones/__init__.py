"""Pretrained backbones, one file per family.

`family` is the interface of a family and `families` holds them; `backbone` wraps a model of any
family, frozen or not; `loading` loads one with its `tokenizer`, from a `folder` that need not be
trusted, of which `config_fields` and `tokenizer_files` read a part each; `quantization` shrinks its
weights; `published` describes models by name, and `random_weights` builds them without weights;
`reference` reads the backbone of a reference checkpoint; `stored` is a backbone without weights,
whose states are in a file of `states`.
"""
