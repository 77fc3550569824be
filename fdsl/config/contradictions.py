"""Settings that contradict each other or have no effect, each by a rule. `Combined.refuse` checks settings
whenever a `DetectorConfig` or a `RunConfig` is made, from flags, keywords or a file; `broken` the flags of a
command."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from models.methods.registry import METHODS, WITH_HEADS, MethodFacts
from utils.config import BATCH, OBJECT, WHOLE_IMAGE, BackboneConfig, MethodConfig, WindowConfig
from utils.errors import ConfigError
from utils.limits import GreyRange
from utils.options import COMPONENTS, HEADS, SEARCH, TEXT, WINDOWS, Option, options_of
from utils.sources import is_clip
from utils.text import one_line

OF_DETECTORS: Mapping[str, Option] = {
    **options_of(WindowConfig),
    **options_of(MethodConfig),
    **options_of(BackboneConfig),
}


def needing(what: str) -> tuple[str, ...]:
    """The names of a detector's options that need this."""
    return tuple(name for name, one in OF_DETECTORS.items() if one.needs == what)


OF_HEADS, WORDS = needing(HEADS), needing(TEXT)


class Rule(NamedTuple):
    """Where it `applies`, `sentence` refuses settings in which `has` finds a contradicting value, or, where
    that is None, of which one of the `unused` was given. unused: settings without effect there, which
    --ablate leaves out. In the sentence {it} is what is checked, {flag} the first of them that was given."""

    applies: Callable[[Any], object]
    sentence: str
    unused: tuple[str, ...] = ()
    has: Callable[[Any], object] | None = None

    def refuses(self, it: Any) -> str:
        """The sentence, or "" for settings that go together."""
        if not self.applies(it):
            return ""
        given = [f"--{name.replace('_', '-')}" for name in self.unused if it.given.get(name) is not None]
        is_refused = self.has(it) if self.has else given or not self.unused
        return self.sentence.format(it=it, flag=next(iter(given), "")) if is_refused else ""


def broken(rules: Iterable[Rule], it: Any) -> str:
    """The sentence of the first rule that refuses `it`; "" for none."""
    return next(filter(None, (rule.refuses(it) for rule in rules)), "")


@dataclass(frozen=True)
class Combined:
    """The settings of a detector, and those of its run: `k_shot` and `rotations` (None without a run). given:
    the settings that were given, by name (None: not given), where that is known."""

    name: str
    options: MethodConfig
    windows: WindowConfig
    k_shot: int | None = None
    rotations: int | str | None = None
    given: Mapping[str, Any] = field(default_factory=dict)

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
    def lacks(self) -> list[str]:
        """What options may need (utils/options.py) and this detector does not have."""
        has = {
            WINDOWS: self.windowed,
            HEADS: self.method.needs_heads,
            SEARCH: self.method.matches and self.options.fd != "none",
            COMPONENTS: self.method.components,
            TEXT: self.reads_text,
        }
        return [need for need, is_there in has.items() if not is_there]

    @property
    def has_words(self) -> bool:
        """Whether an object or words for text are given."""
        options = self.options
        stored = (options.object, options.normal_words, options.damaged_words) != (OBJECT, (), ())
        return stored or any(self.given.get(name) is not None for name in WORDS)

    @property
    def unknown_component(self) -> str:
        """A component to leave out that the method does not have; "" for none."""
        return next((one for one in self.options.leave_out if one not in self.method.components), "")

    @property
    def components(self) -> str:
        return ", ".join(self.method.components)

    @property
    def text_methods(self) -> str:
        return ", ".join(name for name, method in METHODS.items() if method.takes_text)

    def refuse(self) -> None:
        """ConfigError, one sentence, where these settings do not go together."""
        if not isinstance(self.name, str) or self.name not in METHODS:
            raise ConfigError(
                f"--method {one_line(str(self.name), 60)} is not known; choose one of {', '.join(METHODS)}."
            )
        if problem := broken(RULES, self):
            raise ConfigError(one_line(problem, 1000))

    def refuse_without_effect(self) -> None:
        """ConfigError for a setting that was given and has no effect, before the heads' own are known."""
        if problem := broken((rule for rule in RULES if rule.unused), self):
            raise ConfigError(one_line(problem, 1000))

    def without_effect(self) -> set[str]:
        """The names of settings that have none here: with them a run would be refused, or be the same as
        without."""
        lacking = {name for name, one in OF_DETECTORS.items() if one.needs in self.lacks}
        return lacking.union(*(rule.unused for rule in RULES if rule.applies(self)))


RULES: tuple[Rule, ...] = (  # of a `Combined`
    # What a setting needs
    Rule(
        lambda it: COMPONENTS in it.lacks,
        "--leave-out does not go with --method {it.name}: it has no components to leave out.",
        ("leave_out",),
        lambda it: it.options.leave_out,
    ),
    Rule(
        lambda it: it.unknown_component,
        "--leave-out {it.unknown_component} does not go with --method {it.name}: its components are "
        "{it.components}.",
    ),
    Rule(
        lambda it: HEADS in it.lacks,
        "{flag} does not go with --method {it.name}, which has no trained heads: add --method "
        f"{WITH_HEADS}, or leave it out.",
        (*OF_HEADS, "checkpoint", "checkpoints"),
    ),
    Rule(
        lambda it: SEARCH in it.lacks,
        "{flag} does not go with --method {it.name}, which searches for no patches: change it, or leave it "
        "out.",
        needing(SEARCH),
    ),
    Rule(
        lambda it: not it.method.matches,
        "{flag} chooses among the windows of references that are searched: add --winmode mul or onlywin to a "
        "method that searches for patches, or leave it out.",
        ("index_memory",),
    ),
    Rule(
        lambda it: WINDOWS in it.lacks,
        "{flag} is for local windows: add --winmode mul or onlywin, or leave it out.",
        needing(WINDOWS),
    ),
    Rule(
        lambda it: it.windows.winmode == "onlywin",
        "{flag} is the share of local windows: add --winmode mul, or leave it out.",
        ("win_weight",),
    ),
    Rule(
        lambda it: it.method.needs_discrepancy and it.options.fd == "none",
        "--method {it.name} needs a discrepancy, and these heads were trained on --fd none.",
    ),
    # Windows and tiles
    Rule(
        lambda it: it.windowed and it.windows.tiles != 1,
        "--tiles does not go with local windows: both are crops of the image; give --winmode nan.",
    ),
    Rule(
        lambda it: it.windowed and it.windows.win_stride > it.windows.win_size,
        "--win-stride {it.windows.win_stride} is larger than --win-size {it.windows.win_size}: patches "
        "between the windows would be skipped; give a stride up to the size.",
    ),
    Rule(
        lambda it: it.windows.window_memory == WHOLE_IMAGE,
        "--window-memory image does not go with --index-memory {it.windows.index_memory}: there are no "
        "windows of references to choose from; leave one out.",
        ("index_memory",),
        lambda it: it.windows.index_memory != "0",
    ),
    # Methods that compare the test images with each other
    Rule(
        lambda it: it.method.transductive,
        "--winmode {it.windows.winmode} does not go with --method {it.name}, which compares whole images and "
        "tiles with each other: leave it out.",
        ("winmode",),
        lambda it: it.windowed,
    ),
    Rule(
        lambda it: it.method.transductive,
        "--with-batch does not go with --method {it.name}, which is mutual scoring itself: leave it out.",
        ("with_batch",),
        lambda it: it.options.with_batch,
    ),
    # Images
    Rule(
        lambda it: it.options.grey_range is not None and GreyRange.of(it.options.grey_range) is None,
        "--grey-range {it.options.grey_range} is no range: give LOW:HIGH, two numbers, the lower one first.",
    ),
    Rule(
        lambda it: it.has_roi and it.windowed and it.windows.index_memory != "0",
        "--roi and --ignore do not go with --index-memory {it.windows.index_memory}, which needs whole "
        "windows of the references: leave it out.",
    ),
    Rule(
        lambda it: it.has_roi and (it.method.transductive or it.options.with_batch),
        "--roi and --ignore do not go with mutual scoring, which compares whole test images: leave them out.",
    ),
    # Text
    Rule(
        lambda it: TEXT in it.lacks,
        "--object, --normal-words and --damaged-words are words for text: add --with-text, take --method "
        "text, or leave them out.",
        WORDS,
        lambda it: it.has_words,
    ),
    Rule(
        lambda it: not it.method.takes_text,
        "--with-text does not go with --method {it.name}: it is defined for {it.text_methods}.",
        ("with_text",),
        lambda it: it.options.with_text,
    ),
    Rule(
        lambda it: it.options.with_text and it.options.fd == "none",
        "--with-text weighs residuals from references, and these heads were trained on --fd none.",
    ),
    Rule(
        lambda it: it.options.with_text and it.windows.index_memory != "0",
        "--with-text does not go with --index-memory {it.windows.index_memory}: text is matched with all "
        "reference windows; leave one out.",
    ),
    Rule(
        lambda it: it.method.reads_text,
        "--with-batch does not go with --method {it.name}: it is added to a method with references.",
        ("with_batch",),
        lambda it: it.options.with_batch,
    ),
    Rule(
        lambda it: it.method.reads_text,
        "--tiles does not go with --method {it.name}: the references' size decides how many there are.",
        ("tiles",),
        lambda it: it.windows.tiles != 1,
    ),
    # References of a run
    Rule(
        lambda it: it.method.added_by,
        "--method {it.name} takes no references: leave --references or --k-shot out, or add "
        "{it.method.added_by} to a method that does.",
        ("k_shot",),
        lambda it: it.k_shot,
    ),
    Rule(
        lambda it: it.method.added_by,
        "--rotate-references does not go with --method {it.name}, which takes no references: leave it out, "
        "or add {it.method.added_by} to a method that does.",
        ("rotate_references",),
        lambda it: it.rotations not in (None, 1),
    ),
    Rule(
        lambda it: it.k_shot == 0 and it.options.with_batch,
        "--with-batch is added to a method with references: give at least one, or compare the test images "
        "alone with --method batch.",
    ),
    Rule(
        lambda it: it.k_shot == 0 and it.method.needs_heads and it.options.fd != "none",
        "--k-shot 0 works only with heads trained on --fd none; give at least one reference.",
    ),
    Rule(
        lambda it: it.k_shot == 0 and not it.method.needs_heads and not it.method.added_by,
        "--k-shot 0 leaves --method {it.name} nothing to compare with; give at least one reference.",
    ),
)


OF_SAVED: tuple[Rule, ...] = (  # of the flags of predict.py and app.py, a new detector's too
    Rule(
        lambda it: it.detector and it.making,
        "--{it.making[0]} does not go with --detector: the file holds all of it",
    ),
    Rule(
        lambda it: not it.detector and it.changes,
        "--add-references and --forget change a saved detector: name it with --detector",
    ),
    Rule(
        lambda it: it.lacks_heads,
        "--method {it.method} needs trained heads: name them with --checkpoint FILE, or train them",
    ),
)
OF_THRESHOLDS: tuple[Rule, ...] = (
    Rule(
        lambda it: it.inspects and it.threshold == BATCH and it.false_alarm_rate == "none",
        "--threshold batch and --false-alarm-rate none contradict each other: leave one out",
    ),
    Rule(
        lambda it: it.inspects and it.calibration and it.false_alarm_rate == "none",
        "--calibration and --false-alarm-rate none contradict each other: leave one out",
    ),
    Rule(
        lambda it: it.inspects and len(it.thresholds) > 1,
        "{it.thresholds[0]} and {it.thresholds[1]} are two thresholds: give one",
    ),
    Rule(
        lambda it: not it.inspects and it.threshold == BATCH,
        "--threshold batch is of input images, and there are none: add --input",
    ),
)
OF_PREDICT: tuple[Rule, ...] = (
    *OF_SAVED,
    Rule(lambda it: it.show and not it.doctor and not it.detector, "--show is for --detector FILE"),
    Rule(lambda it: it.inspects and not it.input, "--input is needed: the photographs to score"),
    Rule(
        lambda it: it.inspects and not it.has_normal_images, "--references DIR is needed (or --detector FILE)"
    ),
    Rule(
        lambda it: it.inspects and it.output is None and (it.format != "json" or it.writes),
        "--output DIR is needed (only --format json without other files can do without)",
    ),
    *OF_THRESHOLDS,
    # Cameras, streams and clips
    Rule(
        lambda it: it.every is not None and not it.live,
        "--every is for a camera, a stream or a clip as --input",
    ),
    Rule(
        lambda it: it.live and len(it.input) > 1,
        "--input {it.live} is a camera, a stream or a clip: give it alone",
    ),
    Rule(
        lambda it: it.live and it.whole_batch,
        "{it.whole_batch} compares all test images, and --input {it.live} gives one after the other: save "
        "its frames and give their folder",
    ),
    Rule(
        lambda it: it.live and it.workers is not None,
        "--workers loads files, and --input {it.live} is read as it comes: leave it out",
    ),
    Rule(
        lambda it: it.live and it.resume and is_clip(it.input[0]),
        "--resume does not go with the clip {it.live}, which is scored from its start: leave it out",
    ),
)
OF_PAGE: tuple[Rule, ...] = (  # of app.py
    *OF_SAVED,
    Rule(
        lambda it: it.token is None and not it.is_private,
        "--host {it.host} lets other machines in: also give --token SECRET, or leave it out and come by "
        "{it.tunnel}",
    ),
)
OF_TRAINING: tuple[Rule, ...] = (  # of train.py
    Rule(
        lambda it: len(it.data_path) != len(it.dataset), "--data-path: each dataset has a folder of its own"
    ),
    Rule(
        lambda it: (
            len({path.resolve() for path in it.data_path}) < len(it.dataset)
            or len(set(it.dataset)) < len(it.dataset)
        ),
        "--dataset and --data-path: each dataset and each folder is given once",
    ),
    Rule(lambda it: it.meta and len(it.dataset) > 1, "--meta goes with one dataset"),
)
OF_EVALUATION: tuple[Rule, ...] = (  # of test.py
    Rule(
        lambda it: it.checkpoints and it.checkpoint,
        "--checkpoint names the heads, and --checkpoints where to look: leave one out",
    ),
    Rule(lambda it: not it.from_maps and not it.dataset, "--dataset is needed (or --from-maps DIR)"),
    Rule(
        lambda it: it.submission and it.several,
        "--submission is of one run: leave --{it.several[0]} out, or give it one value",
    ),
)
