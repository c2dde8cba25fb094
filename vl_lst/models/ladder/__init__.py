"""The ladder (LST, arXiv 2206.06522): a narrow encoder-decoder next to the frozen backbone.

`model` combines the backbone with the `side_network`, whose layers each mix a rung into the side
state through a gate (`rungs`) and apply a `side_block` with a `relative_bias`. `fused` holds their
steps with backward passes of their own, and `dropout` the masks of a step.
"""
