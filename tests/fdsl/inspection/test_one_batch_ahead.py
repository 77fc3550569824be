"""A GPU works on the next batch while this one is drawn; a CPU, and a camera's frames, are taken in turn."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.live import Frame
from fdsl.inspection.score_files import Inspection, score
from fdsl.prediction import Prediction
from fdsl.references.fitted_references import FittedReferences
from models.features import ScoreMaps
from utils.errors import ConfigError
from utils.views import Views

BY_TURNS = [f"{what} {number}" for number in "012" for what in ("begin", "arrive", "row")]
AHEAD = ["begin 0", "arrive 0", "begin 1", "row 0", "arrive 1", "begin 2", "row 1", "arrive 2", "row 2"]


def prediction():
    maps = ScoreMaps(np.zeros((2, 2), np.float32), np.float32(0))
    return Prediction(0.0, None, (8, 8), maps, maps.base, statistics=np.ones(4))


def events(device, endless=False, refused=None):
    """What happens to three frames, each a batch of its own, until all are done or one is `refused`."""
    seen = []

    def begin_batch(batch, sizes, names):
        seen.append(f"begin {names[0]}")
        if names[0] == refused:
            raise ConfigError("There is not enough memory.")

        def arrive():
            seen.append(f"arrive {names[0]}")
            return [prediction()]

        return arrive

    backbone = SimpleNamespace(device=torch.device(device))
    detector = SimpleNamespace(
        scorer=SimpleNamespace(detector=SimpleNamespace(backbone=backbone)),
        references=FittedReferences([], np.zeros((0, 4))),
        stored=[],
        reader=SimpleNamespace(grey=None),
        to_batch=lambda photos: Views(torch.zeros(len(photos), 3, 8, 8, dtype=torch.uint8)),
        begin_batch=begin_batch,
    )
    frames = [Frame(str(number), np.zeros((8, 8, 3), np.uint8), 0, "") for number in range(3)]
    source = SimpleNamespace(endless=endless, frames=lambda: iter(frames))
    rows = score(detector, Inspection([], batch_size=1, source=source))
    try:
        seen.extend(f"row {row['image']}" for row in rows)
    except ConfigError:
        seen.append("refused")
    return seen


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_gpu_has_the_next_batch_before_the_rows_of_this_one_are_made(device):
    assert events(device) == AHEAD


def test_a_cpu_takes_one_batch_after_the_other():
    assert events("cpu") == BY_TURNS


def test_a_camera_s_frames_wait_for_no_other():
    assert events("cuda", endless=True) == BY_TURNS


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_batch_before_a_refused_one_is_whole(device):
    assert [one for one in events(device, refused="1") if not one.startswith("arrive")] == [
        "begin 0",
        *(["row 0", "begin 1"] if device == "cpu" else ["begin 1", "row 0"]),
        "refused",
    ]
