"""A fitted detector in words, for its reports, the page and `predict.py --show`."""

from __future__ import annotations

from fdsl.config.describe import (
    additions_in_words,
    roi_in_words,
    score_in_words,
    text_in_words,
    tiles_in_words,
)
from fdsl.config.run_config import FittedConfig
from models.methods.registry import METHODS

HEAT_MAPS = (
    "one scale for all pictures: transparent up to what half of the normal images reach, opaque from the "
    "pixel threshold on, which the contour follows"
)


def detector_facts(config: FittedConfig) -> list[tuple[str, str]]:
    """(name, value) of a detector's configuration, for reports."""
    made = config.detector
    encoder, windows = made.backbone, made.windows
    rotated = f", {config.rotations} rotations each" if config.rotations > 1 else ""
    untrained = " (UNTRAINED: random weights)" if encoder.untrained else ""
    score = score_in_words(made, config.image_score)
    lfe = f"{windows.winmode}, {windows.win_size} patches, stride {windows.win_stride}"
    lfe += f", resized to {windows.win_zip}" if windows.win_zip else ""
    return [
        ("Method", f"{made.method}: {METHODS[made.method].words}{additions_in_words(made.options)}"),
        *([("Text", text_in_words(made.options))] if made.reads_text else []),
        *([("Region of interest", roi_in_words(made.options))] if roi_in_words(made.options) else []),
        ("References", f"{config.references}{rotated}"),
        ("Backbone", f"{encoder.model}, {encoder.image_size} px{untrained}"),
        ("Local windows", "none" if windows.winmode == "nan" else lfe),
        *([] if windows.tiles == 1 else [("Tiles", tiles_in_words(windows))]),
        ("Image score", f"{config.image_score}: {score}"),
        ("Heat maps", HEAT_MAPS),
        ("Precision", made.machine.precision),
    ]
