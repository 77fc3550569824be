"""Settings in words, for tables, reports and summaries. Options are written as the flags that set them, so a
new one needs no words of its own."""

from __future__ import annotations

from collections.abc import Sequence

from fdsl.config.run_config import DetectorConfig, FittedConfig, RunConfig
from models.methods.registry import METHODS
from utils.config import BY_CATEGORY
from utils.options import flags_of
from utils.text import in_words, one_line

IMAGE_SCORE_MEANING = {
    "paper": "half of it scaled over the category's whole test set, as published",
    "max": "mean over layers of each one's highest patch, no test-set scaling",
    "top1": "mean of the highest 1 % of patch scores, no test-set scaling",
}
SEES = "sees the test set"  # the column of tables that compare transductive methods with others
TRAINED_ON_TEST_IMAGES = (
    "The heads were TRAINED ON THESE TEST IMAGES: these numbers show what they memorised, not how good they "
    "are on others."
)
UNTRAINED = (
    "The backbone is UNTRAINED (random weights): these numbers show that the code works, not how good FDSL "
    "is."
)
HEAT_MAPS = (
    "one scale for all pictures: transparent up to what half of the normal images reach, opaque from the "
    "pixel threshold on, which the contour follows"
)


def score_in_words(made: DetectorConfig, kind: str) -> str:
    """A detector's image score of this kind in words; for `max` the method's own, if it has one."""
    if kind != "max":
        return IMAGE_SCORE_MEANING[kind]
    own = METHODS[made.method].own_score or IMAGE_SCORE_MEANING[kind]
    added = ["mutual scoring"] if made.options.with_batch else []
    added += ["text"] if made.options.with_text else []
    return own + "".join(f"; half of it, and half that of {what}, on one scale" for what in reversed(added))


def settings_in_flags(config: RunConfig | FittedConfig) -> str:
    """The windows and options of a detector, but for the defaults of its method, as they are typed."""
    made, has_heads = config.detector, METHODS[config.detector.method].needs_heads
    windows = {} if has_heads else {"winmode": "nan"}
    words = {"object": BY_CATEGORY} if made.reads_text and isinstance(config, RunConfig) else {}
    flags = flags_of(made.windows, windows, made.lacks, whole=has_heads)
    return one_line(" ".join([*flags, *flags_of(made.options, words, made.lacks)]), 400)


def facts_of(config: RunConfig | FittedConfig) -> list[tuple[str, str]]:
    """(name, value) of what scores depend on."""
    made, backbone = config.detector, config.detector.backbone
    method, settings = METHODS[made.method], settings_in_flags(config)
    sees = f"; {SEES}" if made.options.with_batch else ""
    trained_on = config.trained_on or "an unknown dataset"
    untrained = ", UNTRAINED: random weights" if backbone.untrained else ""
    encoder = f"{backbone.model} at {backbone.image_size} px, layers {in_words(backbone.layers)}{untrained}"
    rotations = "" if config.rotations == 1 else str(config.rotations)
    facts = {
        "Method": f"{made.method}: {method.words}{sees}",
        "Settings": settings,
        "Heads trained on": trained_on if method.needs_heads else "",
        "Rotations of each reference": rotations,
        "Image score": f"{config.image_score}: {score_in_words(made, config.image_score)}",
        "Backbone": encoder,
        "Precision": made.machine.precision,
    }
    return [(name, value) for name, value in facts.items() if value]


def framing(config: RunConfig, seeds: Sequence[int] = ()) -> str:
    """One paragraph on how a table's numbers were made: dataset, shots, seeds, and `facts_of`.

    `seeds`: those that the numbers are means over, if not the run's own alone.
    """
    side = config.metric_size if config.metric_size == "full" else f"{config.metric_size} px"
    facts = "; ".join(f"{name[0].lower()}{name[1:]} {value}" for name, value in facts_of(config))
    sentences = [
        f"{config.dataset}, {config.k_shot} shot(s), seed {in_words(seeds or [config.seed])}; {facts}; maps "
        f"evaluated at {side}.",
        *([UNTRAINED] if config.detector.backbone.untrained else []),
        *([TRAINED_ON_TEST_IMAGES] if config.trained_on_test_images else []),
    ]
    return " ".join(sentences)


def detector_facts(config: FittedConfig) -> list[tuple[str, str]]:
    """(name, value) of a detector's configuration, for reports."""
    return [*facts_of(config), ("References", str(config.references)), ("Heat maps", HEAT_MAPS)]
