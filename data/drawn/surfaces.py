"""What the drawn demo products share: smooth noise, strokes, blobs, and the camera that photographs a
surface."""

from dataclasses import dataclass

import cv2
import numpy as np

Rng = np.random.Generator


@dataclass
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


def smooth_noise(rng: Rng, shape: tuple[int, int], cell: float | tuple[float, float]) -> np.ndarray:
    """Smooth noise (H,W) of unit variance with features of about `cell` pixels (one number, or down and
    across)."""
    down, across = cell if isinstance(cell, tuple) else (cell, cell)
    grid = (int(shape[0] / down) + 3, int(shape[1] / across) + 3)
    coarse = rng.standard_normal(grid).astype(np.float32)
    fine = cv2.resize(
        coarse, (int(grid[1] * across) + 1, int(grid[0] * down) + 1), interpolation=cv2.INTER_CUBIC
    )
    top, left = int(down), int(across)
    part = fine[top : top + shape[0], left : left + shape[1]]
    return (part - part.mean()) / (part.std() + 1e-6)


def fractal_noise(rng: Rng, shape: tuple[int, int], cell: float, octaves: int = 4) -> np.ndarray:
    """Sum of `octaves` smooth noises (H,W), each half as large and 0.6 as strong as the one before; unit
    variance."""
    total = sum(
        smooth_noise(rng, shape, max(cell / 2**octave, 1.0)) * 0.6**octave for octave in range(octaves)
    )
    return total / total.std()


def smoothstep(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, a smooth S between (low > high turns it round)."""
    ramp = np.clip((value - low) / (high - low), 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def blend(below: np.ndarray, above: np.ndarray | tuple, alpha: np.ndarray) -> np.ndarray:
    """`above` (an image (H,W,3), or one colour) laid over `below` (H,W,3) with opacity `alpha` (H,W)."""
    return below + (np.asarray(above, np.float32) - below) * alpha[..., None]


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of (H,W) or (H,W,3) with standard deviation `sigma` pixels."""
    return cv2.GaussianBlur(np.asarray(image, np.float32), (0, 0), sigma)


def stroke(shape: tuple[int, int], points: np.ndarray, width: float, softness: float = 0.6) -> np.ndarray:
    """Opacity (H,W) in 0..1 of a line `width` pixels wide through `points` (n,2) of x, y; `softness` blurs
    its edge."""
    scale = 4
    canvas = np.zeros((shape[0] * scale, shape[1] * scale), np.uint8)
    fixed = np.round(np.asarray(points) * scale * 16).astype(np.int32).reshape(-1, 1, 2)
    cv2.polylines(canvas, [fixed], False, 255, max(1, round(width * scale)), cv2.LINE_AA, 4)
    small = cv2.resize(canvas, shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return np.clip(blur(small, softness), 0, 1)


def curve(rng: Rng, start: np.ndarray, length: float, bend: float, steps: int = 40) -> np.ndarray:
    """Points (steps,2) of a smooth wandering line of `length` pixels from `start`; `bend`: its sway,
    radians."""
    angle = rng.uniform(0, 2 * np.pi) + bend * smooth_noise(rng, (1, steps), (1.0, steps / 3))[0]
    step = length / steps
    return np.asarray(start) + np.cumsum(np.stack([np.cos(angle), np.sin(angle)], 1) * step, 0)


def blob(
    rng: Rng,
    shape: tuple[int, int],
    centre: np.ndarray,
    radius: float,
    roughness: float = 0.35,
    softness: float = 1.5,
) -> np.ndarray:
    """Opacity (H,W) in 0..1 of an irregular spot around `centre` (x, y) of about `radius` pixels."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    squeeze, turn = rng.uniform(0.75, 1.3), rng.uniform(0, np.pi)
    along = (x - centre[0]) * np.cos(turn) + (y - centre[1]) * np.sin(turn)
    across = (y - centre[1]) * np.cos(turn) - (x - centre[0]) * np.sin(turn)
    distance = np.hypot(along * squeeze, across / squeeze)
    wobble = fractal_noise(rng, shape, max(radius, 4.0), 3) * roughness * radius * 0.5
    return smoothstep(radius - distance + wobble, -softness, softness)


@dataclass(frozen=True)
class Camera:
    """One exposure: the light's direction, brightness, tint and fall-off over the picture, the lens and the
    sensor."""

    azimuth: float
    elevation: float
    brightness: float
    tint: np.ndarray
    slope: np.ndarray
    sharpness: float
    noise_seed: int

    @classmethod
    def draw(cls, rng: Rng) -> "Camera":
        """A camera setting like the last one, but not quite: what differs between two photographs of one
        line."""
        return cls(
            azimuth=np.radians(rng.normal(235, 5)),
            elevation=np.radians(rng.normal(52, 1.5)),
            brightness=rng.normal(1, 0.015),
            tint=rng.normal(1, 0.006, 3).astype(np.float32),
            slope=rng.normal((-0.10, -0.07), 0.015),
            sharpness=rng.uniform(0.75, 0.8),
            noise_seed=int(rng.integers(2**31)),
        )

    def expose(self, surface: Surface) -> np.ndarray:
        """The noiseless picture (H,W,3) of `surface`, RGB in 0..1: relief shading, highlight, light fall-off,
        lens."""
        height, (rows, cols) = surface.height.astype(np.float32), surface.shape
        across = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3) / 8
        down = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3) / 8
        norm = np.sqrt(across**2 + down**2 + 1)
        light = np.array(
            [
                np.cos(self.azimuth) * np.cos(self.elevation),
                np.sin(self.azimuth) * np.cos(self.elevation),
                np.sin(self.elevation),
            ]
        )
        diffuse = np.clip((-across * light[0] - down * light[1] + light[2]) / norm, 0, None) / light[2]
        half = light + (0, 0, 1)
        half /= np.linalg.norm(half)
        shine = np.clip((-across * half[0] - down * half[1] + half[2]) / norm, 0, 1) ** 40
        y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : cols * 1j]
        field = self.brightness * (1 + self.slope[0] * x + self.slope[1] * y) * (1 - 0.07 * (x**2 + y**2))
        lit = surface.colour * (0.35 + 0.65 * diffuse)[..., None] + (surface.gloss * shine)[..., None]
        return np.clip(blur(lit * field[..., None] * self.tint, self.sharpness), 0, 1).astype(np.float32)

    def develop(self, exposure: np.ndarray) -> np.ndarray:
        """The picture (H,W,3) uint8 RGB with this exposure's sensor noise (more where it is bright)."""
        rng = np.random.default_rng(self.noise_seed)
        grain = rng.standard_normal(exposure.shape[:2] + (1,)) + 0.5 * rng.standard_normal(exposure.shape)
        noisy = exposure + grain * (0.006 + 0.008 * np.sqrt(exposure))
        return np.round(np.clip(noisy, 0, 1) * 255).astype(np.uint8)
