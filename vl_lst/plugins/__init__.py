"""Adapters that let other programs use a run; each needs the program that it is for."""
