"""The demo's circuit board: one layout of tracks and components, drawn large and then reduced."""

from dataclasses import dataclass

import cv2
import numpy as np

from data.drawn.products import Flaw
from data.drawn.surfaces import Rng, Surface, blend, blur, noise, smoothstep

SIZE = (268, 348)  # height and width of the board in pixels of the picture
SCALE = 3  # the board is drawn this many times larger, then reduced
COPPER, SOLDER, GOLD = (0.115, 0.345, 0.19), (0.52, 0.53, 0.53), (0.56, 0.46, 0.24)


@dataclass(frozen=True)
class Part:
    """A kind of component. half: half its length and width in pixels. body, top: colours; the top is smaller
    by `rim` on each side. pins: of one side, on two sides or all four; 0 for two wide pads."""

    half: tuple[float, float]
    body: tuple[float, float, float]
    top: tuple[float, float, float]
    rim: tuple[float, float]
    height: float
    gloss: float = 0.1
    pins: int = 0
    all_sides: bool = False
    round: bool = False


PARTS = {
    "chip": Part((32, 32), (0.085, 0.085, 0.09), (0.12, 0.12, 0.125), (12, 24), 5, pins=14, all_sides=True),
    "small_chip": Part((17, 21), (0.085, 0.085, 0.09), (0.12, 0.12, 0.125), (6, 15), 5, pins=8),
    "can": Part((19, 19), (0.07, 0.07, 0.08), (0.62, 0.63, 0.64), (2, 2), 8, 0.22, round=True),
    "inductor": Part((17, 17), (0.20, 0.195, 0.19), (0.29, 0.285, 0.28), (4, 4), 6, round=True),
    "crystal": Part((22, 9), (0.66, 0.67, 0.68), (0.72, 0.73, 0.73), (3, 3), 5, 0.3),
    "led": Part((8, 5), (0.74, 0.74, 0.73), (0.86, 0.83, 0.66), (3, 0), 2.4, 0.2),
    "resistor": Part((10, 5.5), (0.74, 0.74, 0.73), (0.075, 0.075, 0.08), (4, 0), 2.4, 0.2),
    "capacitor": Part((9, 5.5), (0.74, 0.74, 0.73), (0.52, 0.38, 0.25), (4, 0), 2.4, 0.2),
}
SMALL = ("led", "resistor", "capacitor")
# kind, rotation in quarters of a circle, centres x and y
LAYOUT = (
    ("chip", 0, [(130, 120)]),
    ("small_chip", 0, [(250, 70)]),
    ("small_chip", 1, [(262, 190)]),
    ("can", 0, [(58, 62), (58, 116)]),
    ("inductor", 0, [(320, 132)]),
    ("crystal", 0, [(172, 212)]),
    ("crystal", 1, [(52, 212)]),
    ("led", 1, [(318, 36), (318, 66)]),
    ("resistor", 0, [(118, 44), (152, 44), (186, 44), (110, 196), (110, 216)]),
    ("resistor", 1, [(206, 104), (206, 140)]),
    ("capacitor", 0, [(118, 66), (152, 66), (186, 66), (290, 110)]),
    ("capacitor", 1, [(222, 178), (222, 208), (318, 226)]),
)


class Canvas:
    """Colour, height and gloss of the board; shapes are painted over one another."""

    def __init__(self, base: np.ndarray) -> None:
        size = (SIZE[0] * SCALE, SIZE[1] * SCALE)
        self.colour = np.full((*size, 3), base, np.float32)
        self.height, self.gloss = np.zeros(size, np.float32), np.zeros(size, np.float32)

    def paint(self, points: np.ndarray, colour: tuple, height: float, gloss: float = 0.0) -> None:
        """Fills the polygon `points` (n,2) of x, y in pixels of the picture."""
        fixed = [np.round(points * SCALE * 16).astype(np.int32)]
        for layer, value in ((self.colour, colour), (self.height, height), (self.gloss, gloss)):
            cv2.fillPoly(layer, fixed, value, cv2.LINE_8, 4)

    def track(self, points: list) -> None:
        """A copper track under the solder mask, two pixels wide."""
        fixed = np.round(np.array(points) * SCALE * 16).astype(np.int32)
        for layer, value in ((self.colour, COPPER), (self.height, 0.5)):
            cv2.polylines(layer, [fixed], False, value, 2 * SCALE, cv2.LINE_8, 4)


def box(pose: tuple, half_x: float, half_y: float, offset: tuple = (0, 0)) -> np.ndarray:
    """Corners (4,2) of a box, moved by `offset` in the frame of `pose`: x, y and an angle in radians."""
    x, y, angle = pose
    corners = np.array([(-half_x, -half_y), (half_x, -half_y), (half_x, half_y), (-half_x, half_y)]) + offset
    return corners @ [(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))] + (x, y)


def disc(pose: tuple, radius: float) -> np.ndarray:
    """Outline (32,2) of a circle around x, y, the first two of `pose`."""
    angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], 1) * radius + pose[:2]


def tracks(canvas: Canvas) -> None:
    """The same copper on every board: fans from the chips, vias, pads around the screw holes."""
    for row in range(14):
        y, x, right = 74 + 7 * row, 100 + 7 * row, 104 + 9 * row
        away, down = 205 + 3 * row, 28 + 3 * row
        canvas.track([(166, y), (186 + 2 * (row % 4), y), (away, y + 14), (away, 250 - 5 * row)])
        canvas.track([(96, y), (80, y), (down, y + 46 - row), (down, 240)])
        canvas.track([(x, 88), (x, 84 - row), (right, 66), (right, 20 + 2 * row)])
    for place in np.random.default_rng(5).uniform((12, 12), (336, 256), (46, 2)):
        canvas.paint(disc(place, 3.2), GOLD, 0.6, 0.3)
        canvas.paint(disc(place, 1.4), (0.05, 0.06, 0.05), -0.5)
    for place in ((14, 14), (334, 14), (14, 254), (334, 254)):
        canvas.paint(disc(place, 9), SOLDER, 0.8, 0.35)
        canvas.paint(disc(place, 5.5), (0.56, 0.57, 0.58), -2)


def component(canvas: Canvas, part: Part, pose: tuple, shade: float, fitted: bool) -> None:
    """One component, or with `fitted` false its bare solder pads."""
    half_x, half_y = part.half
    for number in range(part.pins):
        along = (2 * number + 1 - part.pins) / part.pins
        for side in (-1, 1):
            canvas.paint(box(pose, 4, 1.4, (side * half_x, along * half_y)), SOLDER, 1.2, 0.35)
            if part.all_sides:
                canvas.paint(box(pose, 1.4, 4, (along * half_x, side * half_y)), SOLDER, 1.2, 0.35)
    if part.pins == 0:
        for side in (-0.8, 0.8):
            canvas.paint(box(pose, half_x * 0.42, half_y + 1, (side * half_x, 0)), SOLDER, 0.9, 0.35)
    if not fitted:
        return
    inset, radius = 3 if part.pins else 0, half_x - part.rim[0]
    body, top = np.array(part.body) * shade, np.array(part.top) * shade
    canvas.paint(box(pose, half_x - inset, half_y - inset), body, part.height, part.gloss)
    outline = disc(pose, radius) if part.round else box(pose, radius, half_y - part.rim[1])
    canvas.paint(outline, top, part.height + 0.5, part.gloss)
    if part.round:  # the mark of its left side
        canvas.paint(disc(pose, radius - 2)[9:24], top / 4, part.height, part.gloss)


def components(canvas: Canvas, rng: Rng, flaw: Flaw | None) -> None:
    """All components, each placed a little off; a flaw leaves one out, rotates it, or fits another kind in
    its place."""
    places = [(kind, (*at, quarters * np.pi / 2)) for kind, quarters, several in LAYOUT for at in several]
    chosen = None
    if flaw is not None:
        small = flaw.size <= 0.9 or flaw.kind == "wrong_part"
        chosen = flaw.rng.choice([at for at, (kind, _) in enumerate(places) if small == (kind in SMALL)])
    for number, (kind, place) in enumerate(places):
        pose = np.array(place) + rng.normal(0, (0.12, 0.12, 0.005))
        shade, fitted = 1 + rng.uniform(-0.06, 0.06), True
        if number == chosen and flaw.kind == "missing_part":
            fitted = False
        elif number == chosen and flaw.kind == "wrong_part":
            kind = {"resistor": "capacitor", "capacitor": "led", "led": "resistor"}[kind]
        elif number == chosen:
            pose += (*flaw.rng.uniform(-3, 3, 2), flaw.rng.choice((-1, 1)) * flaw.rng.uniform(0.3, 0.9))
        component(canvas, PARTS[kind], pose, shade, fitted)


def circuit(rng: Rng, shape: tuple[int, int], flaw: Flaw | None = None) -> Surface:
    """A green circuit board on a grey table. `missing_part`, `wrong_part`, `tilted_part`: a component is not
    right."""
    canvas = Canvas(np.array([0.075, 0.285, 0.15]) * (1 + rng.uniform(-0.03, 0.03, 3)))
    tracks(canvas)
    components(canvas, rng, flaw)
    pose = cv2.getRotationMatrix2D((SIZE[1] / 2, SIZE[0] / 2), rng.uniform(-0.1, 0.1), 1)
    pose[:, 2] += np.subtract(shape, SIZE)[::-1] / 2 + rng.uniform(-0.5, 0.5, 2)
    pose[:, :2] /= SCALE

    def placed(layer: np.ndarray) -> np.ndarray:
        return cv2.warpAffine(blur(layer, SCALE * 0.45), pose, shape[::-1])

    inside = placed(np.ones(canvas.height.shape))
    height = blur(placed(canvas.height), 0.6)
    table = 1 + 0.012 * noise(rng, shape, 60, 3) - 0.55 * blur(np.roll(inside, (6, 6), (0, 1)), 4)
    shadow = blur(np.roll(height, (3, 3), (0, 1)), 1.5) - height
    lit = (1 - 0.45 * smoothstep(shadow, 0.5, 4)) * (1 + 0.03 * noise(rng, shape, 2))
    board = placed(canvas.colour) / np.maximum(inside, 1e-3)[..., None] * lit[..., None]
    colour = blend(np.array([0.50, 0.51, 0.52]) * table[..., None], board, inside)
    region = cv2.erode((inside > 0.9).astype(np.uint8), np.ones((15, 15))) > 0
    return Surface(colour, 0.55 * height + 2 * inside, placed(canvas.gloss) * 0.8 + 0.05 * inside, region)
