"""The demo's products, rendered without a defect, and the camera that photographs them. `rng` decides what
varies between pieces."""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial import cKDTree

Rng = np.random.Generator
Size = tuple[int, int]  # height and width


@dataclass(frozen=True)
class Surface:
    """A product before it is photographed, on a canvas of (H, W) pixels.

    colour: (H,W,3) RGB reflectance in 0..1. height: (H,W) relief in pixels, up is positive.
    gloss: (H,W) strength of the highlight, 0 is matt.
    """

    colour: np.ndarray
    height: np.ndarray
    gloss: np.ndarray


def noise(rng: Rng, shape: Size, cell: float | tuple[float, float], octaves: int = 1) -> np.ndarray:
    """Smooth noise (H,W) of unit variance with features of about `cell` pixels (one number, or down and
    across); each further octave is half as large and 0.6 as strong."""
    total = np.zeros(shape)
    for octave in range(octaves):
        size = np.maximum(np.broadcast_to(cell, 2) / 2**octave, 1)
        coarse = rng.standard_normal((np.array(shape) / size).astype(int) + 2)
        total += 0.6**octave * cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return (total - total.mean()) / total.std()


def smoothstep(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, a smooth S between (low > high inverts it)."""
    ramp = np.clip((value - low) / (high - low), 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def blend(below: np.ndarray, above: np.ndarray | tuple, alpha: np.ndarray) -> np.ndarray:
    """`above` (an image (H,W,3), or one colour) laid over `below` (H,W,3) with opacity `alpha` (H,W)."""
    return below + (np.asarray(above) - below) * alpha[..., None]


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of (H,W) or (H,W,3) with standard deviation `sigma` pixels."""
    return cv2.GaussianBlur(np.asarray(image, np.float32), (0, 0), sigma)


def pose_grid(rng: Rng, shape: Size, shift: float, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates x, y (H,W) from the centre: moved by up to `shift` px, rotated by up to `degrees`."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    x, y = x - shape[1] / 2 - rng.uniform(-shift, shift), y - shape[0] / 2 - rng.uniform(-shift, shift)
    angle = np.radians(rng.uniform(-degrees, degrees))
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def fabric(rng: Rng, shape: Size) -> Surface:
    """A plain weave of grey warp and cream weft yarns."""
    pitch = 7.0
    x, y = pose_grid(rng, shape, pitch, 1.5)
    x, y = x + noise(rng, shape, 60), y + noise(rng, shape, 60)
    column, row = np.floor(x / pitch).astype(int), np.floor(y / pitch).astype(int)
    across, down = x / pitch - column - 0.5, y / pitch - row - 0.5
    warp_tone, weft_tone = rng.normal(1, 0.03, (2, max(shape)))
    over = np.where((column + row) % 2 == 0, 1, -1)
    warp = np.sqrt(1 - (across / 0.51) ** 2) * (1 + 0.8 * over * np.cos(np.pi * down))
    weft = np.sqrt(1 - (down / 0.51) ** 2) * (1 - 0.8 * over * np.cos(np.pi * across))
    fibre = noise(rng, shape, (1.3, 6))
    thread = warp_tone[column] * (1 + 0.10 * noise(rng, shape, (6, 1.3)))
    dark = np.array([0.66, 0.68, 0.70]) * thread[..., None]
    light = np.array([0.84, 0.82, 0.76]) * (weft_tone[row] * (1 + 0.07 * fibre))[..., None]
    thickness = np.maximum(warp, weft)
    shade = (0.6 + 0.4 * smoothstep(thickness, 0, 0.9)) * (1 + 0.03 * noise(rng, shape, 90))
    colour = blend(light, dark, smoothstep(warp - weft, -0.15, 0.15)) * shade[..., None]
    height = 0.9 * blur(thickness, 0.8) + 0.1 * fibre + 0.6 * noise(rng, shape, 70)
    return Surface(colour, height, np.zeros(shape))


def leather(rng: Rng, shape: Size) -> Surface:
    """Pebbled tan leather: domes between creases, pores, slowly varying dye."""
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
    return Surface(colour, height, 0.10 + 0.06 * dome)


def gear(rng: Rng, shape: Size) -> Surface:
    """A machined steel gear on a pale mat: teeth, rim, web with six holes, hub with bore and keyway."""
    x, y = pose_grid(rng, shape, 0.6, 0.3)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    tip = 126 + 11 * np.tanh(2.2 * np.cos(18 * angle))
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
    steel = np.array([0.98, 1, 1.03]) * steel[..., None]
    shadow = 1 - 0.45 * blur(np.roll(inside, (7, 7), (0, 1)), 5)
    mottle = 1 + 0.012 * noise(rng, shape, 2) + 0.02 * noise(rng, shape, 70)
    mat = np.array([0.80, 0.81, 0.82]) * (mottle * shadow)[..., None]
    return Surface(blend(mat, steel, inside), height, 0.16 * inside)


def expose(surface: Surface, rng: Rng) -> np.ndarray:
    """The noiseless photograph (H,W,3) in 0..1: relief shading, highlight, light that falls off, lens. `rng`
    varies the light's position, brightness and tint, as between two photographs of one line."""
    azimuth, elevation = np.radians(rng.normal((235, 52), (5, 1.5)))
    brightness, tint, slope = rng.normal(1, 0.015), rng.normal(1, 0.006, 3), rng.normal((-0.10, -0.07), 0.015)
    height = surface.height.astype(np.float32)
    across, down = cv2.Sobel(height, -1, 1, 0) / 8, cv2.Sobel(height, -1, 0, 1) / 8
    normals = np.stack([-across, -down, np.ones_like(height)], -1)
    normals /= np.sqrt(across**2 + down**2 + 1)[..., None]
    flat = np.cos(elevation)
    light = np.array([np.cos(azimuth) * flat, np.sin(azimuth) * flat, np.sin(elevation)])
    half = (light + (0, 0, 1)) / np.linalg.norm(light + (0, 0, 1))
    diffuse, shine = (normals @ light).clip(0) / light[2], (normals @ half).clip(0) ** 40
    y, x = np.mgrid[-1 : 1 : height.shape[0] * 1j, -1 : 1 : height.shape[1] * 1j]
    field = brightness * (1 + slope[0] * x + slope[1] * y) * (1 - 0.07 * (x**2 + y**2))
    lit = surface.colour * (0.35 + 0.65 * diffuse)[..., None] + (surface.gloss * shine)[..., None]
    return blur(lit * field[..., None] * tint, 0.8).clip(0, 1)


def develop(exposure: np.ndarray, rng: Rng) -> np.ndarray:
    """The photograph (H,W,3) uint8 RGB with the sensor's noise, more where it is bright."""
    grain = rng.standard_normal(exposure.shape[:2] + (1,)) + 0.5 * rng.standard_normal(exposure.shape)
    noisy = exposure + grain * (0.006 + 0.008 * np.sqrt(exposure))
    return np.round(noisy.clip(0, 1) * 255).astype(np.uint8)
