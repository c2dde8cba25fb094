"""The ladder side network (LST, arXiv 2206.06522)."""
