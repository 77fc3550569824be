"""Limits that flags, readers and deploy/ share."""

AUTO_TILES = -1  # as a number of tiles: chosen by the photographs' size
MOST_TILES = 4  # along a side of a square photograph
MAX_PIXELS = 100_000_000  # of a photograph: a larger one is refused
