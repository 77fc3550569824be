"""The four products of the demo, drawn whole or with a structural flaw (a yarn, a tooth, a component is not
right).

Every function takes the generator of what varies between good pieces and an optional `Flaw`; the flaw has its
own generator, so the same piece can be drawn with and without it, and the difference of the two is the exact
mask.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial import cKDTree

from data.drawn.surfaces import Rng, Surface, blend, blur, fractal_noise, smooth_noise, smoothstep


@dataclass
class Flaw:
    """A structural defect: its kind, its size (about 0.6 small to 1.5 large), and the generator that places
    it."""

    kind: str
    size: float
    rng: Rng


def pose_grid(
    rng: Rng, shape: tuple[int, int], shift: float, turn: float, zoom: float
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates x, y (H,W) from the centre: moved by up to `shift` px, rotated by `turn` degrees, scaled by
    `zoom`."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    x, y = x - shape[1] / 2 - rng.uniform(-shift, shift), y - shape[0] / 2 - rng.uniform(-shift, shift)
    angle, scale = np.radians(rng.uniform(-turn, turn)), 1 + rng.uniform(-zoom, zoom)
    return (x * np.cos(angle) + y * np.sin(angle)) / scale, (y * np.cos(angle) - x * np.sin(angle)) / scale


def fabric(rng: Rng, shape: tuple[int, int], flaw: Flaw | None = None) -> Surface:
    """A plain weave of grey warp and cream weft yarns; `missing_yarn`: a weft yarn or two are gone over some
    length."""
    pitch = 7.0 * (1 + rng.uniform(-0.02, 0.02))
    x, y = pose_grid(rng, shape, pitch, 1.5, 0.0)
    x, y = x + 1.0 * smooth_noise(rng, shape, 60), y + 1.0 * smooth_noise(rng, shape, 60)
    column, row = np.floor(x / pitch).astype(int), np.floor(y / pitch).astype(int)
    across, down = x / pitch - column - 0.5, y / pitch - row - 0.5
    count = 2 * max(shape)
    thick, tone = rng.normal(1, 0.04, (2, count)), rng.normal(1, 0.03, (2, count))
    over = np.where((column + row) % 2 == 0, 1.0, -1.0)
    warp = np.sqrt(np.clip(1 - (across / 0.50 / thick[0][column]) ** 2, 0, 1)) * (
        1 + 0.8 * over * np.cos(np.pi * down)
    )
    weft = np.sqrt(np.clip(1 - (down / 0.50 / thick[1][row]) ** 2, 0, 1)) * (
        1 - 0.8 * over * np.cos(np.pi * across)
    )
    gap = np.zeros(shape)
    if flaw is not None and flaw.kind == "missing_yarn":
        lost = int(flaw.rng.integers(-int(shape[0] * 0.4 / pitch), int(shape[0] * 0.4 / pitch)))
        gone = (row == lost) | ((row == lost + 1) & (flaw.size > 1))
        middle, reach = flaw.rng.uniform(-0.25, 0.25) * shape[1], 38 * flaw.size
        gap = gone * smoothstep(np.abs(x - middle), reach, reach - 5)
        weft = weft * (1 - gap)
    fibre_warp, fibre_weft = smooth_noise(rng, shape, (6.0, 1.3)), smooth_noise(rng, shape, (1.3, 6.0))
    top = smoothstep(warp - weft, -0.15, 0.15)
    dark = np.array([0.66, 0.68, 0.70]) * (tone[0][column] * (1 + 0.10 * fibre_warp))[..., None]
    light = np.array([0.84, 0.82, 0.76]) * (tone[1][row] * (1 + 0.07 * fibre_weft))[..., None]
    colour = blend(light, dark, top)
    thickness = np.maximum(warp, weft)
    colour *= (0.6 + 0.4 * smoothstep(thickness, 0.0, 0.9) - 0.25 * gap)[..., None]
    colour *= (1 + 0.03 * smooth_noise(rng, shape, 90))[..., None]
    height = 0.9 * blur(thickness, 0.8) + 0.10 * fibre_weft + 0.6 * smooth_noise(rng, shape, 70)
    return Surface(colour, height, np.zeros(shape), np.ones(shape, bool))


def leather(rng: Rng, shape: tuple[int, int], flaw: Flaw | None = None) -> Surface:
    """Pebbled tan leather: domes between creases, pores, slowly varying dye. `fold`: a crease pressed into
    it."""
    x, y = pose_grid(rng, shape, 0, 180, 0.03)
    x, y = x + 2.5 * smooth_noise(rng, shape, 22), y + 2.5 * smooth_noise(rng, shape, 22)
    pitch, reach = 7.0, int(max(shape) / 7.0 * 0.8)
    grid = (
        np.stack(np.meshgrid(np.arange(-reach, reach), np.arange(-reach, reach)), -1).reshape(-1, 2) * pitch
    )
    seeds = cKDTree(grid + rng.uniform(-0.42, 0.42, grid.shape) * pitch)
    near, _ = seeds.query(np.stack([x, y], -1).reshape(-1, 2), k=2)
    gap = (near[:, 1] - near[:, 0]).reshape(shape).astype(np.float32)
    dome = smoothstep(gap, 0.0, 3.2)
    dye = 1 + 0.025 * fractal_noise(rng, shape, 110, 3) + 0.025 * smooth_noise(rng, shape, 3)
    colour = np.array([0.82, 0.60, 0.41]) * (dye * (0.86 + 0.14 * dome))[..., None]
    height = 0.6 * dome + 0.7 * smooth_noise(rng, shape, 40) + 0.12 * smooth_noise(rng, shape, 2)
    if flaw is not None and flaw.kind == "fold":
        angle, centre = flaw.rng.uniform(0, np.pi), flaw.rng.uniform(-0.28, 0.28, 2) * shape[::-1]
        rows, cols = np.mgrid[: shape[0], : shape[1]]
        cols, rows = cols - shape[1] / 2 - centre[0], rows - shape[0] / 2 - centre[1]
        along = cols * np.cos(angle) + rows * np.sin(angle)
        across = rows * np.cos(angle) - cols * np.sin(angle) + 0.0025 * along**2
        across = across + 1.5 * smooth_noise(flaw.rng, shape, 15)
        ends = smoothstep(np.abs(along), 62 * flaw.size, 30 * flaw.size)
        groove = np.exp(-((across / 2.6) ** 2)) * ends
        groove = groove * flaw.rng.uniform(0.6, 1)
        height = height - 5.0 * groove + 2.5 * np.exp(-(((np.abs(across) - 6) / 3.5) ** 2)) * ends
        colour = colour * (1 - 0.5 * groove)[..., None]
    return Surface(colour, height, 0.10 + 0.06 * dome, np.ones(shape, bool))


def gear(rng: Rng, shape: tuple[int, int], flaw: Flaw | None = None) -> Surface:
    """A lathe-turned steel gear on a pale mat: teeth, rim, web with six holes, hub with bore and keyway.

    `broken_tooth`: one tooth, or three in a row, snapped off; the fracture is dark.
    """
    x, y = pose_grid(rng, shape, 0.6, 0.3, 0.002)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    teeth, outer = 18, 126.0
    wave = np.cos(teeth * angle)
    tip, fracture = outer + 11.0 * np.tanh(2.2 * wave), np.zeros(shape)
    if flaw is not None and flaw.kind == "broken_tooth":
        tooth = 2 * np.pi * flaw.rng.integers(teeth) / teeth
        away = np.abs((angle - tooth + np.pi) % (2 * np.pi) - np.pi)
        left = outer - 11 + flaw.rng.uniform(0, 5) / flaw.size + 2.5 * smooth_noise(flaw.rng, shape, 6)
        lost = away < np.pi / teeth * (1 if flaw.size < 1.3 else 3)
        fracture = lost * (tip > left) * smoothstep(left - radius, 9.0, 5.0)
        tip = np.where(lost, np.minimum(tip, left), tip)
    body = tip - radius
    body = np.minimum(body, radius - 30)
    body = np.minimum(body, np.maximum(np.abs(x) - 6.5, np.abs(y + 34) - 9))
    for hole in range(6):
        turn = np.pi / 3 * (hole + 0.5)
        body = np.minimum(body, np.hypot(x - 80 * np.cos(turn), y - 80 * np.sin(turn)) - 11.5)
    inside = smoothstep(body, -0.8, 0.8)
    lathe = np.interp(radius.ravel(), np.arange(200) * 0.8, rng.standard_normal(200)).reshape(shape)
    steps = smoothstep(radius, 51, 48) + smoothstep(radius, 102, 105)
    height = 7 * np.clip(body / 3.5, 0, 1) + 2.5 * steps + 0.06 * inside * lathe
    height = height + 0.03 * smooth_noise(rng, shape, 1.5)
    glare = np.abs(np.cos(angle - np.radians(rng.normal(52, 2)))) ** 6
    steel = (
        0.66 + 0.14 * glare + 0.010 * lathe + 0.012 * fractal_noise(rng, shape, 40, 3) - 0.05 * (1 - steps)
    )
    steel = steel * (1 - 0.62 * fracture)
    mottle = 1 + 0.012 * smooth_noise(rng, shape, 2) + 0.02 * smooth_noise(rng, shape, 70)
    mat = np.array([0.80, 0.81, 0.82]) * mottle[..., None]
    shadow = blur(np.roll(inside, (7, 7), (0, 1)), 5)
    colour = blend(
        mat * (1 - 0.45 * shadow)[..., None], steel[..., None] * np.array([0.98, 1.0, 1.03]), inside
    )
    region = cv2.erode((body > 0).astype(np.uint8), np.ones((9, 9))) > 0
    return Surface(colour, height, 0.16 * inside, region)
