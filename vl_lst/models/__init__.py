"""Backbones, visual embedding, side network, heads and search."""
