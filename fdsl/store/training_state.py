"""The state that an interrupted training goes on from: plain tensors and JSON, whole or not at all."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from fdsl.config.training_config import TrainedWith
from fdsl.store.tensor_file import read_tensor_file, write_tensor_file
from utils.errors import ConfigError
from utils.files import sync_folder
from utils.text import one_line

logger = logging.getLogger("fdsl")
METADATA_KEY = "fdsl-unfinished"
FORMAT_VERSION = 1
LOSS_COLUMNS = ("step", "epoch", "loss", "focal", "dice")  # of the row that each step leaves


@dataclass
class Position:
    """Where a training stands: whole epochs, batches of the one after them, and one row of numbers per
    step."""

    epoch: int = 0
    batch: int = 0
    rows: list[tuple] = field(default_factory=list)

    @property
    def step(self) -> int:
        return len(self.rows)


class TrainingState:
    """The state of an unfinished training in one file: heads, optimizer, position, loss rows. What is drawn
    at random follows from seed and position alone.

    `config` is the checkpoint's configuration, `data` names the training images: a state of others is not
    continued.
    """

    def __init__(self, file: Path, config: TrainedWith, data: str) -> None:
        self.file, self.config, self.data = Path(file), config, data
        self._saved_at = time.monotonic()
        self._saved_step = 0

    def due(self, step: int, interval: tuple[int | None, float | None]) -> bool:
        """Whether `interval` of `save_interval` has passed since the last save."""
        steps, seconds = interval
        if steps is not None:
            return step - self._saved_step >= steps
        return seconds is not None and time.monotonic() - self._saved_at >= seconds

    def save(
        self, method: nn.Module, optimizer: torch.optim.Optimizer, position: Position, precision: str
    ) -> None:
        """Writes the state; a state with values that are not finite is a ConfigError and the last good one
        stays."""
        tensors = {f"heads.{name}": value for name, value in method.state_dict().items()}
        for index, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{slot}": value for slot, value in slots.items()}
        bad = next((name for name, value in tensors.items() if not torch.isfinite(value).all()), None)
        if bad is not None:
            raise ConfigError(
                f"The training has values that are not finite ({bad}) after step {position.step}; "
                f"{self.kept()}; lower --learning-rate and start anew with --no-resume."
            )
        rows = torch.tensor(position.rows, dtype=torch.float64).reshape(position.step, len(LOSS_COLUMNS))
        tensors["rows"] = rows
        values = {
            "format": FORMAT_VERSION,
            "config": self.config.to_json(),
            "data": self.data,
            "epoch": position.epoch,
            "batch": position.batch,
            "precision": precision,
        }
        write_tensor_file(self.file, tensors, METADATA_KEY, values)
        self._saved_at, self._saved_step = time.monotonic(), position.step

    def kept(self) -> str:
        """What is left of the run when it stops here, as part of a sentence."""
        return (
            f"the state after step {self._saved_step} is kept in {self.file}"
            if self._saved_step
            else "there is no earlier state"
        )

    def read(self) -> SavedTraining:
        """The saved state; ConfigError for a file that is not one, naming the cure."""
        try:
            stored, tensors = read_tensor_file(self.file, METADATA_KEY)
            if stored["format"] != FORMAT_VERSION:
                raise ValueError(f"format {stored['format']}")
            if tensors["rows"].dim() != 2 or tensors["rows"].shape[1] != len(LOSS_COLUMNS):
                raise ValueError("its rows are those of no training")
            rows = [(int(step), int(epoch), *values) for step, epoch, *values in tensors.pop("rows").tolist()]
            position = Position(int(stored["epoch"]), int(stored["batch"]), rows)
            if min(position.epoch, position.batch) < 0:
                raise ValueError("its place is before the first epoch")
            return SavedTraining(
                self.file,
                position,
                str(stored["precision"]),
                TrainedWith.from_json(stored["config"]),
                str(stored["data"]),
                tensors,
            )
        except (ConfigError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
            raise ConfigError(
                f"{self.file} is no unfinished training that can be read ({one_line(error)}); start "
                "anew with --no-resume."
            ) from error

    def discard(self) -> None:
        """The training is finished: what it wrote is brought to the disk first, then the state goes."""
        sync_folder(self.file.parent)
        self.file.unlink(missing_ok=True)


@dataclass
class SavedTraining:
    """What `TrainingState.read` found: where it stood, in which precision, and the tensors to go on with."""

    file: Path
    position: Position
    precision: str
    config: TrainedWith
    data: str
    tensors: dict[str, Tensor]

    def restore(self, method: nn.Module, optimizer: torch.optim.Optimizer) -> Position:
        """Puts heads and optimizer back as they were; returns the position."""
        try:
            method.load_state_dict(
                {
                    name.removeprefix("heads."): value
                    for name, value in self.tensors.items()
                    if name.startswith("heads.")
                }
            )
            slots: dict[int, dict[str, Tensor]] = {}
            for name, value in self.tensors.items():
                if name.startswith("optimizer."):
                    _, index, slot = name.split(".")
                    slots.setdefault(int(index), {})[slot] = value
            _refuse_other_slots(slots, optimizer)
            optimizer.load_state_dict(
                {"state": slots, "param_groups": optimizer.state_dict()["param_groups"]}
            )
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            raise ConfigError(
                f"{self.file} does not fit this training ({one_line(error)}); start anew with --no-resume."
            ) from error
        return self.position


def _refuse_other_slots(slots: Mapping[int, Mapping[str, Tensor]], optimizer: torch.optim.Optimizer) -> None:
    """ValueError unless these are what Adam keeps of each parameter, or nothing, before its first step."""
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    if slots and set(slots) != set(range(len(parameters))):
        raise ValueError("the optimizer's state is of other parameters")
    for index, kept in slots.items():
        shape = parameters[index].shape
        fits = (
            set(kept) == {"step", "exp_avg", "exp_avg_sq"}
            and all(value.is_floating_point() for value in kept.values())
            and kept["step"].numel() == 1
            and kept["step"].item() >= 0
            and kept["exp_avg"].shape == kept["exp_avg_sq"].shape == shape
            and not bool((kept["exp_avg_sq"] < 0).any())
        )
        if not fits:
            raise ValueError(f"the optimizer's state of parameter {index} is none")
