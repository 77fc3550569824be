"""Frozen image encoders, one module for each family."""
