"""Rows of the speed table about what surrounds the backbone: memory, loading, and the start of the
command."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import queue
import subprocess
import sys
import tempfile
import threading
from functools import partial
from pathlib import Path

import torch

from benchmarks.bench import Bench
from fdsl.calibration import normal_scores, set_scales
from fdsl.turning import show

MIB = 2**20


def _grown(args: argparse.Namespace, shots: int, answer) -> None:
    """In a process of its own: the most that its memory grows by while a detector works, in bytes; a GPU's
    own memory there, else the resident memory."""
    bench = Bench(args)
    bench.bare(bench.photos[:1])  # what the first pass allocates for good belongs to the backbone
    if bench.device.type == "cuda":
        before = torch.cuda.memory_allocated(bench.device)
        torch.cuda.reset_peak_memory_stats(bench.device)
        _work(bench, shots)
        answer.put(torch.cuda.max_memory_allocated(bench.device) - before)
        return
    page = os.sysconf("SC_PAGE_SIZE")
    resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * page  # noqa: E731
    before, most, done = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.01):
            most = max(most, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    _work(bench, shots)
    done.set()
    watcher.join()
    answer.put(most - before)


def _work(bench: Bench, shots: int) -> None:
    """What a detector with LFE keeps at most: its window bank, and a chunk of windows matched with it."""
    scorer = bench.scorer(index_memory="0")
    scorer.remember(bench.pixels[:1].expand(shots, -1, -1, -1))
    detector = scorer.detector
    windows = detector.windows.cut(bench.photos[1], bench.backbone.patch_size)[: detector.chunk]
    detector.method.raw_maps(bench.backbone.encode(windows), detector.window_memory)
    detector.window_memory = None  # the rest of the windows would need no more; the whole image needs less
    detector.raw_maps(bench.photos[1:2])


def memory(bench: Bench) -> list[tuple]:
    """Peak memory beyond the loaded model: the window bank of 4 shots and a chunk of windows matched with it.

    Categories come one after the other and leave only their maps, so their number does not matter.
    """
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    child = context.Process(target=_grown, args=(bench.args, 4, answer))
    child.start()
    grown = None
    while grown is None:
        try:
            grown = answer.get(timeout=1)
        except queue.Empty:
            if not child.is_alive():
                raise RuntimeError(
                    f"the process that measures memory ended with exit code {child.exitcode}"
                ) from None
    child.join()
    return [
        (
            f"peak memory beyond the model, LFE {bench.args.win_size}/{bench.args.win_stride}, 4 shots, MiB",
            grown / MIB,
            None,
        )
    ]


OWN_LOAD = """
import sys, torch, open_clip
from safetensors.torch import load_file
if sys.argv[3] != "None": open_clip.add_model_config(sys.argv[3])
text = dict(vocab_size=8, width=8, heads=1, layers=1)
visual = open_clip.create_model(sys.argv[1], pretrained=None, text_cfg=text).visual
visual.load_state_dict(load_file(sys.argv[2]))
visual.to(getattr(torch, sys.argv[4]))
"""


def start(bench: Bench) -> list[tuple]:
    """From the command to the first result with the weights on the disk, beside open_clip's own import and
    load."""
    from PIL import Image
    from safetensors.torch import save_file

    args, root = bench.args, Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as folder:
        weights = f"{folder}/weights.safetensors"
        save_file(
            {
                name: value.float().contiguous()
                for name, value in bench.backbone.visual.state_dict().items()
                if name != "positional_embedding"
            }
            | {"positional_embedding": bench.backbone.native_table},
            weights,
        )
        for number in range(2):
            Image.effect_noise((900, 900), 40).convert("RGB").save(f"{folder}/{number}.png")
        config = ["--model-config", args.model_config] if args.model_config else []
        predict = [
            sys.executable,
            str(root / "predict.py"),
            "--references",
            f"{folder}/0.png",
            "--input",
            f"{folder}/1.png",
            "--format",
            "json",
            "--method",
            "nearest",
            "--false-alarm-rate",
            "none",
            "--model",
            args.model,
            *config,
            "--pretrained",
            weights,
            "--layers",
            *map(str, args.layers),
            "--image-size",
            str(args.image_size),
            "--device",
            args.device,
            "--precision",
            args.precision,
        ]
        own = [
            sys.executable,
            "-c",
            OWN_LOAD,
            args.model,
            weights,
            str(args.model_config),
            str(bench.dtype).removeprefix("torch."),
        ]
        run = lambda command: subprocess.run(command, check=True, capture_output=True)  # noqa: E731
        load, whole = bench.seconds(lambda: run(own)), bench.seconds(lambda: run(predict))
        passes = 2 * bench.seconds(lambda: bench.bare(bench.photos[:1]))
        return [
            (
                "start to first result, one reference and one photograph (beside it: the model's own load)",
                whole,
                load,
            ),
            ("beyond the load (beside it: two passes of the bare backbone)", whole - load, passes),
        ]


def first_photograph(bench: Bench) -> list[tuple]:
    """With heads and local windows: all that is done before the first photograph, from one reference to the
    threshold, beside one photograph."""
    from PIL import Image

    known = Image.effect_noise((900, 900), 40).convert("RGB")
    scorer = bench.scorer(win_size=bench.args.win_size)
    score = partial(bench.score, scorer)

    def learn() -> None:
        with scorer.detector.encoding_once():
            set_scales(scorer, [known], show(scorer, [known], 1))
            normal_scores(scorer, [known], 1, "max")

    before = bench.seconds(learn, warm=False)
    one = bench.seconds(score, warm=False)
    return [("LFE, before the first photograph, one reference (beside it: one photograph)", before, one)]


def loading(bench: Bench) -> list[tuple]:
    """Reading and preparing 900 x 900 px photographs by two worker processes, against the backbone's time an
    image."""
    import cv2
    import numpy as np

    from data.dataset import InspectionDataset, make_loader
    from data.records import Record

    bare = bench.seconds(lambda: bench.bare(bench.photos[:1]))
    with tempfile.TemporaryDirectory() as folder:
        count, generator = 32, np.random.default_rng(0)
        for number in range(count):
            picture = cv2.resize(generator.integers(0, 255, (90, 90, 3), np.uint8), (900, 900))
            cv2.imwrite(f"{folder}/{number}.png", picture)
        records = [Record(f"{number}.png", "", "c", "good", False) for number in range(count)]
        loader = make_loader(InspectionDataset(folder, records, bench.args.image_size), 4, 2)
        taken = bench.seconds(lambda: [None for _ in loader]) / count
    return [("loading an image, 2 workers, beside the backbone", taken, bare)]
