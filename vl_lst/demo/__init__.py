"""The bundled demo: a shapes world, and small models pretrained on it.

Nothing is downloaded. Images and questions are generated from seeds. The pretrained weights in
`assets/` (see `vl_lst.bundled`) were made from the repository: the CLIP with
`python -m tools.pretrain_clip`, the T5 with `python -m tools.pretrain_t5`, and the T5 that reads
images with `python -m tools.pretrain_image_t5`.
"""
