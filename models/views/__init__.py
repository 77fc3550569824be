"""What is encoded in addition to the whole image: windows and tiles."""
