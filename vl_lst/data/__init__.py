"""Data of a run: examples, batches and their order."""
