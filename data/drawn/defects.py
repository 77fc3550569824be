"""Defects of any surface: each is a shape, painted in a colour, raised or pressed in."""

from dataclasses import dataclass

import numpy as np

from data.drawn.surfaces import Rng, Surface, blob, blur, noise, smoothstep, stroke


@dataclass(frozen=True)
class Spot:
    """Up to `count` irregular spots of about `radius` pixels in the colour `tone`, the others about `apart`
    pixels from the first.

    grain: how much of it crumbles away. height: of its middle, in pixels. edge: of what is pushed up around
    it. dye: what of the surface's own colour shines through.
    """

    tone: tuple[float, float, float]
    radius: float
    count: int = 1
    apart: float = 0.0
    rough: float = 0.3
    grain: float = 0.0
    opacity: float = 0.9
    height: float = 0.0
    edge: float = 0.0
    dye: float = 0.0
    gloss: float = 0.0

    def __call__(self, surface: Surface, rng: Rng, size: float) -> Surface:
        shape, middle = surface.shape, place(surface, rng)
        spot, away = np.zeros(shape), np.zeros(2)
        for number in range(int(rng.integers(1 + self.count // 2, self.count + 1))):
            radius = rng.uniform(0.8, 1.2) * self.radius * size * (0.6 if number else 1)
            spot = np.maximum(spot, blob(rng, shape, middle + away, radius, self.rough))
            away = rng.normal(0, self.apart * size, 2)
        if self.grain:
            spot = spot * smoothstep(noise(rng, shape, 5, 2), -2, self.grain)
        if self.edge:
            rim = np.clip(2 * blur(spot, 3), 0, 1) * (1 - spot)
            surface = surface.covered(rim, surface.colour * 0.7 + 0.2, 0.7, self.edge)
        tone = np.array(self.tone) * (1 + 0.15 * noise(rng, shape, 3))[..., None]
        tone = tone * (1 - self.dye) + self.dye * surface.colour * np.array(self.tone) / max(self.tone)
        return surface.covered(spot, tone.clip(0, 1), self.opacity, self.height, self.gloss)


@dataclass(frozen=True)
class Line:
    """A line of about `length` x `width` pixels in the colour `tone`, that sways by `bend` radians over its
    length and by `jagged` at each step; `shadow`: it lies on top and throws one."""

    tone: tuple[float, float, float]
    length: float
    width: float
    bend: float
    jagged: float = 0.0
    height: float = 0.0
    opacity: float = 0.9
    gloss: float = 0.0
    shadow: bool = False

    def __call__(self, surface: Surface, rng: Rng, size: float) -> Surface:
        shape, length, width = surface.shape, rng.uniform(0.8, 1.2) * self.length * size, self.width
        steps = max(2, int(length / 4))
        angles = rng.uniform(0, 2 * np.pi) + self.bend * noise(rng, (1, steps), (1, steps / 3))[0]
        angles += rng.normal(0, self.jagged, steps) if self.jagged else 0
        line = np.cumsum(np.stack([np.cos(angles), np.sin(angles)], 1) * length / steps, 0)
        line += place(surface, rng) - line[steps // 2]
        mark = stroke(shape, line, width)
        if self.shadow:
            shade = stroke(shape, line + 1.8, width, 1.0) * (1 - mark)
            surface = surface.covered(shade, (0, 0, 0), 0.55, 0)
        tone = np.array(self.tone) * (1 + 0.1 * noise(rng, shape, 3))[..., None]
        mark = mark * (0.8 + 0.2 * noise(rng, shape, 9).clip(-1, 1))
        return surface.covered(mark, tone, self.opacity, self.height, self.gloss)


def place(surface: Surface, rng: Rng) -> np.ndarray:
    """A point (x, y) inside the region where defects may sit, away from the picture's border."""
    inner = np.zeros(surface.shape, bool)
    top, left = (side // 12 for side in surface.shape)
    inner[top:-top, left:-left] = surface.region[top:-top, left:-left]
    return rng.choice(np.argwhere(inner))[::-1].astype(float)


def dent(surface: Surface, rng: Rng, size: float) -> Surface:
    """Pressed in: a bowl with a raised edge; what changes is the light on it."""
    radius = rng.uniform(10, 14) * size
    bowl = blur(blob(rng, surface.shape, place(surface, rng), radius, 0.15), 2.5 * size**0.5)
    edge = np.clip(blur(bowl, 4) - bowl, 0, 1)
    pressed = surface.covered(bowl, surface.colour * 0.7, 1, -10 * size**0.7, 0.25)
    return pressed.covered(edge, surface.colour, 0, 4, 0.16)
