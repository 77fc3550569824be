"""Limits that flags, readers and deploy/ share."""

AUTO_TILES = -1  # as a number of tiles: chosen by the photographs' size
MOST_TILES = 4  # along a side of a square photograph
MAX_PIXELS = 100_000_000  # of a photograph: a larger one is refused, unless --max-pixels allows it

_most_pixels = MAX_PIXELS


def most_pixels() -> int:
    """The pixels of the largest image that this process opens."""
    return _most_pixels


def allow_pixels(count: int) -> None:
    """Sets `most_pixels`; processes that load images for this one (`data.dataset.make_loader`) get it too."""
    global _most_pixels
    _most_pixels = count
