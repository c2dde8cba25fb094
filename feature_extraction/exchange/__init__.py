"""Import, export, compress, join, summarise and verify feature files."""
