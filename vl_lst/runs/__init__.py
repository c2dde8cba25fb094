"""A run on disk: directory, checkpoints, metrics, record."""
