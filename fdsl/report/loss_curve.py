"""A picture of a training's loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from utils.files import whole_file


def write_loss_curve(file: Path, steps: Sequence[tuple], size: tuple[int, int] = (480, 800)) -> None:
    """A picture of the loss: one grey dot per step, the mean of each epoch as a line. Rows are (step, epoch,
    loss, ...)."""
    height, width = size
    margin = 50
    loss = np.array([row[2] for row in steps])
    epoch = np.array([row[1] for row in steps])
    top = max(float(loss.max()), 1e-9)
    picture = np.full((height, width, 3), 255, np.uint8)

    def place(step: float, value: float) -> tuple[int, int]:
        across = (step - 0.5) / len(steps)
        return round(margin + across * (width - 2 * margin)), round(
            height - margin - value / top * (height - 2 * margin)
        )

    cv2.rectangle(picture, (margin, margin), (width - margin, height - margin), (200, 200, 200))
    for step, value in enumerate(loss, start=1):
        cv2.circle(picture, place(step, value), 2, (190, 190, 190), -1, cv2.LINE_AA)
    means = [
        place(np.flatnonzero(epoch == number).mean() + 1, loss[epoch == number].mean())
        for number in np.unique(epoch)
    ]
    cv2.polylines(picture, [np.array(means)], False, (180, 90, 30), 2, cv2.LINE_AA)
    for text, corner in (
        (f"loss {top:.4g}", (margin, margin - 12)),
        ("0", (margin - 16, height - margin + 5)),
        (f"step 1 to {len(steps)}, {epoch.max()} epochs", (margin, height - margin + 28)),
    ):
        cv2.putText(picture, text, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (60, 60, 60), 1, cv2.LINE_AA)
    encoded = cv2.imencode(".png", picture)[1]
    with whole_file(file, "wb") as out:
        out.write(encoded.tobytes())
