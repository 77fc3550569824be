"""The demo's circuit board: one layout of tracks and components, drawn large in board coordinates, then
posed."""

import cv2
import numpy as np

from data.drawn.products import Flaw
from data.drawn.surfaces import Rng, Surface, blend, blur, fractal_noise, smooth_noise, smoothstep

BOARD = (348, 268)  # width and height of the board in its own units, one unit being a pixel of the picture
SCALE = 3  # the board is drawn this many times larger, then reduced
# kind, centre x and y, quarter turns
LAYOUT = (
    ("chip", 130, 120, 0),
    ("small_chip", 250, 70, 0),
    ("small_chip", 262, 190, 1),
    ("can", 58, 62, 0),
    ("can", 58, 116, 0),
    ("header", 52, 212, 1),
    ("crystal", 172, 212, 0),
    ("led", 318, 36, 1),
    ("led", 318, 66, 1),
    ("inductor", 320, 132, 0),
    ("resistor", 118, 44, 0),
    ("resistor", 152, 44, 0),
    ("resistor", 186, 44, 0),
    ("resistor", 206, 104, 1),
    ("resistor", 206, 140, 1),
    ("resistor", 110, 196, 0),
    ("resistor", 110, 216, 0),
    ("resistor", 318, 190, 1),
    ("capacitor", 118, 66, 0),
    ("capacitor", 152, 66, 0),
    ("capacitor", 186, 66, 0),
    ("capacitor", 222, 178, 1),
    ("capacitor", 222, 208, 1),
    ("capacitor", 290, 110, 0),
    ("capacitor", 250, 116, 0),
    ("capacitor", 318, 226, 1),
)
# half length and half width in board units
SIZES = {
    "chip": (32, 32),
    "small_chip": (17, 21),
    "can": (19, 19),
    "header": (30, 11),
    "crystal": (22, 9),
    "led": (8, 5),
    "inductor": (17, 17),
    "resistor": (10, 5.5),
    "capacitor": (9, 5.5),
}
COPPER, SOLDER, GOLD, SILK = (0.115, 0.345, 0.19), (0.52, 0.53, 0.53), (0.56, 0.46, 0.24), (0.62, 0.66, 0.63)


class Drawing:
    """A colour and a height canvas in board units; shapes are painted over one another."""

    def __init__(self) -> None:
        size = (BOARD[1] * SCALE, BOARD[0] * SCALE)
        self.colour = np.zeros((*size, 3), np.float32)
        self.height = np.zeros(size, np.float32)
        self.gloss = np.zeros(size, np.float32)

    def paint(self, points: np.ndarray, colour: tuple, height: float, gloss: float = 0.0) -> None:
        """Fill the polygon `points` (n,2)."""
        fixed = [np.round(np.asarray(points) * SCALE * 16).astype(np.int32)]
        for canvas, value in ((self.colour, colour), (self.height, height), (self.gloss, gloss)):
            cv2.fillPoly(canvas, fixed, value, cv2.LINE_8, 4)

    def track(self, points: list, width: float) -> None:
        """A copper track `width` units wide under the solder mask."""
        fixed = np.round(np.asarray(points) * SCALE * 16).astype(np.int32).reshape(-1, 1, 2)
        for canvas, value in ((self.colour, COPPER), (self.height, 0.5)):
            cv2.polylines(canvas, [fixed], False, value, round(width * SCALE), cv2.LINE_8, 4)


def box(x: float, y: float, half_x: float, half_y: float, angle: float, offset: tuple = (0, 0)) -> np.ndarray:
    """Corners (4,2) of a box; `offset` moves it in the frame rotated by `angle` radians about (x, y)."""
    corners = np.array([(-half_x, -half_y), (half_x, -half_y), (half_x, half_y), (-half_x, half_y)]) + offset
    turn = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    return corners @ turn + (x, y)


def disc(x: float, y: float, radius: float) -> np.ndarray:
    """Outline (32,2) of a circle."""
    angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], 1)


def tracks(drawing: Drawing) -> None:
    """The same copper on every board: fans from the chips, vias, pads round the screw holes."""
    fixed = np.random.default_rng(5)
    for row in range(14):
        y = 74 + 7 * row
        drawing.track(
            [(166, y), (186 + 2 * (row % 4), y), (205 + 3 * row, y + 14), (205 + 3 * row, 250 - 5 * row)], 2
        )
        drawing.track([(96, y), (80, y), (28 + 3 * row, y + 46 - row), (28 + 3 * row, 240)], 2)
    for row in range(9):
        x, right = 100 + 7 * row, 104 + 9 * row
        drawing.track([(x, 88), (x, 84 - row), (right, 66), (right, 20 + 2 * row)], 2)
        drawing.track(
            [(232, 54 + 5 * row), (216, 54 + 5 * row), (196 + 2 * row, 30), (196 + 2 * row, 10)], 1.6
        )
        drawing.track(
            [(268, 54 + 5 * row), (290, 54 + 5 * row), (300, 80 + 12 * row), (338, 80 + 16 * row)], 1.6
        )
        x, right = 120 + 8 * row, 150 + 12 * row
        drawing.track([(x, 152), (x, 172 + row), (right, 200), (right, 256)], 1.8)
    for x, y in fixed.uniform((12, 12), (336, 256), (46, 2)):
        drawing.paint(disc(x, y, 3.2), GOLD, 0.6, 0.3)
        drawing.paint(disc(x, y, 1.4), (0.05, 0.06, 0.05), -0.5)
    for x, y in ((14, 14), (334, 14), (14, 254), (334, 254)):
        drawing.paint(disc(x, y, 9), SOLDER, 0.8, 0.35)
        drawing.paint(disc(x, y, 5.5), (0.56, 0.57, 0.58), -2)


def component(
    drawing: Drawing, rng: Rng, kind: str, x: float, y: float, angle: float, fitted: bool = True
) -> None:
    """One component at (x, y), or with `fitted` false its bare solder pads."""
    half_x, half_y = SIZES[kind]
    shade = 1 + rng.uniform(-0.06, 0.06)
    pads = {"chip": 14, "small_chip": 8, "header": 6}.get(kind, 0)
    for index in range(pads):
        along = (index - (pads - 1) / 2) * (2 * half_x / pads if kind != "small_chip" else 2 * half_y / pads)
        for side in (-1, 1):
            if kind == "header":
                drawing.paint(box(x, y, 3.6, 3.6, angle, (along, side * 5)), GOLD, 0.8, 0.3)
            elif kind == "small_chip":
                drawing.paint(box(x, y, 4, 1.5, angle, (side * (half_x + 1), along)), SOLDER, 1.2, 0.35)
            else:
                drawing.paint(box(x, y, 4, 1.3, angle, (side * (half_x + 1), along)), SOLDER, 1.2, 0.35)
                drawing.paint(box(x, y, 1.3, 4, angle, (along, side * (half_y + 1))), SOLDER, 1.2, 0.35)
    if pads == 0:
        for side in (-1, 1):
            drawing.paint(
                box(x, y, half_x * 0.42, half_y + 1, angle, (side * half_x * 0.8, 0)), SOLDER, 0.9, 0.35
            )
    if not fitted:
        return
    if kind in ("chip", "small_chip"):
        drawing.paint(
            box(x, y, half_x - 3, half_y - 2, angle), np.array([0.085, 0.085, 0.09]) * shade, 5, 0.10
        )
        drawing.paint(
            disc(*box(x, y, 0, 0, angle, (-half_x + 8, -half_y + 7))[0], 2.2), (0.20, 0.20, 0.20), 4.5
        )
        for line in range(3 if kind == "chip" else 2):
            reach = half_x * (0.5 - 0.12 * line)
            drawing.paint(
                box(x, y, reach, 1.3, angle, (0, -4 + 7 * line)), np.array([0.40, 0.40, 0.40]) * shade, 5
            )
    elif kind == "can":
        drawing.paint(box(x, y, half_x, half_y, angle), (0.07, 0.07, 0.08), 3)
        drawing.paint(disc(x, y, half_x - 1.5), np.array([0.62, 0.63, 0.64]) * shade, 9, 0.22)
        ring = disc(x, y, half_x - 3)
        drawing.paint(ring[9:24], (0.13, 0.13, 0.14), 9, 0.1)
    elif kind == "inductor":
        drawing.paint(box(x, y, half_x, half_y, angle), np.array([0.20, 0.195, 0.19]) * shade, 6, 0.08)
        drawing.paint(disc(x, y, half_x - 4), np.array([0.29, 0.285, 0.28]) * shade, 6.5, 0.08)
    elif kind == "header":
        drawing.paint(box(x, y, half_x, half_y - 1, angle), np.array([0.10, 0.10, 0.11]) * shade, 4, 0.06)
        for index in range(6):
            for side in (-1, 1):
                drawing.paint(box(x, y, 1.7, 1.7, angle, ((index - 2.5) * 10, side * 5)), GOLD, 8, 0.45)
    elif kind == "crystal":
        drawing.paint(box(x, y, half_x, half_y, angle), np.array([0.66, 0.67, 0.68]) * shade, 5, 0.30)
        drawing.paint(
            box(x, y, half_x - 3, half_y - 3, angle), np.array([0.72, 0.73, 0.73]) * shade, 5.6, 0.30
        )
    else:
        body = {"led": (0.86, 0.83, 0.66), "resistor": (0.075, 0.075, 0.08), "capacitor": (0.52, 0.38, 0.25)}[
            kind
        ]
        drawing.paint(box(x, y, half_x, half_y - 0.5, angle), np.array([0.74, 0.74, 0.73]) * shade, 2.2, 0.35)
        drawing.paint(box(x, y, half_x * 0.62, half_y, angle), np.array(body) * shade, 2.6, 0.12)
        if kind == "resistor":
            drawing.paint(box(x, y, half_x * 0.36, 1.1, angle), (0.55, 0.55, 0.55), 2.6)


def components(drawing: Drawing, rng: Rng, flaw: Flaw | None) -> None:
    """All components, each placed a little off; a flaw leaves one out, rotates it, or fits another kind in
    its place."""
    small = [index for index, entry in enumerate(LAYOUT) if entry[0] in ("resistor", "capacitor", "led")]
    large = [
        index
        for index, entry in enumerate(LAYOUT)
        if entry[0] in ("can", "crystal", "small_chip", "inductor")
    ]
    chosen = None
    if flaw is not None and flaw.kind in ("missing_part", "wrong_part", "tilted_part"):
        chosen = int(flaw.rng.choice(large if flaw.size > 0.9 and flaw.kind != "wrong_part" else small))
    for index, (kind, x, y, quarters) in enumerate(LAYOUT):
        x, y = (x, y) + rng.normal(0, 0.12, 2)
        angle = quarters * np.pi / 2 + np.radians(rng.normal(0, 0.3))
        if index == chosen and flaw.kind == "wrong_part":
            kind = {"resistor": "capacitor", "capacitor": "led", "led": "resistor"}[kind]
        if index == chosen and flaw.kind == "tilted_part":
            angle += flaw.rng.choice((-1, 1)) * np.radians(flaw.rng.uniform(18, 50))
            x, y = (x, y) + flaw.rng.uniform(-3, 3, 2)
        component(
            drawing, rng, kind, x, y, angle, fitted=not (index == chosen and flaw.kind == "missing_part")
        )
        if kind in ("resistor", "capacitor"):
            mark = box(x, y, 1.2, 3, angle, (-SIZES[kind][0] - 4, 0))
            drawing.paint(mark, SILK, 0.5)


def circuit(rng: Rng, shape: tuple[int, int], flaw: Flaw | None = None) -> Surface:
    """A green circuit board on a grey table. `missing_part`, `wrong_part`, `tilted_part`: a component is not
    right."""
    drawing = Drawing()
    green = np.array([0.075, 0.285, 0.15]) * (1 + rng.uniform(-0.03, 0.03, 3))
    drawing.paint(box(BOARD[0] / 2, BOARD[1] / 2, BOARD[0] / 2, BOARD[1] / 2, 0), green, 0)
    tracks(drawing)
    components(drawing, rng, flaw)
    angle, zoom, move = rng.uniform(-0.1, 0.1), rng.uniform(0.999, 1.001), rng.uniform(-0.5, 0.5, 2)
    pose = cv2.getRotationMatrix2D((BOARD[0] / 2, BOARD[1] / 2), angle, zoom)
    pose[:, 2] += np.array(shape[::-1]) / 2 - np.array(BOARD) / 2 + move
    pose[:, :2] /= SCALE

    def place(canvas: np.ndarray) -> np.ndarray:
        smooth = cv2.GaussianBlur(canvas, (0, 0), SCALE * 0.45)
        return cv2.warpAffine(smooth, pose, shape[::-1], flags=cv2.INTER_LINEAR)

    inside = np.clip(place(np.ones(drawing.height.shape, np.float32)), 0, 1)
    height = blur(place(drawing.height), 0.6)
    table = np.array([0.50, 0.51, 0.52]) * (1 + 0.012 * fractal_noise(rng, shape, 60, 3))[..., None]
    table *= (1 - 0.55 * blur(np.roll(inside, (6, 6), (0, 1)), 4))[..., None]
    shade = blur(np.roll(height, (3, 3), (0, 1)), 1.5)
    shadow = 1 - 0.45 * smoothstep(shade - height, 0.5, 4.0)
    board = place(drawing.colour) * (shadow * (1 + 0.03 * smooth_noise(rng, shape, 2)))[..., None]
    colour = blend(table, board / np.maximum(inside, 1e-3)[..., None], inside)
    region = cv2.erode((inside > 0.9).astype(np.uint8), np.ones((15, 15))) > 0
    gloss = place(drawing.gloss) * 0.8 + 0.05 * inside
    return Surface(colour, 0.55 * height + 2 * inside, gloss, region)
