"""Vision-and-language models: visual embedding, side network, heads and losses."""
