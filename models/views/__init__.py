"""Windows and tiles, which are encoded in addition to the whole image."""
