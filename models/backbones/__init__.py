"""Frozen image towers, one module for each family."""
