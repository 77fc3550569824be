"""The references: which files, which count, and how they are rotated."""
