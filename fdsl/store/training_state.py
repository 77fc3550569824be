"""The saved state of an unfinished training: plain tensors and JSON, written whole or not at all."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from fdsl.config.training_config import TrainedWith
from fdsl.store.tensor_file import read_tensor_file, write_tensor_file
from utils.errors import ConfigError
from utils.files import sync_folder
from utils.options import as_stored, from_stored
from utils.text import one_line

logger = logging.getLogger("fdsl")
METADATA_KEY = "fdsl-unfinished"
FORMAT_VERSION = 1
LOSS_COLUMNS = ("step", "epoch", "loss", "focal", "dice")  # of the row of each step


@dataclass
class Position:
    """The position of a training: finished epochs, finished batches of the next one, and one row of
    LOSS_COLUMNS per step."""

    epoch: int = 0
    batch: int = 0
    rows: list[tuple] = field(default_factory=list)

    @property
    def step(self) -> int:
        return len(self.rows)


class TrainingState:
    """The state of an unfinished training in one file: heads, optimizer, position, loss rows. All random
    choices follow from seed and position alone.

    `config`: the checkpoint's configuration. A state of another one, or of other files, is not continued.
    """

    def __init__(self, file: Path, config: TrainedWith) -> None:
        self.file, self.config = Path(file), config
        self._saved_at = time.monotonic()
        self._saved_step = 0

    def due(self, step: int, interval: tuple[int | None, float | None]) -> bool:
        """Whether `interval`, (steps, None) or (None, seconds), has passed since the last save."""
        steps, seconds = interval
        if steps is not None:
            return step - self._saved_step >= steps
        return seconds is not None and time.monotonic() - self._saved_at >= seconds

    def save(
        self, method: nn.Module, optimizer: torch.optim.Optimizer, position: Position, precision: str
    ) -> None:
        """Writes the state; ConfigError for values that are not finite, and the last saved state stays."""
        tensors = {f"heads.{name}": value for name, value in method.state_dict().items()}
        for index, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{slot}": value for slot, value in slots.items()}
        bad = next((name for name, value in tensors.items() if not torch.isfinite(value).all()), None)
        if bad is not None:
            raise ConfigError(
                f"The training has values that are not finite ({bad}) after step {position.step}; "
                f"{self.last_saved()}; lower --learning-rate and start anew with --no-resume."
            )
        rows = torch.tensor(position.rows, dtype=torch.float64).reshape(position.step, len(LOSS_COLUMNS))
        tensors["rows"] = rows
        values = {
            "format": FORMAT_VERSION,
            "config": as_stored(self.config),
            "epoch": position.epoch,
            "batch": position.batch,
            "precision": precision,
        }
        write_tensor_file(self.file, tensors, METADATA_KEY, values)
        self._saved_at, self._saved_step = time.monotonic(), position.step

    def last_saved(self) -> str:
        """The last saved state, as part of a sentence."""
        if not self._saved_step:
            return "there is no earlier state"
        return f"the state after step {self._saved_step} is stored in {self.file}"

    def read(self) -> SavedTraining:
        """The saved state; ConfigError, with the cure, for any other file."""
        try:
            stored, tensors = read_tensor_file(self.file, METADATA_KEY)
            if stored["format"] != FORMAT_VERSION:
                raise ValueError(f"format {stored['format']}")
            rows = [(int(step), int(epoch), *values) for step, epoch, *values in tensors.pop("rows").tolist()]
            position = Position(int(stored["epoch"]), int(stored["batch"]), rows)
            return SavedTraining(
                self.file,
                position,
                str(stored["precision"]),
                from_stored(TrainedWith, stored["config"]),
                tensors,
            )
        except (ConfigError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
            raise ConfigError(
                f"{self.file} is no unfinished training that can be read ({one_line(error)}); start "
                "anew with --no-resume."
            ) from error

    def discard(self) -> None:
        """Removes the state of a finished training, whose results are brought to the disk first."""
        sync_folder(self.file.parent)
        self.file.unlink(missing_ok=True)


@dataclass
class SavedTraining:
    """The content of a saved state: position, precision, configuration and tensors."""

    file: Path
    position: Position
    precision: str
    config: TrainedWith
    tensors: dict[str, Tensor]

    def restore(self, method: nn.Module, optimizer: torch.optim.Optimizer) -> Position:
        """Loads the state of heads and optimizer; returns the position."""
        try:
            heads = {name: value for name, value in self.tensors.items() if name.startswith("heads.")}
            method.load_state_dict({name.removeprefix("heads."): value for name, value in heads.items()})
            slots: dict[int, dict[str, Tensor]] = {}
            for name, value in self.tensors.items():
                if name.startswith("optimizer."):
                    _, index, slot = name.split(".")
                    slots.setdefault(int(index), {})[slot] = value
            optimizer.load_state_dict(
                {"state": slots, "param_groups": optimizer.state_dict()["param_groups"]}
            )
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            raise ConfigError(
                f"{self.file} does not fit this training ({one_line(error)}); start anew with --no-resume."
            ) from error
        return self.position
