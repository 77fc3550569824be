"""Weights files: read without executing anything, checked, and brought to one set of names."""
