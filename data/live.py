"""Frames of a camera, a stream or a clip that OpenCV opens."""

from __future__ import annotations

import hashlib
import itertools
import logging
import queue
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np

from utils.errors import DataError
from utils.sources import ADDRESS, is_clip
from utils.text import printable, without_password

logger = logging.getLogger("fdsl")
ANSWER = 10_000  # milliseconds that a stream has to open, and to give its next frame
PATIENCE = 60.0  # seconds without a frame, after which a camera or stream is lost
MOST_WARNINGS = 5  # of frames that repeat
ROUNDING = 1e-6  # seconds by which a clip's time may be too early
Taken = tuple[int, np.ndarray] | None  # a frame and its time; None at the end


class Frame(NamedTuple):
    """A frame's name, its pixels (H,W,3) uint8 RGB, its time in ns (of a clip from its start), and the first
    16 hex digits of a digest of its pixels."""

    name: str
    pixels: np.ndarray
    moment: int
    digest: str


class Source:
    """A camera, a stream or a clip as `given`, of which a frame is taken `every` so many seconds (of a clip:
    of its own time).

    label: without a password, for messages. endless: it is no clip. stop: ends its frames once it
    is set. lost: why a camera or stream ended by itself, "" where it did not.
    """

    def __init__(self, given: str, every: float) -> None:
        self.given, self.every, self.endless = given, every, not is_clip(given)
        self.label = printable(without_password(given))
        self.stop, self.lost = threading.Event(), ""

    def check(self) -> None:
        """DataError for a source that cannot be opened, or gives no frame."""
        capture = self._opened()
        has_frame = capture.grab()
        capture.release()
        if not has_frame:
            raise DataError(f"{self.label}: gives no frame; check that the camera or the file is whole")

    def frames(self) -> Iterator[Frame]:
        """The frames whose pixels differ from the frame before; the others are reported. DataError for a
        source that cannot be opened."""
        before, hangs, times, repeated = "", False, 0, 0
        for number, moment, pixels in self._endless() if self.endless else self._of_clip():
            name = self._name(number, moment)
            digest = hashlib.blake2b(pixels.tobytes(), digest_size=8).hexdigest()
            hung, hangs, before = hangs, digest == before, digest
            if not hangs:
                yield Frame(name, pixels, moment, digest)
                continue
            repeated, times = repeated + 1, times + (not hung)
            if not hung and times <= MOST_WARNINGS:
                logger.warning(
                    "warning: %s equals the frame before, as if the camera hangs: it is not scored again",
                    name,
                )
        if repeated:
            logger.warning("warning: %d frame(s) of %s were repeated and not scored", repeated, self.label)

    def _name(self, number: int, moment: int) -> str:
        if not self.endless:
            return f"{Path(self.given).name}-{number:06d}-{moment / 1e9:.3f}s"
        if ADDRESS.match(self.given):
            label = urlsplit(self.given).hostname or "stream"
        else:
            label = f"camera{self.given}" if self.given.isdecimal() else Path(self.given).name
        then = datetime.fromtimestamp(moment / 1e9)
        return f"{label}-{then:%Y-%m-%dT%H.%M.%S}.{moment // 10**6 % 1000:03d}-{number:06d}"

    def _opened(self) -> Any:
        import cv2

        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        if ADDRESS.match(self.given):
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, ANSWER, cv2.CAP_PROP_READ_TIMEOUT_MSEC, ANSWER]
            capture = cv2.VideoCapture(self.given, cv2.CAP_FFMPEG, limits)
        else:
            capture = cv2.VideoCapture(int(self.given) if self.given.isdecimal() else self.given)
        if not capture.isOpened():
            raise DataError(
                f"{self.label}: OpenCV cannot open it; check that it is there, that no other program holds "
                "it, and that a player shows it"
            )
        return capture

    def _of_clip(self) -> Iterator[tuple[int, int, np.ndarray]]:
        import cv2

        capture, due = self._opened(), 0.0
        for number in itertools.count():
            if self.stop.is_set() or not capture.grab():
                break
            second = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if second + ROUNDING < due:
                continue
            if self.every:
                due = self.every * ((second + ROUNDING) // self.every + 1)
            is_whole, pixels = capture.retrieve()
            if is_whole:
                yield number, round(second * 1e9), _rgb(pixels)
        capture.release()

    def _endless(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """The newest frame each time: a thread discards those that come meanwhile, so that none is late."""
        capture = self._opened()
        wanted, frames = threading.Event(), queue.SimpleQueue[Taken]()
        over = threading.Event()

        def read() -> None:
            while not over.is_set() and capture.grab():
                if wanted.is_set():
                    moment = time.time_ns()
                    is_whole, pixels = capture.retrieve()
                    if is_whole:
                        wanted.clear()
                        frames.put((moment, pixels))
            frames.put(None)
            capture.release()

        threading.Thread(target=read, name="frames", daemon=True).start()
        due = time.monotonic()
        try:
            for number in itertools.count():
                if self.stop.wait(max(0.0, due - time.monotonic())):
                    return
                due = max(due + self.every, time.monotonic())
                wanted.set()
                frame = self._next(frames)
                if frame is None:
                    return
                yield number, frame[0], _rgb(frame[1])
        finally:
            over.set()

    def _next(self, frames: queue.SimpleQueue[Taken]) -> Taken:
        """The next frame; None at the end, or once `stop` is set."""
        end = time.monotonic() + PATIENCE
        while not self.stop.is_set():
            try:
                frame = frames.get(timeout=0.2)
            except queue.Empty:
                if time.monotonic() < end:
                    continue
                frame = None
            if frame is None and not self.stop.is_set():
                self.lost = (
                    f"{self.label}: gives no more frames; check the camera and its connection. The scores "
                    "so far are stored"
                )
            return frame
        return None


def _rgb(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels[..., ::-1])
