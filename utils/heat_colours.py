"""The colours of heat maps, the same in all pictures. A map value is transparent up to a scale's low end and
at full opacity from its high end on; beyond it only the colour changes, up to TOP times the span."""

from __future__ import annotations

import numpy as np

TOP = 2.0
STOPS = ((255, 200, 0), (255, 140, 0), (240, 40, 20), (225, 0, 70), (220, 0, 140))  # RGB, evenly up to TOP
OPACITY = 0.75  # the defect shows through
GREY_FLOOR = 36  # of the photograph below, so that a black product can be seen


def heat_tables() -> tuple[np.ndarray, np.ndarray]:
    """For shades of heat 0..255, TOP at the end: the colour times its opacity (256,3) uint8, and the weight
    of the photograph below (256,) uint8, of 255."""
    height = np.linspace(0, TOP, 256)
    opacity = OPACITY * np.minimum(1, height)
    places = np.linspace(0, TOP, len(STOPS))
    colours = np.stack([np.interp(height, places, channel) for channel in zip(*STOPS)], axis=-1)
    return (colours * opacity[:, None]).astype(np.uint8), (255 * (1 - opacity)).astype(np.uint8)
