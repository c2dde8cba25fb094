"""Greedy and beam search, and answering a batch."""
