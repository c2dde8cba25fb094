"""Find, decode and preprocess image files."""
