"""Settings that contradict each other: each rule is a condition and the sentence that refuses it.
`Combined.refuse` checks settings whenever a `DetectorConfig` or a `RunConfig` is made, from flags,
keywords or a file; `DetectorFlags.contradiction` the flags of predict.py and app.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from models.method_facts import MethodFacts
from models.methods.registry import METHODS
from utils.config import BATCH, OBJECT, WHOLE_IMAGE, MethodConfig, WindowConfig
from utils.errors import ConfigError
from utils.grey_range import GreyRange
from utils.live_sources import is_clip
from utils.text import one_line


@dataclass(frozen=True)
class Combined:
    """The settings of a detector, and those of its run: `k_shot` and `rotations` (None without a run)."""

    name: str
    options: MethodConfig
    windows: WindowConfig
    k_shot: int | None = None
    rotations: int | str | None = None

    @property
    def method(self) -> type[MethodFacts]:
        return METHODS[self.name]

    @property
    def windowed(self) -> bool:
        return self.windows.winmode != "nan"

    @property
    def reads_text(self) -> bool:
        return self.options.with_text or self.method.reads_text

    @property
    def has_roi(self) -> bool:
        return self.options.roi is not None or self.options.ignore is not None

    @property
    def has_words(self) -> bool:
        """Whether an object or words for text are given."""
        options = self.options
        return (options.object, options.normal_words, options.damaged_words) != (OBJECT, (), ())

    @property
    def unknown_component(self) -> str:
        """A component to leave out that the method does not have; "" for none."""
        return next((one for one in self.options.leave_out if one not in self.method.components), "")

    @property
    def components(self) -> str:
        names = ", ".join(self.method.components)
        return f"its components are {names}" if names else "it has no components to leave out"

    @property
    def text_methods(self) -> str:
        return ", ".join(name for name, method in METHODS.items() if method.takes_text)

    def refuse(self) -> None:
        """ConfigError, one sentence, where these settings do not go together."""
        if not isinstance(self.name, str) or self.name not in METHODS:
            raise ConfigError(
                f"--method {one_line(str(self.name), 60)} is not known; choose one of {', '.join(METHODS)}."
            )
        for applies, sentence in RULES:
            if applies(self):
                raise ConfigError(one_line(sentence.format(it=self), 1000))


Rule = tuple[Callable[[Any], object], str]
RULES: tuple[Rule, ...] = (  # of a `Combined`
    (
        lambda it: it.unknown_component,
        "--leave-out {it.unknown_component} does not go with --method {it.name}: {it.components}.",
    ),
    (
        lambda it: it.method.needs_discrepancy and it.options.fd == "none",
        "--method {it.name} needs a discrepancy, and these heads were trained on --fd none.",
    ),
    # Windows and tiles
    (
        lambda it: it.windowed and it.windows.tiles != 1,
        "--tiles does not go with local windows: both are crops of the image; give --winmode nan.",
    ),
    (
        lambda it: it.windowed and it.windows.win_stride > it.windows.win_size,
        "--win-stride {it.windows.win_stride} is larger than --win-size {it.windows.win_size}: patches "
        "between the windows would be skipped; give a stride up to the size.",
    ),
    (
        lambda it: it.windows.window_memory == WHOLE_IMAGE and it.windows.index_memory != "0",
        "--window-memory image does not go with --index-memory {it.windows.index_memory}: there are no "
        "windows of references to choose from; leave one out.",
    ),
    # Methods that compare the test images with each other
    (
        lambda it: it.method.transductive and it.windowed,
        "--winmode {it.windows.winmode} does not go with --method {it.name}, which compares whole images and "
        "tiles with each other: leave it out.",
    ),
    (
        lambda it: it.method.transductive and it.options.with_batch,
        "--with-batch does not go with --method {it.name}, which is mutual scoring itself: leave it out.",
    ),
    # Images
    (
        lambda it: it.options.grey_range is not None and GreyRange.of(it.options.grey_range) is None,
        "--grey-range {it.options.grey_range} is no range: give LOW:HIGH, two numbers, the lower one first.",
    ),
    (
        lambda it: it.has_roi and it.windowed and it.windows.index_memory != "0",
        "--roi and --ignore do not go with --index-memory {it.windows.index_memory}, which needs whole "
        "windows of the references: leave it out.",
    ),
    (
        lambda it: it.has_roi and (it.method.transductive or it.options.with_batch),
        "--roi and --ignore do not go with mutual scoring, which compares whole test images: leave them out.",
    ),
    # Text
    (
        lambda it: it.has_words and not it.reads_text,
        "--object, --normal-words and --damaged-words are words for text: add --with-text, take --method "
        "text, or leave them out.",
    ),
    (
        lambda it: it.options.with_text and not it.method.takes_text,
        "--with-text does not go with --method {it.name}: it is defined for {it.text_methods}.",
    ),
    (
        lambda it: it.options.with_text and it.options.fd == "none",
        "--with-text weighs residuals from references, and these heads were trained on --fd none.",
    ),
    (
        lambda it: it.options.with_text and it.windows.index_memory != "0",
        "--with-text does not go with --index-memory {it.windows.index_memory}: text is matched with all "
        "reference windows; leave one out.",
    ),
    (
        lambda it: it.method.reads_text and it.options.with_batch,
        "--with-batch does not go with --method {it.name}: it is added to a method with references.",
    ),
    (
        lambda it: it.method.reads_text and it.windows.tiles != 1,
        "--tiles does not go with --method {it.name}: the references' size decides how many there are.",
    ),
    # References of a run
    (
        lambda it: it.method.added_by and it.k_shot,
        "--method {it.name} takes no references: leave --references or --k-shot out, or add "
        "{it.method.added_by} to a method that does.",
    ),
    (
        lambda it: it.method.added_by and it.rotations not in (None, 1),
        "--rotate-references does not go with --method {it.name}, which takes no references: leave it out, "
        "or add {it.method.added_by} to a method that does.",
    ),
    (
        lambda it: it.k_shot == 0 and it.options.with_batch,
        "--with-batch is added to a method with references: give at least one, or compare the test images "
        "alone with --method batch.",
    ),
    (
        lambda it: it.k_shot == 0 and it.method.needs_heads and it.options.fd != "none",
        "--k-shot 0 works only with heads trained on --fd none; give at least one reference.",
    ),
    (
        lambda it: it.k_shot == 0 and not it.method.needs_heads and not it.method.added_by,
        "--k-shot 0 leaves --method {it.name} nothing to compare with; give at least one reference.",
    ),
)


OF_SAVED: tuple[Rule, ...] = (  # of the flags of predict.py and app.py, a new detector's too
    (
        lambda it: it.detector and it.making,
        "--{it.making[0]} does not go with --detector: the file holds all of it",
    ),
    (
        lambda it: not it.detector and it.changes,
        "--add-references and --forget change a saved detector: name it with --detector",
    ),
    (
        lambda it: it.lacks_heads,
        "--method {it.method} needs trained heads: name them with --checkpoint FILE, or train them",
    ),
)
OF_THRESHOLDS: tuple[Rule, ...] = (
    (
        lambda it: it.inspects and it.threshold == BATCH and it.false_alarm_rate == "none",
        "--threshold batch and --false-alarm-rate none contradict each other: leave one out",
    ),
    (
        lambda it: it.inspects and it.calibration and it.false_alarm_rate == "none",
        "--calibration and --false-alarm-rate none contradict each other: leave one out",
    ),
    (
        lambda it: it.inspects and len(it.thresholds) > 1,
        "{it.thresholds[0]} and {it.thresholds[1]} are two thresholds: give one",
    ),
    (
        lambda it: not it.inspects and it.threshold == BATCH,
        "--threshold batch is of input images, and there are none: add --input",
    ),
)
OF_PREDICT: tuple[Rule, ...] = (
    *OF_SAVED,
    (lambda it: it.show and not it.doctor and not it.detector, "--show is for --detector FILE"),
    (lambda it: it.inspects and not it.input, "--input is needed: the photographs to score"),
    (lambda it: it.inspects and not it.has_normal_images, "--references DIR is needed (or --detector FILE)"),
    (
        lambda it: it.inspects and it.output is None and (it.format != "json" or it.writes),
        "--output DIR is needed (only --format json without other files can do without)",
    ),
    *OF_THRESHOLDS,
    # Cameras, streams and clips
    (
        lambda it: it.every is not None and not it.live,
        "--every is for a camera, a stream or a clip as --input",
    ),
    (
        lambda it: it.live and len(it.input) > 1,
        "--input {it.live} is a camera, a stream or a clip: give it alone",
    ),
    (
        lambda it: it.live and it.whole_batch,
        "{it.whole_batch} compares all test images, and --input {it.live} gives one after the other: save "
        "its frames and give their folder",
    ),
    (
        lambda it: it.live and it.workers is not None,
        "--workers loads files, and --input {it.live} is read as it comes: leave it out",
    ),
    (
        lambda it: it.live and it.resume and is_clip(it.input[0]),
        "--resume does not go with the clip {it.live}, which is scored from its start: leave it out",
    ),
)
