"""Photographs of a user: read, scored and written down."""
