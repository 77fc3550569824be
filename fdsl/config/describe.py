"""Settings in words, for tables, reports and summaries."""

from __future__ import annotations

from collections.abc import Sequence

from fdsl.config.run_config import DetectorConfig, FittedConfig, RunConfig
from models.methods.registry import METHODS, BatchFacts, TextFacts
from utils.config import (
    BY_CATEGORY,
    DAMAGED_WORDS,
    NORMAL_WORDS,
    OBJECT,
    QUARTER,
    WHOLE_IMAGE,
    MethodConfig,
    WindowConfig,
)
from utils.limits import AUTO_TILES
from utils.text import one_line


def roi_in_words(options: MethodConfig) -> str:
    """The masks of the region of interest; "" where there are none."""
    white = "" if options.roi is None else f"where {options.roi} is white"
    black = "" if options.ignore is None else f"not where {options.ignore} is white"
    return ", ".join(filter(None, [white, black]))


def tiles_in_words(windows: WindowConfig) -> str:
    """The tiles that a photograph is encoded in."""
    if windows.tiles == AUTO_TILES:
        return "tiles where it is large"
    return "none" if windows.tiles == 1 else f"{windows.tiles} x {windows.tiles} tiles"


def windows_in_words(windows: WindowConfig) -> str:
    """LFE's settings: mode, size and stride, and the options that make it faster and less exact."""
    if windows.winmode == "nan":
        tiles = "" if windows.tiles == 1 else f", {tiles_in_words(windows)} and the whole image"
        return f"no LFE{tiles}"
    words = f"LFE {windows.winmode}, windows of {windows.win_size} patches, stride {windows.win_stride}"
    words += f", resized to {windows.win_zip}" if windows.win_zip else ""
    words += f", weight {windows.win_weight:g}" if windows.winmode == "mul" else ""
    words += {"0": "", "1": ", reference windows picked as published"}.get(
        windows.index_memory, ", each window's own picks"
    )
    words += ", matched with whole images" if windows.window_memory == WHOLE_IMAGE else ""
    budget = windows.window_budget
    return words + (f", window budget {'a quarter' if budget == QUARTER else budget}" if budget else "")


def method_in_words(options: MethodConfig) -> str:
    """NAM, and FD and alignment where they are not the default."""
    words = f"NAM {'on' if options.use_nam else 'off'}"
    words += {
        MethodConfig().fd: "",
        "none": ", features instead of discrepancies (no reference is used)",
    }.get(options.fd, f", {options.fd} discrepancies")
    return words + _alignment(options)


def additions_in_words(options: MethodConfig) -> str:
    """The mutual scoring and text that are added; "" for none."""
    added = [BatchFacts.sentence] if options.with_batch else []
    added += [f"{TextFacts.sentence}{_text_words(options)}"] if options.with_text else []
    return "".join(f"; with {what}" for what in added)


def _text_words(options: MethodConfig) -> str:
    """The object and words of text where they are not the usual ones."""
    named = {OBJECT: "", BY_CATEGORY: " of each category's name"}.get(
        options.object, f' of "{one_line(options.object, 60)}"'
    )
    own = " in words of its own" if options.normal_words or options.damaged_words else ""
    return named + own


def text_in_words(options: MethodConfig) -> str:
    """The object of text, and its words for normal and damaged."""
    normal, damaged = (
        ", ".join(state.removeprefix("{}").removesuffix("{}").strip() for state in states)
        for states in (options.normal_words or NORMAL_WORDS, options.damaged_words or DAMAGED_WORDS)
    )
    return one_line(f'"{options.object}": {normal}; or {damaged}', 400)


def _alignment(options: MethodConfig) -> str:
    return "" if options.align == MethodConfig().align else f", alignment {options.align}"


IMAGE_SCORE_MEANING = {
    "paper": "half of it scaled over the category's whole test set, as published",
    "max": "mean over layers of each one's highest patch, no test-set scaling",
    "top1": "mean of the highest 1 % of patch scores, no test-set scaling",
}


def framing(config: RunConfig, seeds: Sequence[int] = ()) -> str:
    """One paragraph on how a table's numbers were made: score, sizes, shots, seed, backbone.

    `seeds`: those that the numbers are means over, if not the run's own alone.
    """
    made, backbone = config.detector, config.detector.backbone
    rotated = "" if config.rotations == 1 else f"; references rotated ({config.rotations})"
    text = (
        f"{config.dataset}, {config.k_shot} shot(s), seed {' '.join(map(str, seeds or [config.seed]))}, "
        f"{windows_in_words(made.windows)}, {heads_in_words(config)}{rotated}; "
        f"image score {config.image_score} ({score_in_words(config.detector, config.image_score)}); "
        f"maps evaluated at {config.metric_size}{'' if config.metric_size == 'full' else ' px'}; "
        f"backbone {backbone.model} at {backbone.image_size} px, "
        f"blocks {' '.join(map(str, backbone.layers))}, {made.machine.precision}."
    )
    if backbone.untrained:
        text += (
            " The backbone is UNTRAINED (random weights): these numbers show that the code works, not how "
            "good FDSL is."
        )
    if config.trained_on_test_images:
        text += f" {TRAINED_ON_TEST_IMAGES}"
    return text


def score_in_words(made: DetectorConfig, kind: str) -> str:
    """A detector's image score of this kind in words; for `max` the method's own, if it has one."""
    if kind != "max":
        return IMAGE_SCORE_MEANING[kind]
    own = METHODS[made.method].own_score or IMAGE_SCORE_MEANING[kind]
    added = ["mutual scoring"] if made.options.with_batch else []
    added += ["text"] if made.options.with_text else []
    return own + "".join(f"; half of it, and half that of {what}, on one scale" for what in reversed(added))


def heads_in_words(config: RunConfig) -> str:
    """The heads that made a run's maps, or the method that needs none."""
    method, options = METHODS[config.detector.method], config.detector.options
    if not method.needs_heads:
        alignment = _alignment(options) if method.matches else ""
        words = _text_words(options) if method.reads_text else ""
        left_out = f", without {' and '.join(options.leave_out)}" if options.leave_out else ""
        changes = left_out + additions_in_words(options)
        return f"no trained heads: {method.sentence}{words}{alignment}{changes}"
    added = (f"; {method.sentence}" if method.sentence else "") + additions_in_words(options)
    return f"{method_in_words(options)}; heads trained on {config.trained_on or 'an unknown dataset'}{added}"


SEES = "sees the test set"  # the column of tables that compare transductive methods with others

TRAINED_ON_TEST_IMAGES = (
    "The heads were TRAINED ON THESE TEST IMAGES: these numbers show what they memorised, not how good they "
    "are on others."
)

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
