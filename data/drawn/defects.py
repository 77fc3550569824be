"""Defects that can befall any surface: each changes colour, relief and gloss where it sits, and nothing
else."""

import numpy as np

from data.drawn.surfaces import (
    Rng,
    Surface,
    blend,
    blob,
    blur,
    curve,
    fractal_noise,
    smooth_noise,
    smoothstep,
    stroke,
)


def place(surface: Surface, rng: Rng) -> np.ndarray:
    """A point (x, y) inside the region where defects may sit, away from the picture's border."""
    rows, cols = np.nonzero(surface.region)
    height, width = surface.shape
    inner = (rows > 0.08 * height) & (rows < 0.92 * height) & (cols > 0.08 * width) & (cols < 0.92 * width)
    pick = rng.integers(inner.sum())
    return np.array([cols[inner][pick], rows[inner][pick]], float)


def centred(points: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """The same line (n,2), moved so that its middle point is at `middle`."""
    return points - points[len(points) // 2] + middle


def scratch(surface: Surface, rng: Rng, size: float) -> Surface:
    """One to three fine, nearly straight score marks with a bright burr; their depth varies along the way."""
    middle, colour, height, gloss = place(surface, rng), surface.colour, surface.height, surface.gloss
    first = curve(rng, middle, rng.uniform(45, 65) * size, 0.18)
    for index in range(int(rng.integers(1, 3))):
        line = centred(first, middle) + index * rng.uniform(3, 6, 2)
        mark = stroke(surface.shape, line, rng.uniform(2.8, 3.8) * size**0.5) * surface.region
        mark *= 0.7 + 0.3 * np.clip(smooth_noise(rng, surface.shape, 12), -1, 1)
        colour = blend(colour, (0.75, 0.74, 0.70) if colour.mean() < 0.4 else (0.08, 0.075, 0.07), 0.9 * mark)
        height, gloss = height - 1.5 * mark, gloss + 0.1 * mark
    return Surface(colour, height, gloss, surface.region)


def crack(surface: Surface, rng: Rng, size: float) -> Surface:
    """A dark jagged crack that may fork once, thin at its ends."""
    start = place(surface, rng)
    heading, mark = rng.uniform(0, 2 * np.pi), np.zeros(surface.shape, np.float32)
    for branch in range(2 if size > 0.8 else 1):
        points, angle = [start], heading + branch * rng.choice((-1, 1)) * rng.uniform(0.5, 0.9)
        for _ in range(int(12 * size) + 3):
            angle += rng.normal(0, 0.45)
            angle += 0.25 * np.sin(heading - angle)
            points.append(points[-1] + rng.uniform(3, 6) * np.array([np.cos(angle), np.sin(angle)]))
        half = len(points) // 2 + 1
        mark = np.maximum(mark, stroke(surface.shape, points[:half], 2.6, 0.5))
        mark = np.maximum(mark, stroke(surface.shape, points[half - 1 :], 1.6, 0.5))
        start = points[half - 1]
    mark = mark * surface.region
    colour = surface.colour * (1 - 0.8 * mark)[..., None]
    return Surface(colour, surface.height - 2.5 * mark, surface.gloss * (1 - mark), surface.region)


def stain(
    surface: Surface, rng: Rng, size: float, dye: tuple = (0.36, 0.24, 0.12), strength: float = 0.7
) -> Surface:
    """Something spilt and soaked in: an irregular patch darker at its rim, droplets around it."""
    middle, radius = place(surface, rng), rng.uniform(14, 19) * size
    patch = blob(rng, surface.shape, middle, radius, 0.5, 2.0)
    for _ in range(int(rng.integers(1, 4))):
        away = rng.uniform(1.2, 1.8) * radius * np.array([np.cos(turn := rng.uniform(0, 6.28)), np.sin(turn)])
        patch = np.maximum(
            patch, blob(rng, surface.shape, middle + away, rng.uniform(2, 4) * size**0.5, 0.2, 1.2)
        )
    patch = patch * surface.region
    rim = np.clip(patch - blur(patch, 4), 0, 1)
    density = np.clip(patch * (0.8 + 0.12 * fractal_noise(rng, surface.shape, 12, 2)) + 0.8 * rim, 0, 1)
    tinted = surface.colour * np.asarray(dye, np.float32) / max(dye)
    colour = blend(
        surface.colour, 0.45 * tinted + 0.55 * np.asarray(dye), strength * rng.uniform(0.7, 1) * density
    )
    return Surface(colour, surface.height, surface.gloss * (1 - 0.5 * patch), surface.region)


def rust(surface: Surface, rng: Rng, size: float) -> Surface:
    """Corrosion: a cluster of grainy orange-brown spots, rough and without shine."""
    middle, patch = place(surface, rng), np.zeros(surface.shape, np.float32)
    for _ in range(int(rng.integers(3, 6))):
        centre = middle + rng.normal(0, 7 * size, 2)
        patch = np.maximum(patch, blob(rng, surface.shape, centre, rng.uniform(5, 10) * size, 0.9, 2.0))
    patch = patch * surface.region * smoothstep(fractal_noise(rng, surface.shape, 5, 2), -1.6, 0.2)
    tone = np.array([0.40, 0.20, 0.085]) * (1 + 0.25 * smooth_noise(rng, surface.shape, 3))[..., None]
    colour = blend(surface.colour, np.clip(tone, 0, 1), 0.85 * patch)
    height = surface.height + 0.5 * patch * smooth_noise(rng, surface.shape, 2)
    return Surface(colour, height, surface.gloss * (1 - 0.9 * patch), surface.region)


def hole(surface: Surface, rng: Rng, size: float) -> Surface:
    """Pierced through: a ragged opening into the dark with a raised, frayed lip."""
    middle, radius = place(surface, rng), rng.uniform(7, 10) * size
    opening = blob(rng, surface.shape, middle, radius, 0.6, 1.2)
    lip = np.clip(blur(opening, 2.5) * 1.8, 0, 1) * (1 - opening)
    fray = smoothstep(smooth_noise(rng, surface.shape, 1.7), 0.0, 1.2) * lip
    colour = blend(surface.colour, surface.colour * 0.35 + 0.42, 0.8 * fray)
    colour = blend(colour, (0.035, 0.035, 0.04), 0.95 * opening)
    return Surface(
        colour, surface.height - 4 * opening + 1.5 * lip, surface.gloss * (1 - opening), surface.region
    )


def dent(surface: Surface, rng: Rng, size: float) -> Surface:
    """Pressed in: a shallow bowl with a raised edge; the colour stays, the light on it does not."""
    middle, radius = place(surface, rng), rng.uniform(10, 14) * size
    bowl = blur(blob(rng, surface.shape, middle, radius, 0.25, 2.5), 2.5 * size**0.5)
    depth = 10.0 * size**0.7
    edge = np.clip(blur(bowl, 4) - bowl, 0, 1)
    height = surface.height * (1 - 0.5 * bowl) - depth * bowl + 4 * edge
    return Surface(
        surface.colour * (1 - 0.30 * bowl)[..., None], height, surface.gloss + 0.12 * bowl, surface.region
    )


def hair(
    surface: Surface, rng: Rng, size: float, tone: tuple = (0.80, 0.77, 0.70), width: float = 2.0
) -> Surface:
    """A hair or a loose thread lying on top, curled, with its shadow."""
    middle = place(surface, rng)
    line = centred(curve(rng, middle, rng.uniform(75, 105) * size, 1.1), middle)
    thread = stroke(surface.shape, line, width)
    shadow = stroke(surface.shape, line + (1.8, 1.8), width, 1.0) * (1 - thread)
    ply = 1 + 0.12 * smooth_noise(rng, surface.shape, 2)
    colour = surface.colour * (1 - 0.55 * shadow)[..., None]
    colour = blend(colour, np.asarray(tone) * ply[..., None], 0.92 * thread)
    return Surface(colour, surface.height + 1.2 * thread, surface.gloss, surface.region)


def smear(surface: Surface, rng: Rng, size: float) -> Surface:
    """Dried glue: a milky, glossy film in streaks."""
    middle = place(surface, rng)
    line = centred(curve(rng, middle, rng.uniform(30, 45) * size, 0.7), middle)
    film = blur(stroke(surface.shape, line, rng.uniform(7, 11) * size**0.5, 1.5), 1.0)
    film = film * smoothstep(fractal_noise(rng, surface.shape, 9, 2), -2.2, 0.0) * surface.region
    colour = blend(surface.colour, (0.93, 0.93, 0.90), rng.uniform(0.5, 0.8) * film)
    return Surface(
        colour,
        blur(surface.height, 1.2) * film + surface.height * (1 - film) + film,
        surface.gloss + 0.25 * film,
        surface.region,
    )


def bridge(surface: Surface, rng: Rng, size: float) -> Surface:
    """Spilt solder: bright lumps run together where none should be."""
    middle, lump = place(surface, rng), np.zeros(surface.shape, np.float32)
    for _ in range(int(rng.integers(2, 5))):
        centre = middle + rng.normal(0, 4.5 * size, 2)
        lump = np.maximum(lump, blob(rng, surface.shape, centre, rng.uniform(3.5, 6) * size, 0.3, 1.2))
    lump = lump * surface.region
    colour = blend(surface.colour, (0.66, 0.67, 0.68), 0.92 * lump)
    height = surface.height * (1 - lump) + 5 * blur(lump, 1.8)
    return Surface(colour, height, surface.gloss + 0.4 * lump, surface.region)


def burn(surface: Surface, rng: Rng, size: float) -> Surface:
    """Scorched: brown at the edge, nearly black in the middle, dull."""
    middle, radius = place(surface, rng), rng.uniform(11, 16) * size
    halo = blur(blob(rng, surface.shape, middle, radius, 0.5, 3.0), 3) * surface.region
    core = blur(blob(rng, surface.shape, middle, radius * 0.55, 0.7, 3.0), 2) * surface.region
    colour = blend(surface.colour, (0.33, 0.21, 0.10), 0.8 * halo)
    colour = blend(colour, (0.05, 0.043, 0.04), 0.9 * core)
    return Surface(colour, surface.height, surface.gloss * (1 - halo), surface.region)
