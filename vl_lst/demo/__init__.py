"""The embedded default: a shapes world and a small CLIP and T5 pretrained on it.

Nothing here is fetched: pictures and questions are made from seeds, and the pretrained weights
lie in `assets/` (see `vl_lst.bundled`), made by `python -m tools.pretrain_clip` and
`python -m tools.pretrain_t5`.
"""
