"""Initial weights of the side network, cut out of the backbone."""
