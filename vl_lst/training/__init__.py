"""Training of runs.

`session.train` goes through the stages of a training session; its `trainer` runs the training loop
(`optimizer`, `loss_window`, `resources`, `saved_bytes`), calls `validation` and keeps the
`best_checkpoint` and the `last_checkpoint`. `initialisation` computes initial weights. `recorder`
writes the record of the run, which `description` composes. `distributed` and `failures` are about
several processes that train one model; `parallel_runs` trains several models at the same time.
"""
