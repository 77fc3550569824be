"""What else of an image is encoded beside the whole of it: windows and tiles."""
