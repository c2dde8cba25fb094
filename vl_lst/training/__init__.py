"""Training: session, trainer, validation, optimizer."""
