"""Initial weights of the side network, derived from the backbone."""
