"""Extract image features into HDF5 files that record how they were extracted."""

from feature_extraction.library_messages import hide_enum_registrations

hide_enum_registrations()
