"""Feature files in and out: import, export, compress, join, summarise, verify."""
