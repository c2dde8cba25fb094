"""Features in files of other programs: found, checked, and read image by image."""
