"""Three of the demo's products, drawn with or without a structural flaw; the fourth is circuit.py's.

Each function takes the generator of what varies between normal pieces and an optional `Flaw` with a generator
of its own. So the same piece can be drawn with and without the flaw, and the difference is the exact mask.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial import cKDTree

from data.drawn.surfaces import Rng, Surface, blend, blur, noise, smoothstep


@dataclass(frozen=True)
class Flaw:
    """A structural defect: its kind, its size (about 0.8 to 2), and the generator that places it."""

    kind: str
    size: float
    rng: Rng


def pose_grid(
    rng: Rng, shape: tuple[int, int], shift: float, degrees: float
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates x, y (H,W) from the centre: moved by up to `shift` px, rotated by up to `degrees`."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    x, y = x - shape[1] / 2 - rng.uniform(-shift, shift), y - shape[0] / 2 - rng.uniform(-shift, shift)
    angle = np.radians(rng.uniform(-degrees, degrees))
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def fabric(rng: Rng, shape: tuple[int, int], flaw: Flaw | None = None) -> Surface:
    """A plain weave of grey warp and cream weft yarns. `missing_yarn`: one or two weft yarns are gone over
    some length."""
    pitch = 7.0
    x, y = pose_grid(rng, shape, pitch, 1.5)
    x, y = x + noise(rng, shape, 60), y + noise(rng, shape, 60)
    column, row = np.floor(x / pitch).astype(int), np.floor(y / pitch).astype(int)
    across, down = x / pitch - column - 0.5, y / pitch - row - 0.5
    warp_tone, weft_tone = rng.normal(1, 0.03, (2, max(shape)))
    over = np.where((column + row) % 2 == 0, 1, -1)
    warp = np.sqrt(1 - (across / 0.51) ** 2) * (1 + 0.8 * over * np.cos(np.pi * down))
    weft = np.sqrt(1 - (down / 0.51) ** 2) * (1 - 0.8 * over * np.cos(np.pi * across))
    gap = np.zeros(shape)
    if flaw is not None:
        reach = int(shape[0] * 0.4 / pitch)
        lost = row - flaw.rng.integers(-reach, reach)
        gone = (lost == 0) | ((lost == 1) & (flaw.size > 1))
        middle, half = flaw.rng.uniform(-0.25, 0.25) * shape[1], 38 * flaw.size
        gap = gone * smoothstep(np.abs(x - middle), half, half - 5)
        weft = weft * (1 - gap)
    fibre = noise(rng, shape, (1.3, 6))
    dark = (
        np.array([0.66, 0.68, 0.70])
        * (warp_tone[column] * (1 + 0.10 * noise(rng, shape, (6, 1.3))))[..., None]
    )
    light = np.array([0.84, 0.82, 0.76]) * (weft_tone[row] * (1 + 0.07 * fibre))[..., None]
    thickness = np.maximum(warp, weft)
    shade = (0.6 + 0.4 * smoothstep(thickness, 0, 0.9) - 0.25 * gap) * (1 + 0.03 * noise(rng, shape, 90))
    colour = blend(light, dark, smoothstep(warp - weft, -0.15, 0.15)) * shade[..., None]
    height = 0.9 * blur(thickness, 0.8) + 0.1 * fibre + 0.6 * noise(rng, shape, 70)
    return Surface(colour, height, np.zeros(shape), np.ones(shape, bool))


def leather(rng: Rng, shape: tuple[int, int], flaw: Flaw | None = None) -> Surface:
    """Pebbled tan leather: domes between creases, pores, slowly varying dye. It has no structural flaw."""
    x, y = pose_grid(rng, shape, 0, 180)
    x, y = x + 2.5 * noise(rng, shape, 22), y + 2.5 * noise(rng, shape, 22)
    pitch, reach = 7.0, 0.8 * max(shape)
    centres = np.mgrid[-reach:reach:pitch, -reach:reach:pitch].reshape(2, -1).T
    pebbles = cKDTree(centres + rng.uniform(-0.42, 0.42, centres.shape) * pitch)
    nearest, second = np.moveaxis(pebbles.query(np.stack([x, y], -1), k=2)[0], -1, 0)
    dome = smoothstep(second - nearest, 0, 3.2)
    dye = 1 + 0.025 * noise(rng, shape, 110, 3) + 0.025 * noise(rng, shape, 3)
    colour = np.array([0.82, 0.60, 0.41]) * (dye * (0.86 + 0.14 * dome))[..., None]
    height = 0.6 * dome + 0.7 * noise(rng, shape, 40) + 0.12 * noise(rng, shape, 2)
    return Surface(colour, height, 0.10 + 0.06 * dome, np.ones(shape, bool))


def gear(rng: Rng, shape: tuple[int, int], flaw: Flaw | None = None) -> Surface:
    """A lathe-turned steel gear on a pale mat: teeth, rim, web with six holes, hub with bore and keyway.

    `broken_tooth`: one tooth, or three in a row, snapped off; the fracture is dark.
    """
    x, y = pose_grid(rng, shape, 0.6, 0.3)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    teeth, outer = 18, 126.0
    tip, fracture = outer + 11 * np.tanh(2.2 * np.cos(teeth * angle)), np.zeros(shape)
    if flaw is not None:
        tooth = 2 * np.pi * flaw.rng.integers(teeth) / teeth
        away = np.abs((angle - tooth + np.pi) % (2 * np.pi) - np.pi)
        lost = away < np.pi / teeth * (1 if flaw.size < 1.3 else 3)
        left = outer - 11 + flaw.rng.uniform(0, 5) / flaw.size + 2.5 * noise(flaw.rng, shape, 6)
        fracture = lost * (tip > left) * smoothstep(left - radius, 9, 5)
        tip = np.where(lost, np.minimum(tip, left), tip)
    keyway = np.maximum(np.abs(x) - 6.5, np.abs(y + 34) - 9)
    body = np.minimum(np.minimum(tip - radius, radius - 30), keyway)  # pixels to the nearest edge
    for place in np.pi / 3 * (np.arange(6) + 0.5):
        body = np.minimum(body, np.hypot(x - 80 * np.cos(place), y - 80 * np.sin(place)) - 11.5)
    inside = smoothstep(body, -0.8, 0.8)
    lathe = np.interp(radius, np.arange(300), rng.standard_normal(300))
    steps = smoothstep(radius, 51, 48) + smoothstep(radius, 102, 105)
    height = (
        7 * np.clip(body / 3.5, 0, 1) + 2.5 * steps + 0.06 * inside * lathe + 0.03 * noise(rng, shape, 1.5)
    )
    glare = np.abs(np.cos(angle - np.radians(rng.normal(52, 2)))) ** 6
    steel = 0.61 + 0.14 * glare + 0.01 * lathe + 0.012 * noise(rng, shape, 40, 3) + 0.05 * steps
    steel = np.array([0.98, 1, 1.03]) * (steel * (1 - 0.62 * fracture))[..., None]
    shadow = 1 - 0.45 * blur(np.roll(inside, (7, 7), (0, 1)), 5)
    mottle = 1 + 0.012 * noise(rng, shape, 2) + 0.02 * noise(rng, shape, 70)
    mat = np.array([0.80, 0.81, 0.82]) * (mottle * shadow)[..., None]
    region = cv2.erode((body > 0).astype(np.uint8), np.ones((9, 9))) > 0
    return Surface(blend(mat, steel, inside), height, 0.16 * inside, region)
