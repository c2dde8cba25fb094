"""Extract image features into HDF5 files that record how they were extracted."""
