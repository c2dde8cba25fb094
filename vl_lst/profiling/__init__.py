"""Memory and speed of training with each transfer method.

`measure` profiles several methods on the batch of `workload`, with real weights or, by `estimate`,
with tensors that have no data; `steps` times training steps; `device` checks that no other process
uses the GPU; `report` and `plot` show the results.
"""
