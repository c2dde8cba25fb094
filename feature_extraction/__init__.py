"""Images in, CLIP features out: one HDF5 file that says how it was made and survives a kill."""
