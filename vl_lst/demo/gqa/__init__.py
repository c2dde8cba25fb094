"""Questions about the shapes world in the format of GQA, with functional programs."""
