"""SHERL: features of early blocks are mixed, and the mixture passes the last block alone."""
