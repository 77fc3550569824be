"""What a detector and a run are made of: typed settings, their JSON values, and what makes two the same.

`to_json` gives the values of config.json or of a saved detector, `from_json` is their one
validator, and `identity` holds what decides the result: two of one identity are the same run. A
training's are in fdsl/training_config.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from data.catalogue import DATASETS
from fdsl.contradictions import refuse_contradictions
from fdsl.thresholds import Threshold
from models.methods.registry import METHODS
from utils.config import AUTO, IMAGE_SCORES, PLACES, BackboneConfig, MachineFacts, MethodConfig, WindowConfig
from utils.errors import ConfigError
from utils.options import WINDOWS, as_stored, from_stored, is_stored_text, options_of, without
from utils.text import one_line

# What decides no result: where files lie, what asked for it, and the rest of the machine's facts.
NOT_OF_A_RUN = ("machine", "command", "data_path", "meta", "checkpoint", "pictures")
NOT_OF_A_PREDICTION = ("machine", "command", "input", "checkpoint", "references")
# Of windows: what combines finished maps, and what has an effect where there are none.
FUSED = [name for name, known in options_of(WindowConfig).items() if known.fused and known.needs]
WITHOUT_WINDOWS = [name for name, known in options_of(WindowConfig).items() if known.needs != WINDOWS]
OF_A_DETECTOR = ("method", "backbone", "options", "windows", "machine")  # of DetectorConfig.to_json


@dataclass(frozen=True)
class DetectorConfig:
    """What a detector is put together from: the method's name, its parts' settings, and the machine."""

    method: str
    backbone: BackboneConfig
    options: MethodConfig
    windows: WindowConfig
    machine: MachineFacts

    def __post_init__(self) -> None:
        refuse_contradictions(self.method, self.options, self.windows)

    def to_json(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "backbone": as_stored(self.backbone),
            "options": as_stored(self.options),
            "windows": as_stored(self.windows),
            "machine": self.machine.to_json(),
        }

    @property
    def reads_text(self) -> bool:
        """Whether CLIP's words have a say."""
        return self.options.with_text or METHODS[self.method].reads_text

    @property
    def sees_test_set(self) -> bool:
        """Whether the photographs that are inspected decide about each other."""
        return self.options.with_batch or METHODS[self.method].sees_inspected

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DetectorConfig:
        """From a whole config.json or a saved detector's values, which may hold more; ConfigError, KeyError,
        TypeError or AttributeError for what none of them holds."""
        return cls(
            values["method"],
            from_stored(BackboneConfig, values["backbone"]),
            from_stored(MethodConfig, values["options"]),
            from_stored(WindowConfig, values["windows"]),
            MachineFacts.from_json(values["machine"]),
        )


@dataclass(frozen=True)
class RunConfig:
    """A test run: config.json of its folder.

    `trained_on`: the heads' training set, None where that is not known. `weights`, `files`: digests of the
    backbone's weights and of the photographs. `learnt_from_these`: whether the heads were trained on the very
    test images, None without heads. `rotations`:
    turned copies of each reference, AUTO where the references decide; None: as they are. `grey`: the range
    (low, high) of each category whose references have more than 8 bits.
    """

    dataset: str
    data_path: str
    meta: str | None
    model_name: str
    k_shot: int
    seed: int
    detector: DetectorConfig
    checkpoint: str
    checkpoint_digest: str
    trained_on: str | None
    weights: str | None
    image_score: str
    metric_size: int | str
    pictures: int | None
    command: str
    files: str | None = None
    learnt_from_these: bool | None = None
    rotations: int | str | None = None
    grey: dict[str, list[float]] | None = None

    def __post_init__(self) -> None:
        made = self.detector
        refuse_contradictions(made.method, made.options, made.windows, self.k_shot, self.rotations)

    def to_json(self) -> dict[str, Any]:
        """What config.json holds."""
        return {**{name: getattr(self, name) for name in RUN_TYPES}, **self.detector.to_json()}

    @classmethod
    def from_json(cls, values: Any) -> RunConfig:
        """From config.json; ConfigError says in a few words what is wrong."""
        try:
            own = without(values, OF_A_DETECTOR)
            config = cls(
                detector=DetectorConfig.from_json(values), **{name: own.pop(name) for name in RUN_TYPES}
            )
            if own:
                raise ConfigError(f"no run writes {one_line(', '.join(map(str, own)), 60)}")
        except KeyError as error:
            raise ConfigError(f"{error.args[0]} is missing") from error
        except (TypeError, AttributeError) as error:
            raise ConfigError(f"it holds values that no run writes: {one_line(error, 60)}") from error
        wrong = [name for name, kinds in RUN_TYPES.items() if type(getattr(config, name)) not in kinds]
        wrong += [name for name in RUN_TYPES if name != "command" and _is_odd_text(getattr(config, name))]
        wrong += [] if config.dataset in DATASETS else ["dataset"]
        wrong += [] if config.image_score in IMAGE_SCORES else ["image_score"]
        wrong += (
            [] if config.metric_size == "full" or _within(config.metric_size, 2, 8192) else ["metric_size"]
        )
        wrong += [] if config.grey is None or _is_grey(config.grey) else ["grey"]
        wrong += [name for name in ("k_shot", "seed") if not _within(getattr(config, name), 0, 2**63 - 1)]
        wrong += (
            [] if config.rotations in (None, AUTO) or _within(config.rotations, 2, 360) else ["rotations"]
        )
        if wrong:
            raise ConfigError(f"it holds values that no run writes: {', '.join(dict.fromkeys(wrong))}")
        return config

    def in_float32(self) -> RunConfig:
        """The run whose values overflowed in the precision that was asked for."""
        machine = self.detector.machine.in_precision("float32")
        return replace(self, detector=replace(self.detector, machine=machine))

    def identity(self, of: Literal["maps", "run", "row"]) -> dict[str, Any]:
        """What must be equal for two runs to have the same maps (of the same files), to be the same run, or
        to share a row of a summary.

        A run is the same wherever its files lie and whatever command asked. A row's runs differ in their seed
        and therefore in their photographs; its settings are flat, for instance `windows.win_size`.
        """
        return {"maps": self._of_maps, "run": self._of_run, "row": self._of_row}[of]()

    def _of_maps(self) -> dict[str, Any]:
        values, machine = self.to_json(), self.detector.machine
        return {
            "method": values["method"],
            "checkpoint": self.checkpoint_digest,
            "options": values["options"],
            "windows": without(values["windows"], FUSED),
            **without(values["backbone"], PLACES),
            "device": machine.device_of_run,
            "precision": machine.precision,
            "rotations": self.rotations,
        }

    def _of_run(self) -> dict[str, Any]:
        machine = self.detector.machine
        kept = without(self.to_json(), NOT_OF_A_RUN)
        return {**kept, "precision": machine.precision, "device": machine.device_of_run}

    def _of_row(self) -> dict[str, Any]:
        flat: dict[str, Any] = {"precision": self.detector.machine.precision}
        for name, value in without(self.to_json(), (*NOT_OF_A_RUN, "seed", "files", "grey")).items():
            if name == "windows" and self.detector.windows.winmode == "nan":
                flat |= {f"windows.{part}": inner for part, inner in value.items() if part in WITHOUT_WINDOWS}
            elif isinstance(value, dict):
                flat |= {f"{name}.{part}": inner for part, inner in value.items()}
            else:
                flat[name] = value
        return flat


def _is_odd_text(value: Any) -> bool:
    """Whether a stored text is longer than names are, or none."""
    return isinstance(value, str) and not is_stored_text(value)


def _within(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _is_grey(values: Any) -> bool:
    """Whether stored ranges of grey values are category -> (low, high), low below high."""
    return isinstance(values, dict) and all(
        isinstance(pair, list)
        and len(pair) == 2
        and all(type(one) in (int, float) and abs(one) < 1e300 for one in pair)
        and pair[0] < pair[1]
        for pair in values.values()
    )


TEXT, NUMBER, NOTHING = str, int, type(None)
RUN_TYPES = {
    **dict.fromkeys(("dataset", "data_path", "model_name"), (TEXT,)),
    "meta": (TEXT, NOTHING),
    **dict.fromkeys(("k_shot", "seed"), (NUMBER,)),
    "rotations": (NUMBER, TEXT, NOTHING),
    **dict.fromkeys(("checkpoint", "checkpoint_digest"), (TEXT,)),
    "trained_on": (TEXT, NOTHING),
    "learnt_from_these": (bool, NOTHING),
    **dict.fromkeys(("weights", "files"), (TEXT, NOTHING)),
    "grey": (dict, NOTHING),
    "image_score": (TEXT,),
    "metric_size": (NUMBER, TEXT),
    "pictures": (NUMBER, NOTHING),
    "command": (TEXT,),
}


FITTED_VALUES = ("image_score", "checkpoint", "trained_on", "fingerprint", "references", "rotations")


@dataclass(frozen=True)
class FittedConfig:
    """A detector of the Python interface: what it is made of and what it was shown.

    `checkpoint`, `trained_on`: where trained heads come from. `fingerprint`: of the backbone's weights.
    `references`: how many it remembers, each in `rotations` copies.
    """

    detector: DetectorConfig
    image_score: str
    checkpoint: str | None = None
    trained_on: str | None = None
    fingerprint: str = ""
    references: int = 0
    rotations: int = 1

    def to_json(self) -> dict[str, Any]:
        """The values of a saved detector, and of predict.py's config.json beside others."""
        return {**self.detector.to_json(), **{name: getattr(self, name) for name in FITTED_VALUES}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> FittedConfig:
        """From a saved detector's values; ConfigError for what `save` did not write."""
        try:
            own = without(values, OF_A_DETECTOR)
            config = cls(DetectorConfig.from_json(values), *(own.pop(name) for name in FITTED_VALUES))
            if own:
                raise ConfigError(f"no detector has {one_line(', '.join(map(str, own)), 60)}")
        except KeyError as error:
            raise ConfigError(f"{error.args[0]} is missing") from error
        except (TypeError, AttributeError) as error:
            raise ConfigError(f"it holds values that no detector has: {one_line(error, 60)}") from error
        texts = [
            config.fingerprint,
            *filter(lambda one: one is not None, (config.checkpoint, config.trained_on)),
        ]
        right = (
            all(is_stored_text(text) for text in texts)
            and config.image_score in IMAGE_SCORES[1:]
            and _within(config.references, 0, 10**6)
            and _within(config.rotations, 1, 360)
        )
        if not right:
            raise ConfigError("it holds values that no detector has")
        return config


@dataclass(frozen=True)
class PredictionConfig:
    """What predict.py's config.json holds: all that decides what comes out, and what a reader wants to know.

    `digest`: of everything the detector has learnt. `pictures`, `save_maps`, `input`: the flags, None where
    no command asked.
    """

    fitted: FittedConfig
    digest: str
    threshold: Threshold | None
    command: str
    pictures: str | None = None
    save_maps: bool | None = None
    input: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            **self.fitted.to_json(),
            "detector": self.digest,
            "threshold": None if self.threshold is None else asdict(self.threshold),
            "pictures": self.pictures,
            "save_maps": self.save_maps,
            "input": None if self.input is None else list(self.input),
            "command": self.command,
        }

    def identity(self) -> dict[str, Any]:
        """What must be equal for a run to go on after another one's photographs."""
        return identity_of_prediction(self.to_json())


def identity_of_prediction(values: Mapping[str, Any]) -> dict[str, Any]:
    """`PredictionConfig.identity` of a config.json as it was read."""
    return without(values, (*NOT_OF_A_PREDICTION, "made_by"))
