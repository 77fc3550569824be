"""What the drawn products share: noise, brushes, and the camera that photographs a surface."""

from dataclasses import dataclass

import cv2
import numpy as np

Rng = np.random.Generator


@dataclass(frozen=True)
class Surface:
    """A product before it is photographed, on a canvas of (H, W) pixels.

    colour: (H,W,3) RGB reflectance in 0..1. height: (H,W) relief in pixels, up is positive.
    gloss: (H,W) strength of the highlight, 0 is matt. region: (H,W) bool, where a defect may sit.
    """

    colour: np.ndarray
    height: np.ndarray
    gloss: np.ndarray
    region: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return self.height.shape

    def covered(
        self, mask: np.ndarray, tone: np.ndarray | tuple, opacity: float, height: float, gloss: float = 0.0
    ) -> "Surface":
        """Where `mask` (H,W) in 0..1 covers it: towards the colour `tone`, higher by `height` pixels, with
        this gloss."""
        mask = mask * self.region
        colour = blend(self.colour, tone, opacity * mask)
        shine = self.gloss + (gloss - self.gloss) * mask
        return Surface(colour, self.height + height * mask, shine, self.region)


def noise(
    rng: Rng, shape: tuple[int, int], cell: float | tuple[float, float], octaves: int = 1
) -> np.ndarray:
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


def stroke(shape: tuple[int, int], points: np.ndarray, width: float, softness: float = 0.6) -> np.ndarray:
    """Opacity (H,W) in 0..1 of a line `width` pixels wide through `points` (n,2) of x, y; `softness` blurs
    its edge."""
    canvas = np.zeros((shape[0] * 4, shape[1] * 4), np.uint8)
    cv2.polylines(canvas, [np.round(points * 64).astype(np.int32)], False, 255, round(width * 4), shift=4)
    return blur(cv2.resize(canvas, shape[::-1], interpolation=cv2.INTER_AREA) / 255, softness)


def blob(rng: Rng, shape: tuple[int, int], centre: np.ndarray, radius: float, rough: float) -> np.ndarray:
    """Opacity (H,W) in 0..1 of an irregular spot around `centre` (x, y) of about `radius` pixels; `rough`:
    how much its rim wanders, as a share of the radius."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    distance = np.hypot(x - centre[0], y - centre[1])
    return smoothstep(radius - distance + rough * radius * noise(rng, shape, max(radius, 4), 3), -1.5, 1.5)


def expose(surface: Surface, rng: Rng) -> np.ndarray:
    """The noiseless photograph (H,W,3) in 0..1: relief shading, highlight, light that falls off, lens. `rng`
    varies the light's position, brightness and tint, as between two photographs of one line."""
    azimuth, elevation = np.radians(rng.normal((235, 52), (5, 1.5)))
    brightness, tint, slope = rng.normal(1, 0.015), rng.normal(1, 0.006, 3), rng.normal((-0.10, -0.07), 0.015)
    height = surface.height.astype(np.float32)
    across, down = cv2.Sobel(height, -1, 1, 0) / 8, cv2.Sobel(height, -1, 0, 1) / 8
    normals = (
        np.stack([-across, -down, np.ones_like(height)], -1) / np.sqrt(across**2 + down**2 + 1)[..., None]
    )
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
