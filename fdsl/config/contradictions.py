"""What does not go together: each a condition and the sentence that refuses it. `refuse_contradictions` asks
all of them whenever a `DetectorConfig` or a `RunConfig` is made, from flags, keywords or a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from models.method_facts import MethodFacts
from models.methods.registry import METHODS
from utils.config import OBJECT, WHOLE_IMAGE, MethodConfig, WindowConfig
from utils.errors import ConfigError
from utils.text import one_line


@dataclass(frozen=True)
class Combined:
    """The settings of a detector, and of a run its `k_shot` and `rotations` (None where there is no run)."""

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
    def has_words(self) -> bool:
        """Whether it says what text is about."""
        options = self.options
        return (options.object, options.normal_words, options.damaged_words) != (OBJECT, (), ())

    @property
    def strange(self) -> str:
        """A component to leave out that the method does not have."""
        return next((one for one in self.options.leave_out if one not in self.method.parts), "")

    @property
    def components(self) -> str:
        known = ", ".join(self.method.parts)
        return f"its components are {known}" if known else "it has no components to leave out"

    @property
    def text_methods(self) -> str:
        return ", ".join(name for name, method in METHODS.items() if method.takes_text)


Rule = tuple[Callable[[Combined], object], str]
RULES: tuple[Rule, ...] = (
    (lambda it: it.strange, "--leave-out {it.strange} does not go with --method {it.name}: {it.components}."),
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
        "between the windows would not be seen; give a stride up to the size.",
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
    # Text
    (
        lambda it: it.has_words and not it.reads_text,
        "--object, --normal-words and --damaged-words are what text says: add --with-text, take --method "
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
        "--k-shot {it.k_shot} does not go with --method {it.name}, which takes no references: leave it out, "
        "or add {it.method.added_by} to a method that does.",
    ),
    (
        lambda it: it.method.added_by and it.rotations not in (None, 1),
        "--rotate-references does not go with --method {it.name}, which takes no references: leave it out, "
        "or add {it.method.added_by} to a method that does.",
    ),
    (
        lambda it: it.k_shot == 0 and it.options.with_batch,
        "--with-batch is added to a method with references: give at least one with --k-shot, or compare the "
        "test images alone with --method batch.",
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


def refuse_contradictions(
    method: str,
    options: MethodConfig,
    windows: WindowConfig,
    k_shot: int | None = None,
    rotations: int | str | None = None,
) -> None:
    """ConfigError, one sentence, where the settings of a detector, or of a run, do not go together."""
    if not isinstance(method, str) or method not in METHODS:
        raise ConfigError(
            f"--method {one_line(str(method), 60)} is not known; choose one of {', '.join(METHODS)}."
        )
    combined = Combined(method, options, windows, k_shot, rotations)
    for applies, sentence in RULES:
        if applies(combined):
            raise ConfigError(one_line(sentence.format(it=combined), 1000))
