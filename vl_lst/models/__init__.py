"""Models that answer: visual embedding, side network, heads and losses."""
