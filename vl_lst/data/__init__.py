"""From examples and features to batches."""
