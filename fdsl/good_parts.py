"""How far good parts lie above what references say of themselves, learnt on products with many photographs.

The numbers are what this prints, of bottle and tire (MVTec) and magnetic_tile:

    python benchmarks/other_products.py mvtec=DIR visa=DIR --methods nearest plus:rotations=auto
    --weights DeiT-Ti-16-in1k.safetensors ViT-Ti-16-in21k.safetensors --model DeiT-Ti-16 --layers 3 6 9 12
    --image-size 448 --precision bf16 --defects 20 --cache DIR

and with `--methods plus:tiles=auto,rotations=auto --shots 1`, in which magnetic_tile is too small for tiles.
Left out are those that held out worse than the references alone (docs/measurements.md).
"""

from __future__ import annotations

from fdsl.thresholds import Above
from models.detector import Detector
from utils.config import MethodConfig

WITH_TILES = " --tiles"  # after a method's name
# method -> for so many references, and for more, the weight of what each of them says alone
ALONE = {"nearest": {1: 1.0, 2: 0.75, 4: 0.5}, "plus": {1: 0.5, 4: 0.25}, "plus" + WITH_TILES: {1: 0.0}}

# (method, image score) -> for so many references, and for more, short of twice as many
LEARNT: dict[tuple[str, str], dict[int, Above]] = {
    ("nearest", "max"): {
        1: Above(1.450, 0.222, 1.0, 1.466),
        2: Above(0.918, 0.192, 0.75, 1.469),
        4: Above(0.549, 0.169, 0.5, 1.224),
    },
    ("nearest", "top1"): {1: Above(1.175, 0.225, 1.0, 1.162)},
}


def weight_alone(method: str, references: int) -> float:
    """The weight of what each of so many references says alone; of a method that is not listed, that of
    `nearest`."""
    weights = ALONE.get(method, ALONE["nearest"])
    return weights[max(count for count in weights if count <= references)]


def above_of(detector: Detector, image_score: str, references: int) -> Above | None:
    """What was learnt for as many references; None where nothing was, and for a detector whose scores are of
    another kind: through windows, with text or mutual scoring, or with parts left out."""
    options = detector.method.options
    usual = MethodConfig(options.use_nam)
    if detector.windows is not None or options != usual:
        return None
    name = detector.method.name if detector.layout is None else detector.method.name + WITH_TILES
    numbers = LEARNT.get((name, image_score), {})
    return next((above for count, above in numbers.items() if count <= references < 2 * count), None)
