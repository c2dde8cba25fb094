"""Development tools, not part of the package: pretraining of the models bundled with the demo."""
