"""UniPT (arXiv 2308.14316): parallel stacks that merge the features of a frozen backbone's layers.

`model` combines the backbone with two `stacks`, of which the decoder's reads the encoder's.
"""
