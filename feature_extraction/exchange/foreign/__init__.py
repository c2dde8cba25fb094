"""Find, check and read features in files of other programs."""
