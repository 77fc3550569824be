"""The typed settings of a detector and of a run, their JSON values, and their identity.

`as_stored` (utils/options.py) gives the values of config.json or of a saved detector, `from_stored` is their
only validator, and `identity` holds the settings that decide the result: two runs of one identity are the
same. Those of a training are in fdsl/config/training_config.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from data.records import DATASETS
from fdsl.config.contradictions import Combined
from models.methods.registry import METHODS, METHODS_IN_WORDS, WITH_HEADS
from utils.config import AUTO, PAPER_SIDE, BackboneConfig, MachineFacts, MethodConfig, WindowConfig
from utils.options import INLINE, WINDOWS, Options, as_stored, option, options_of, without
from utils.world import as_of_first

LOWEST_RATE = 1e-9  # target false-positive rate: below it a normal distribution is no guide
# Options of windows: those that combine finished maps, and those that have an effect without windows.
FUSED = [name for name, one in options_of(WindowConfig).items() if one.fused and one.needs]
WITHOUT_WINDOWS = [name for name, one in options_of(WindowConfig).items() if one.needs != WINDOWS]
OF_MAPS = ("method", "checkpoint_digest", "backbone", "options", "device", "precision", "rotations")
SINGLE_IMAGE_SCORES = ("max", "top1")  # those that do not depend on other images
SCORES_IN_WORDS = (
    "max: the highest value of each layer's map, averaged over layers, or the method's own score; "
    "top1: the mean of the highest 1 % of the map"
)


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """The settings of a detector: the method's name, its backbone, options and windows, and the machine."""

    method: str = option(
        WITH_HEADS,
        choices=tuple(METHODS),
        help=f"how images are compared (default $default); {METHODS_IN_WORDS}",
    )
    backbone: BackboneConfig
    options: MethodConfig
    windows: WindowConfig
    machine: MachineFacts

    def __post_init__(self) -> None:
        self._combined.refuse()

    @property
    def _combined(self) -> Combined:
        return Combined(self.method, self.options, self.windows)

    @property
    def reads_text(self) -> bool:
        """Whether text takes part."""
        return self._combined.reads_text

    @property
    def lacks(self) -> list[str]:
        """What options may need (utils/options.py) and this detector does not have."""
        return self._combined.lacks

    @property
    def sees_test_set(self) -> bool:
        """Whether it is transductive: the test images are compared with each other."""
        return self.options.with_batch or METHODS[self.method].transductive


@dataclass(frozen=True, kw_only=True)
class RunConfig(Options):
    """A test run: config.json of its folder.

    `trained_on`: the heads' training set, None where it is unknown. `weights`, `files`: digests of the
    backbone's weights and of the photographs. `trained_on_test_images`: whether the heads were trained on the
    very test images, None without heads. `rotations`: copies of each reference, itself included; AUTO: by the
    references; 1: not rotated. `grey`: the range (low, high) of each category whose references have more than
    8 bits.
    """

    group: ClassVar[str] = "evaluation"

    dataset: str = option("", choices=tuple(DATASETS))
    data_path: str = option("", place=True)
    meta: str | None = option(None, place=True)
    model_name: str = option("fdsl")
    k_shot: int = option(
        1,
        span=(0, 2**63 - 1),
        several=True,
        short="",
        group="references",
        metavar="K",
        help="references of each category (default $default; 0 with --method batch or text); several: a "
        "run for each, and each test image is encoded once for all",
    )
    seed: int = option(
        14,
        span=(0, 2**63 - 1),
        several=True,
        short="",
        group="references",
        metavar="S",
        help="samples the references (default $default); several: as above",
    )
    detector: DetectorConfig = field(metadata=INLINE)
    checkpoint: str = option("", place=True)
    checkpoint_digest: str = option("")
    trained_on: str | None = option(None)
    weights: str | None = option(None)
    image_score: str = option(
        "paper",
        choices=("paper", *SINGLE_IMAGE_SCORES),
        fused=True,
        short="{}",
        help=f"paper: scaled over the whole test set, as published; {SCORES_IN_WORDS} (default $default "
        f"for {WITH_HEADS}, else max)",
    )
    metric_size: int | str = option(
        PAPER_SIDE,
        span=(2, 8192),
        words={"full": "full"},
        fused=True,
        short="at{}",
        metavar="PX|full",
        help="resolution in pixels for pixel metrics (default $default); full: each mask's own resolution",
    )
    pictures: int | None = option(
        None,
        span=(0, 10**9),
        place=True,
        metavar="N",
        help="at most N picture strips per category (default all); 0: no pictures and no report",
    )
    command: str
    files: str | None = option(None)
    trained_on_test_images: bool | None = None
    rotations: int | str = option(
        1,
        span=(1, 360),
        words={AUTO: AUTO},
        short="rot{}",
        group="references",
        flag_name="rotate-references",
        metavar="N|auto",
        help="orientations of each reference in the memory bank, 360/N degrees apart; 1 where a wrong "
        "orientation is a defect; auto: 8, or 1 where rotation brings the references no closer to each other "
        "(default auto for plus, else $default)",
    )
    grey: dict[str, list[float]] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        made = self.detector
        Combined(made.method, made.options, made.windows, self.k_shot, self.rotations).refuse()

    def in_float32(self) -> RunConfig:
        """This run in float32, after values overflowed in the requested precision."""
        machine = self.detector.machine.in_precision("float32")
        return replace(self, detector=replace(self.detector, machine=machine))

    def identity(self, of: Literal["maps", "run", "row"]) -> dict[str, Any]:
        """The settings that two runs share that have the same maps (of the same files), are the same run, or
        are in one row of a summary.

        The places of files and the command do not count. A row's runs differ in their seed and therefore in
        their photographs; its settings are flat, for instance `windows.win_size`.
        """
        machine, backbone = self.detector.machine, self.detector.backbone
        values = {
            **without(as_stored(self, places=False), ("machine", "command")),
            "weights": self.weights or " ".join(filter(None, [backbone.pretrained, backbone.model_config])),
            "precision": machine.precision,
            "device": as_of_first(machine.device),
        }
        if of == "run":
            return values
        if of == "maps":
            return {name: values[name] for name in OF_MAPS} | {"windows": without(values["windows"], FUSED)}
        if self.detector.windows.winmode == "nan":
            values["windows"] = {name: values["windows"][name] for name in WITHOUT_WINDOWS}
        flat: dict[str, Any] = {}
        for name, value in without(values, ("seed", "files", "grey", "device")).items():
            parts = value if isinstance(value, dict) else None
            flat |= {name: value} if parts is None else {f"{name}.{part}": parts[part] for part in parts}
        return flat


@dataclass(frozen=True)
class FittedConfig(Options):
    """A detector of the Python interface, and the references it was fitted to.

    `checkpoint`, `trained_on`: of trained heads. `fingerprint`: of the backbone's weights. `references`:
    their number in the memory bank, each in `rotations` copies. `rotations_chosen`: by AUTO, so that other
    references may be rotated otherwise.
    """

    detector: DetectorConfig = field(metadata=INLINE)
    image_score: str = option(
        "max", choices=SINGLE_IMAGE_SCORES, help=f"{SCORES_IN_WORDS} (default $default)"
    )
    checkpoint: str | None = option(None, place=True)
    trained_on: str | None = option(None)
    fingerprint: str = option("")
    references: int = option(0, span=(0, 10**6), place=True)
    rotations: int = option(1, span=(1, 360))
    rotations_chosen: bool = option(False, place=True)


@dataclass(frozen=True)
class Threshold:
    """From `score` on an image is anomalous, from `pixel_threshold` on a patch is (None:
    unknown). `source`: how they were chosen, as text. `rate`: the target false-positive rate that scores of
    normal images gave them for; None for any other threshold."""

    score: float
    pixel_threshold: float | None
    source: str
    rate: float | None = None


@dataclass(frozen=True)
class PredictionConfig:
    """predict.py's config.json: the settings that decide its results, and facts for its readers.

    `digest`: of everything that was fitted. `pictures`, `save_maps`, `save_masks`, `input`: the flags, None
    without a command. `trust`: how reliable the threshold is, "" where that is unknown.
    """

    fitted: FittedConfig = field(metadata=INLINE)
    digest: str
    threshold: Threshold | None
    command: str
    pictures: str | None = None
    save_maps: bool | None = None
    save_masks: bool | None = None
    min_area: int = 1
    input: tuple[str, ...] | None = None
    trust: str = ""

    def identity(self) -> dict[str, Any]:
        """The settings that a run must share with another one to continue it."""
        return identity_of_prediction(as_stored(self))


NOT_OF_A_PREDICTION = (
    *("machine", "command", "input", "made_by", "trust"),
    *(name for name, one in options_of(FittedConfig).items() if one.place),
)


def identity_of_prediction(values: Mapping[str, Any]) -> dict[str, Any]:
    """`PredictionConfig.identity` of the values of a config.json."""
    return without(values, NOT_OF_A_PREDICTION)
