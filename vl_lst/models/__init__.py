"""The frozen backbone and its taps, visual embedding, side network, heads and search."""
