"""Training, checkpoints, and what is done with a trained run."""
