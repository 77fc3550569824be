"""Cameras, streams and clips among a command's inputs, by their names; without any package."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # rtsp://, http://, udp://
CLIPS = frozenset(".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv".split())
SAVE_PICTURES = "save pictures, as ffmpeg -i SOURCE -vf fps=1 frames/%06d.png, and give their folder"
OF_CLIP = f"give a clip to predict.py --input alone, or let another program {SAVE_PICTURES}"

# FFmpeg's errors, or it writes to standard error by itself; OpenCV reads this when it is first imported.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def is_camera(given: str) -> bool:
    """Whether an input names a camera or a stream: an address, a number, or a device."""
    named = ADDRESS.match(given) or given.isdecimal()
    return is_device(given) or bool(named) and not os.path.lexists(given)


def is_device(path: str) -> bool:
    try:
        return stat.S_ISCHR(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def is_clip(given: str) -> bool:
    """Whether an input is a video file."""
    return Path(given).suffix.lower() in CLIPS and os.path.isfile(given)


def live_source(inputs: Sequence[str]) -> str | None:
    """The first camera, stream or clip among the inputs; None where there is none."""
    return next((given for given in inputs if is_camera(given) or is_clip(given)), None)
