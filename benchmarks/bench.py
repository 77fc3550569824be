"""What the rows of the speed table share: the backbone beside the bare one, random photographs, and a
clock."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from fdsl.scoring import Scorer
from models.backbone import Backbone
from models.backbones.families import load_backbone
from models.detector import Detector
from models.methods.fdsl import Fdsl
from utils.config import WindowConfig
from utils.device import choose_device, choose_precision

PHOTOS = 8  # as many as a training batch
TURNS = 10  # of works that are compared with each other


class Bench:
    """The backbone, random photographs, and a clock that waits for the device."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.device = args, choose_device(args.device)
        self.dtype = choose_precision(args.precision, self.device)
        load = lambda: load_backbone(
            args.model, "none", args.layers, self.device, self.dtype, args.model_config
        )  # noqa: E731
        self.backbone: Backbone = load()
        self.tower = self.backbone.visual if self.dtype == torch.float32 else load().visual.to(self.dtype)
        torch.manual_seed(0)
        self.method = Fdsl(self.backbone.width, len(args.layers)).eval()
        size = (PHOTOS, 3, args.image_size, args.image_size)
        self.pixels = torch.randint(0, 256, size, dtype=torch.uint8)
        self.photos = self.backbone.normalise(self.pixels)

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

    def in_turns(self, *works: Callable[[], object], turns: int = TURNS) -> list[float]:
        """The shortest of each one's runs, after one that is not counted: one after the other, for a shared
        machine's speed changes within seconds."""
        found = [[self.seconds(work, warm=False) for work in works] for _ in range(turns + 1)]
        return [min(taken) for taken in zip(*found[1:])]

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @torch.no_grad()
    def bare(self, images: Tensor) -> None:
        """The tower alone: taps, no normalisation, no copies; all of it narrow, where the detector's adds up
        in float32."""
        self.tower.positional_embedding = self.backbone.position_table(
            images.shape[-1] // self.backbone.patch_size
        )
        self.tower.forward_intermediates(
            images.to(self.device, self.dtype),
            indices=[layer - 1 for layer in self.backbone.layers],
            stop_early=True,
            intermediates_only=True,
            output_fmt="NLC",
        )

    def scorer(self, side: int | None = None, **windows) -> Scorer:
        """A scorer of images of `side` pixels, with LFE where `windows` (of WindowConfig) says so."""
        lfe = {"winmode": "mul", "win_size": self.args.win_size, "win_stride": self.args.win_stride}
        settings = WindowConfig(**{**lfe, **windows}) if windows else WindowConfig("nan")
        return Scorer(Detector(self.backbone, self.method, side or self.args.image_size, settings))

    def score(self, scorer: Scorer, images: int = 1) -> None:
        """From pixels to score maps, image by image."""
        side = scorer.detector.image_size
        for number in range(images):
            scorer(self.pixels[number : number + 1, :, :side, :side], ["a photograph"])

    def remember(self, scorer: Scorer, shots: int) -> None:
        """Shows the scorer so many references, which all look alike where that makes no difference."""
        side = scorer.detector.image_size
        scorer.remember(self.pixels[1:2, :, :side, :side].expand(shots, -1, -1, -1))
