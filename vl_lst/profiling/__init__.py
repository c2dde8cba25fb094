"""Memory and speed of training with each transfer method."""
