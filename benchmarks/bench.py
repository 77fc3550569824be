"""What the rows of the speed table share: the backbone beside the bare one, random photographs, and a
clock."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from models.backbones.open_clip import FrozenBackbone, load_backbone
from models.detector import Detector, WindowSettings
from models.methods.fdsl import FDSL
from utils.device import choose_device, choose_precision

PHOTOS = 8  # as many as a training batch


class Bench:
    """The backbone, random photographs, and a clock that waits for the device."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.device = args, choose_device(args.device)
        self.dtype = choose_precision(args.precision, self.device)
        load = lambda: load_backbone(
            args.model, "none", args.layers, self.device, self.dtype, args.model_config
        )  # noqa: E731
        self.backbone: FrozenBackbone = load()
        self.tower = self.backbone.visual if self.dtype == torch.float32 else load().visual.to(self.dtype)
        torch.manual_seed(0)
        self.heads = FDSL(self.backbone.width, len(args.layers)).eval()
        self.photos = torch.randn(PHOTOS, 3, args.image_size, args.image_size)

    def seconds(self, work: Callable[[], object], warm: bool = True) -> float:
        """The shortest of `repeats` runs, after one that is not counted."""
        best = float("inf")
        for number in range(self.args.repeats + warm):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            if number or not warm:
                best = min(best, time.perf_counter() - start)
        return best

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @torch.no_grad()
    def bare(self, images: Tensor) -> None:
        """The tower alone: taps, no normalisation, no copies; all of it narrow, where the detector's adds up
        in float32."""
        self.tower.positional_embedding = self.backbone._table(images.shape[-1] // self.backbone.patch_size)
        self.tower.forward_intermediates(
            images.to(self.device, self.dtype),
            indices=[layer - 1 for layer in self.backbone.layers],
            stop_early=True,
            intermediates_only=True,
            output_fmt="NLC",
        )

    def detector(self, **windows) -> Detector:
        settings = (
            WindowSettings("mul", self.args.win_size, self.args.win_stride, **windows)
            if windows
            else WindowSettings()
        )
        return Detector(self.backbone, self.heads, self.args.image_size, windows=settings)
