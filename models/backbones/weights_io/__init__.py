"""Weights read from files without executing anything, checked and named."""
