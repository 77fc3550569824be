"""Typed settings: validated, identified and described."""
