"""What one image looks like: photo, ground truth, heat map on a fixed scale, predicted contour, caption.

Arrays are (H,W,3) uint8 RGB. An anomaly map (G,G) covers the whole photo, resized: patch (0,0) lies on the
first pixel and patch (G-1,G-1) on the last (bilinear, corners aligned), whatever the photo's size and aspect.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.hot_regions import GREY_FLOOR, TOP, heat_tables, upsample

PANEL_SIDE = 512  # longest side of a panel of the large picture, pixels
INSPECTION_SIDE = 768  # of the two panels of a test image without labels
MIN_PANEL_SIDE = 384  # smaller photos are enlarged to this
MIN_SHORT_SIDE = 24  # a photo of extreme aspect is still visible
PANEL_GAP = 6  # pixels between the panels of a strip
CAPTION_HEIGHT = 76  # three lines of text below the panels
TEXT_SIZE = 15
THIN_OUTLINE_SIDE = 400  # outlines are one pixel wide on panels up to this side, else two
PANEL_NAMES = ("photo", "ground truth", "heat map", "prediction")

SCALE_PERCENTILE = 99.9  # of all map values of a category without a pixel threshold: the top of its scale
MIN_SCALE_SPAN = 0.05  # without a pixel threshold: what hardly varies is not stretched into false alarms
NORMAL_SHARE = 0.99  # of normal values below the scale, where the highest ones reach the pixel threshold

TRUTH_COLOUR = (64, 224, 208)
PREDICTION_COLOUR = (255, 122, 61)
CONTOUR_COLOUR = (255, 255, 255)  # on the heat map
OUTLINE_SHADOW = (16, 16, 18)
STRIP_BACKGROUND = (24, 24, 26)
TEXT_COLOUR = (236, 234, 228)
MUTED_COLOUR = (160, 157, 150)
# Letters from here on -> the first of these fonts that the system has; Pillow looks where fonts are
# installed.
SYSTEM_FONTS = (
    (
        "\u2e80",
        (
            "NotoSansCJK-Regular.ttc",
            "wqy-microhei.ttc",
            "msyh.ttc",
            "PingFang.ttc",
            "Arial Unicode.ttf",
            "DejaVuSans.ttf",
        ),
    ),
    ("\x80", ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "segoeui.ttf", "Arial Unicode.ttf", "arial.ttf")),
)


def colour_scale(maps: np.ndarray, labels: np.ndarray, threshold: float | None = None) -> tuple[float, float]:
    """The heat map's scale (low, high) for all images of a category, from its maps (n,G,G) and labels (n,)
    bool, True for defects.

    Low is what normal images usually reach, the median of their highest values; where that is no less than
    high, what NORMAL_SHARE of their values reach, or the median of all. High is the pixel threshold, without
    one the 99.9th percentile of all values, at least MIN_SCALE_SPAN above low.
    """
    normal = maps[~labels]
    middle = float(np.median(maps))
    low = float(np.median(normal.max(axis=(1, 2)))) if len(normal) else middle
    most = float(np.quantile(normal, NORMAL_SHARE)) if len(normal) else middle
    if threshold is not None:
        return next(
            (one for one in (low, most, middle) if one < threshold), threshold - MIN_SCALE_SPAN
        ), threshold
    return low, max(float(np.percentile(maps, SCALE_PERCENTILE)), low + MIN_SCALE_SPAN)


def panel_size(height: int, width: int, side: int = PANEL_SIDE) -> tuple[int, int]:
    """Height and width of a photo whose long side is brought to at most `side`, keeping its aspect."""
    longest = min(side, max(height, width, MIN_PANEL_SIDE))
    factor = longest / max(height, width)

    def scaled(length: int) -> int:
        return min(longest, max(MIN_SHORT_SIDE, round(length * factor)))

    return scaled(height), scaled(width)


def resize(photo: np.ndarray, height: int, width: int) -> np.ndarray:
    """Photo (H,W,3) to (height, width): area averaging when it shrinks, bicubic when it grows."""
    shrinks = photo.shape[0] >= height and photo.shape[1] >= width
    return cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def _outline(panel: np.ndarray, region: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """A copy of the panel with the borders of `region` (bool, any size: it is resized to the panel) drawn
    on it."""
    contours, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    factor = np.array([panel.shape[1] / region.shape[1], panel.shape[0] / region.shape[0]])
    scaled = [np.floor((contour + 0.5) * factor).astype(np.int32) for contour in contours]
    thickness = 1 if max(panel.shape[:2]) <= THIN_OUTLINE_SIDE else 2
    shadow = panel.copy()
    cv2.polylines(shadow, scaled, True, OUTLINE_SHADOW, thickness + 2, cv2.LINE_AA)
    panel = cv2.addWeighted(panel, 0.5, shadow, 0.5, 0)
    cv2.polylines(panel, scaled, True, colour, thickness, cv2.LINE_AA)
    return panel


def heat(photo: np.ndarray, upsampled: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """The heat map over the grey photo: transparent up to the scale's low end, at its full opacity from the
    high end on; beyond that the colour alone goes on."""
    low, high = scale
    shades = cv2.convertScaleAbs(np.maximum(upsampled - low, 0), alpha=255 / (TOP * (high - low)))
    colours, rest = heat_tables()
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    grey = cv2.convertScaleAbs(grey, alpha=(255 - GREY_FLOOR) / 255, beta=GREY_FLOOR)
    grey = cv2.multiply(grey, cv2.LUT(shades, rest), scale=1 / 255)
    return cv2.add(cv2.applyColorMap(shades, colours[:, None]), cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB))


def inspection(
    photo: np.ndarray,
    anomaly_map: np.ndarray,
    region: np.ndarray,
    scale: tuple[float, float],
    names: tuple[str, str],
    caption: str,
) -> np.ndarray:
    """Photograph | heat map with the contour of `region` ((H,W) bool), `names` below them and two lines of
    caption below both; the longer side of each is INSPECTION_SIDE pixels at most."""
    height, width = panel_size(photo.shape[0], photo.shape[1], INSPECTION_SIDE)
    base = resize(photo, height, width)
    heated = heat(base, upsample(anomaly_map, height, width), scale)
    if region.any():
        heated = _outline(heated, region, CONTOUR_COLOUR)
    return strip([base, heated], names, caption)


def panels(
    photo: np.ndarray,
    anomaly_map: np.ndarray,
    mask: np.ndarray | None,
    threshold: float | None,
    scale: tuple[float, float],
    side: int = PANEL_SIDE,
) -> list[np.ndarray]:
    """The four panels of PANEL_NAMES, each of the photo's aspect with a long side of at most `side` pixels.

    The ground truth is the outline of `mask` ((H,W) bool or None); the prediction outlines where the
    upsampled map reaches `threshold` (None: nothing), over a thin repeat of the ground truth.
    """
    height, width = panel_size(photo.shape[0], photo.shape[1], side)
    base = resize(photo, height, width)
    upsampled = upsample(anomaly_map, height, width)
    truth = base if mask is None or not mask.any() else _outline(base, mask, TRUTH_COLOUR)
    prediction = base if threshold is None else _outline(truth, upsampled >= threshold, PREDICTION_COLOUR)
    return [base, truth, heat(base, upsampled, scale), prediction]


def overlay(
    photo: np.ndarray,
    anomaly_map: np.ndarray,
    mask: np.ndarray | None,
    threshold: float | None,
    scale: tuple[float, float],
    caption: str,
) -> np.ndarray:
    """A strip of the four panels over two lines of caption: (height + CAPTION_HEIGHT, 4 * width + 3 *
    PANEL_GAP, 3)."""
    low, high = scale
    truth = "ground truth" if mask is not None and mask.any() else "ground truth: none"
    outline = "no pixel threshold" if threshold is None else f"prediction, map >= {threshold:.4g}"
    names = ("photo", truth, f"heat map, {low:.4g} to {high:.4g}", outline)
    return strip(panels(photo, anomaly_map, mask, threshold, scale), names, caption)


def strip(pictures: list[np.ndarray], names: tuple[str, ...], caption: str) -> np.ndarray:
    """Pictures of one size side by side, a name under each and the caption below all."""
    height, width = pictures[0].shape[:2]
    size = height + CAPTION_HEIGHT, len(pictures) * (width + PANEL_GAP) - PANEL_GAP, 3
    sheet = np.full(size, STRIP_BACKGROUND, np.uint8)
    room = sheet.shape[1] - 20
    texts = [
        (10, height + 29 + 21 * line, text, (TEXT_COLOUR, MUTED_COLOUR)[line], room)
        for line, text in enumerate(caption.split("\n")[:2])
    ]
    for index, (picture, name) in enumerate(zip(pictures, names)):
        left = index * (width + PANEL_GAP)
        sheet[:height, left : left + width] = picture
        name = name if _font(TEXT_SIZE).getlength(name) <= width - 12 else name.split(",")[0]
        texts.append((left + 10, height + 7, name, MUTED_COLOUR, width - 12))
    return write_on(sheet, texts)


@lru_cache(maxsize=64)
def _font(size: int, text: str = "") -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font for ASCII; for a text of other letters one of the system's, where there is one that
    has them."""
    usual = next((fonts for start, fonts in SYSTEM_FONTS if any(letter >= start for letter in text)), ())
    for name in usual:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def write_on(
    picture: np.ndarray, texts: list[tuple[int, int, str, tuple[int, int, int], int]], size: int = TEXT_SIZE
) -> np.ndarray:
    """The picture with lines of text (left, top, text, colour, most pixels it may take): longer ones lose
    their middle."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for left, top, text, colour, room in texts:
        whole = " ".join(text.split()).encode("utf-8", "replace").decode()
        font = _font(size, "".join(sorted({letter for letter in whole if not letter.isascii()})))
        text, length = whole, len(whole)
        while text and font.getlength(text) > room:
            length -= 1
            head, tail = whole[: (length + 1) // 2].rstrip(), whole[len(whole) - length // 2 :].lstrip()
            text = f"{head}…{tail}" if length > 2 else ""
        draw.text((left, top), text, fill=colour, font=font)
    return np.asarray(image)


def placeholder(height: int = 320, width: int = 320) -> np.ndarray:
    """A grey tile that stands for a photo that could not be read."""
    tile = np.full((height, width, 3), 96, np.uint8)
    return write_on(tile, [(16, height // 2 - 10, "photo unreadable", TEXT_COLOUR, width - 32)], size=18)
