"""Vision-and-language models.

`vision_language_model` has the interface and the loss that the two kinds of models share: the
`ladder` next to a frozen backbone, and the `joint` model whose backbone reads image tokens. Both
take a `batch` and have a `visual` embedding, `heads` and `losses`. `initialisation` derives weights
of the ladder from the backbone; `reference_checkpoint` converts those of the paper's code.
"""
