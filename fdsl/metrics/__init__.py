"""Exact image and pixel metrics."""
