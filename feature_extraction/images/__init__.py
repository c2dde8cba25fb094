"""Image files: found, decoded, and prepared for an encoder."""
