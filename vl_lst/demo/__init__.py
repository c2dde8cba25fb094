"""The bundled demo: a shapes world, and a small CLIP and T5 pretrained on it.

Nothing is downloaded. Images and questions are generated from seeds. The pretrained weights in
`assets/` (see `vl_lst.bundled`) were made with `python -m tools.pretrain_clip` and
`python -m tools.pretrain_t5` from the repository.
"""
