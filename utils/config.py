"""Settings: dataclasses, the flags that fill them, and the sentences that refuse contradictory ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from utils.errors import ConfigError
from utils.text import one_line
from utils.tile_layout import AUTO_TILES, MOST_TILES
from utils.world import as_of_first

OTHER_DATASET = {"mvtec": "visa", "visa": "mvtec"}


PUBLISHED_EPOCHS = {"visa": 11, "mvtec": 5}
PUBLISHED_SHOTS = 10  # references of each category while heads are trained


AUGMENTATIONS = {"mvtec": "mosaic", "visa": "crop", "folder": "none"}
SEVERAL = "+"  # between the names of several datasets that heads are trained on, and their digests
SYNTHETIC = {"only": "synthetic", "mixed": "mixed"}  # value of --synthetic -> augmentation
SYNTHETIC_IMAGES = 4000  # that heads see by default, half of them with a drawn defect


IMAGE_SCORES = ("paper", "max", "top1")


AUTO = "auto"  # turned copies of the references where they do no harm


FD_MODES = ("abs", "signed", "context", "none")
ALIGNMENTS = ("mulmax", "diff2")
WINDOW_MODES = ("nan", "mul", "onlywin")
INDEX_MEMORIES = ("0", "1", "window")
OWN_WINDOWS, WHOLE_IMAGE = WINDOW_MEMORIES = ("windows", "image")
UNTRAINED = "none"  # as weights: random ones from a fixed seed
USUAL_SIDE = 518  # pixels that a backbone sees, as near as its patches allow
OBJECT, BY_CATEGORY = "object", ""  # what photographs show, in the words of text; each category's own name
RAW, FINAL = "raw", "final"  # tokens: a block's output, or behind the model's last norm
QUARTER = -1  # as a window budget: so many windows that they take about a quarter of the time


# What stored values may be, by their names: one of these, or a number (or several) within a span.
LONGEST_TEXT = 1024  # characters of a stored model, path or name
PRECISION_NAMES = ("float32", "bfloat16", "float16")
CHOICES = {
    "fd": FD_MODES,
    "align": ALIGNMENTS,
    "winmode": WINDOW_MODES,
    "index_memory": INDEX_MEMORIES,
    "token_norm": (RAW, FINAL),
    "window_memory": WINDOW_MEMORIES,
}
SPANS = {
    "layers": (1, 10_000),
    "image_size": (1, 8192),
    "win_size": (1, 8192),
    "win_stride": (1, 8192),
    "win_zip": (0, 8192),
    "win_weight": (0, 1),
    "window_budget": (QUARTER, 10**9),
    "tiles": (AUTO_TILES, MOST_TILES),
}


@dataclass(frozen=True)
class BackboneConfig:
    """Which frozen image tower, which blocks are tapped (counted from 1), the image side in pixels, and
    whether tokens are a block's raw output or pass the model's last norm."""

    model: str = "ViT-L-14-336-quickgelu"
    pretrained: str = "openai"
    model_config: str | None = None
    layers: tuple[int, ...] = (6, 12, 18, 24)
    image_size: int = USUAL_SIDE
    token_norm: str = RAW

    @property
    def untrained(self) -> bool:
        return self.pretrained == UNTRAINED


@dataclass(frozen=True)
class MethodConfig:
    """What a method computes: neighbour aggregation, the discrepancy, the alignment, which of the method's
    own parts (`Method.parts`) are left out, and whether mutual scoring of the inspected photographs or text
    is added. object (or BY_CATEGORY), normal_words, damaged_words: what text says (models/directions.py);
    none: the usual words."""

    use_nam: bool = True
    fd: str = "abs"
    align: str = "mulmax"
    leave_out: tuple[str, ...] = ()
    with_batch: bool = False
    with_text: bool = False
    object: str = OBJECT
    normal_words: tuple[str, ...] = ()
    damaged_words: tuple[str, ...] = ()


@dataclass(frozen=True)
class WindowConfig:
    """LFE: mode nan, mul or onlywin; side and stride in patches; weight of the window branch; which reference
    windows are matched ("0" all, "1" picked by any window, "window" own picks); windows encoded per image (0
    all, QUARTER: see there). tiles, without windows: beside the whole image about tiles x tiles parts of it
    (1: none, AUTO_TILES: by its size). window_memory: whether windows are matched with the references'
    windows or with their whole images. win_zip: the side in patches that windows are resized to before they
    are encoded (0: as they are)."""

    winmode: str = "mul"
    win_size: int = 13
    win_stride: int = 2
    win_weight: float = 0.5
    index_memory: str = "0"
    window_budget: int = 0
    tiles: int = 1
    window_memory: str = OWN_WINDOWS
    win_zip: int = 0

    @property
    def encoded_side(self) -> int:
        """Patches along a side of a window as the backbone sees it."""
        return self.win_zip or self.win_size


@dataclass(frozen=True)
class MachineFacts:
    """What a result's reader needs to know of the machine: device and precision, and what stood beneath them.

    `precision_asked`: the one that was asked for, where values overflowed in it and `precision` took over.
    """

    device: str
    device_name: str | None
    precision: str
    torch: str
    python: str
    system: str
    precision_asked: str | None = None

    @property
    def device_of_run(self) -> str:
        """The device as the first of a run's processes has it."""
        return as_of_first(self.device)

    def in_precision(self, precision: str) -> MachineFacts:
        """These facts where values overflowed in the precision asked for and `precision` took over."""
        if precision == self.precision:
            return self
        return replace(self, precision=precision, precision_asked=self.precision)

    def to_json(self) -> dict[str, str | None]:
        return dict(vars(self))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> MachineFacts:
        """The facts from stored values; ConfigError for other names, and where one is no text."""
        refuse_other_names(cls, values)
        for name, value in values.items():
            empty = value is None and name in ("device_name", "precision_asked")
            if not empty and not is_stored_text(value):
                raise ConfigError(f"the machine's {name} is {one_line(repr(value), 60)}, which is no text")
        for name in ("precision", "precision_asked"):
            if values[name] is not None and values[name] not in PRECISION_NAMES:
                raise ConfigError(f"the machine's {name} is {one_line(values[name], 60)}, which is none")
        return cls(**values)


def refuse_other_names(kind: type, stored: Mapping[str, Any]) -> None:
    """ConfigError unless the stored names are those of the dataclass `kind`."""
    names = {item.name for item in fields(kind)}
    if not isinstance(stored, Mapping) or set(stored) != names:
        found = ", ".join(sorted(map(str, stored))) if isinstance(stored, Mapping) else repr(stored)
        raise ConfigError(
            f"The stored {kind.__name__} has the fields {one_line(found, 200)}, this code expects "
            f"{', '.join(sorted(names))}; use the version of the code that wrote it."
        )


def from_stored(kind: type, stored: Mapping[str, Any]):
    """A dataclass from stored values; unknown or missing names and wrong types are a ConfigError."""
    refuse_other_names(kind, stored)
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
    default = kind()
    for name, value in values.items():
        kept = getattr(default, name)
        if not _is_like(kept, value):
            kind_of = type(kept).__name__
            raise ConfigError(f"The stored {name} is {one_line(repr(value), 60)}, which is no {kind_of}.")
        if not _may_be(name, value):
            raise ConfigError(f"The stored {name} is {one_line(repr(value), 60)}, which no flag takes.")
    return kind(**values)


def _is_like(default: Any, value: Any) -> bool:
    """Whether a stored value is of the default's kind; a place that may be empty holds text otherwise."""
    if default is None or isinstance(default, str):
        return is_stored_text(value) or (value is None and default is None)
    if isinstance(default, float):
        return type(value) in (int, float)
    return type(value) is type(default)


def is_stored_text(value: Any) -> bool:
    """Whether a stored value is text of a length that names have."""
    return isinstance(value, str) and len(value) <= LONGEST_TEXT and "\0" not in value


def _may_be(name: str, value: Any) -> bool:
    """Whether a stored value is one that the flags take: values become parts of paths and sizes of memory."""
    if name in CHOICES:
        return value in CHOICES[name]
    if name in SPANS:
        low, high = SPANS[name]
        numbers = value if isinstance(value, tuple) else (value,)
        kinds = (int, float) if name == "win_weight" else (int,)
        return bool(numbers) and all(type(one) in kinds and low <= one <= high for one in numbers)
    if isinstance(value, tuple):
        return all(is_stored_text(one) for one in value)
    return True


def as_stored(config: Any) -> dict[str, Any]:
    """A dataclass as JSON values."""
    values = asdict(config)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def without(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The values but for those of these names."""
    left_out = set(names)
    return {name: value for name, value in values.items() if name not in left_out}


def checkpoint_path(folder: Path, model_name: str, dataset: str) -> Path:
    """checkpoints/MODEL/DATASET.safetensors, named by the training set."""
    return Path(folder) / model_name / f"{dataset}.safetensors"
