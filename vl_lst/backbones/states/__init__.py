"""State store: what a frozen backbone gives for each text, kept in an HDF5 file."""
