"""Speed and memory against the bare backbone, in one run: `python benchmarks/run.py [--json FILE] [rows...]`.

The bare backbone is the same open_clip tower, every value of it in the same precision, on the same batches,
with nothing around it. Weights are untrained, images random: neither changes the work. Ratios are what
counts; a shared machine's seconds vary.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from copy import deepcopy
from pathlib import Path

import torch
from tabulate import tabulate
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.bench import PHOTOS, Bench  # noqa: E402
from benchmarks.surroundings import loading, memory, start  # noqa: E402
from models.backbones.open_clip import load_backbone  # noqa: E402
from models.detector import QUARTER, Detector, WindowSettings  # noqa: E402
from models.losses import map_losses  # noqa: E402
from models.memory_bank import MemoryBank  # noqa: E402
from models.methods.fdsl import FDSL  # noqa: E402
from utils.device import bf16_in_hardware, machine_facts  # noqa: E402
from utils.log import start_logging  # noqa: E402

MODEL, LAYERS, SIDE = "ViT-L-14-336", (6, 12, 18, 24), 518
TRAINING_SHOTS = 10


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="row", help=f"which of {', '.join(ROWS)} (default all)")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--layers", type=int, nargs="+", default=list(LAYERS))
    parser.add_argument("--image-size", type=int, default=SIDE)
    parser.add_argument("--model-config")
    parser.add_argument("--win-size", type=int, default=13)
    parser.add_argument("--win-stride", type=int, default=2)
    parser.add_argument(
        "--window-budget", type=int, default=0, help="default that of the flag without a number"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument(
        "--repeats", type=int, default=1, help="timed repetitions after one warm-up; the best counts"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if unknown := set(args.rows) - set(ROWS):
        parser.error(f"unknown row(s) {', '.join(sorted(unknown))}")
    return args


def plain(bench: Bench) -> list[tuple]:
    """Image to map without LFE."""
    bare = bench.seconds(lambda: bench.bare(bench.photos[:1]))
    found = []
    for shots in (1, 4):
        detector = bench.detector()
        detector.remember(bench.photos[1 : 1 + shots])
        found.append(
            (
                f"image to map, no LFE, {shots} shot(s)",
                bench.seconds(lambda: detector(bench.photos[:1])),
                bare,
            )
        )
    return found


def oracle(bench: Bench) -> list[tuple]:
    """The plain path (tests/support/plain.py: float32, one token after the other) from image to map, and what
    ours takes for it."""
    from tests.support import plain as written_down

    args = bench.args
    tower = load_backbone(args.model, "none", args.layers, "cpu", torch.float32, args.model_config)
    heads = deepcopy(bench.heads).cpu()
    tower.visual.positional_embedding = tower._table(tower.grid(args.image_size))
    known: dict[int, Tensor] = {}

    @torch.no_grad()
    def encode(image: Tensor) -> Tensor:
        if id(image) not in known:
            known[id(image)] = written_down.tokens_of(tower.visual, image, tower.layers)
        return known[id(image)]

    photo, reference = bench.photos[0], bench.photos[1]
    with torch.no_grad():
        encode(reference)
        slow = bench.seconds(
            lambda: (known.pop(id(photo), None), written_down.full_maps(encode, heads, photo, [reference])),
            warm=False,
        )
    detector = bench.detector()
    detector.remember(bench.photos[1:2])
    fast = bench.seconds(lambda: detector(bench.photos[:1]))
    return [("the plain path in float32, no LFE, 1 shot (beside it: ours)", slow, fast)]


def ceiling(bench: Bench) -> list[tuple]:
    """TFLOP/s in the ViT over a chunk of windows, beside those of one large matrix product."""
    visual, side = bench.backbone.visual, bench.args.win_size * bench.backbone.patch_size
    count = max(
        1,
        Detector(
            bench.backbone,
            bench.heads,
            bench.args.image_size,
            windows=WindowSettings("mul", bench.args.win_size, bench.args.win_stride),
        )._chunk(),
    )
    tokens, width = bench.args.win_size**2 + 1, bench.backbone.width
    hidden = visual.transformer.resblocks[0].mlp[0].out_features
    blocks = max(bench.backbone.layers)
    each = tokens * (
        8 * width**2 + 4 * width * hidden + 4 * tokens * width
    )  # products of one block, attention included
    work = count * (blocks * each + 2 * (tokens - 1) * width * 3 * bench.backbone.patch_size**2)
    windows = torch.randn(count, 3, side, side, device=bench.device)
    vit = work / bench.seconds(lambda: bench.bare(windows)) / 1e12
    size = 8192 if bench.device.type == "cuda" else 2048
    left, right = (torch.randn(size, size, device=bench.device, dtype=bench.dtype) for _ in range(2))
    repeats, result = 50 if bench.device.type == "cuda" else 5, torch.empty_like(left)
    product = (
        2
        * size**3
        * repeats
        / bench.seconds(lambda: [torch.mm(left, right, out=result) for _ in range(repeats)])
        / 1e12
    )
    return [(f"TFLOP/s in the ViT, {count} windows (beside it: one matrix product)", vit, product)]


def bare_windows(bench: Bench, detector: Detector) -> float:
    """Seconds of the bare backbone over the image and all its windows."""
    windows = detector.windows.cut(bench.photos[0].to(bench.device), bench.backbone.patch_size)

    def work() -> None:
        bench.bare(bench.photos[:1])
        for part in windows.split(detector._chunk()):
            bench.bare(part)

    return bench.seconds(work, warm=False)


def windows(bench: Bench) -> list[tuple]:
    """LFE: whole bank, each window's own picks, and a window budget; the bare windows are timed before and
    after each, for a shared machine's speed changes within minutes."""
    bench.bare(bench.photos[:1])
    found = []
    budget = bench.args.window_budget
    for what, shots, options in (
        ("whole bank", 1, {"index_memory": "0"}),
        ("own picks", 1, {"index_memory": "window"}),
        ("own picks", 4, {"index_memory": "window"}),
        (
            f"own picks, budget{f' {budget}' if budget else ''}",
            1,
            {"index_memory": "window", "budget": budget or QUARTER},
        ),
    ):
        detector = bench.detector(**options)
        detector.remember(bench.photos[1 : 1 + shots])
        before = bare_windows(bench, detector)
        taken = bench.seconds(lambda: detector(bench.photos[:1]), warm=False)
        bare = (before + bare_windows(bench, detector)) / 2
        found.append(
            (f"LFE {bench.args.win_size}/{bench.args.win_stride}, {what}, {shots} shot(s)", taken, bare)
        )
    return found


def training(bench: Bench) -> list[tuple]:
    """One step: batch of 8, 10 references, against the bare backbone's forward of the batch."""
    bare = bench.seconds(lambda: bench.bare(bench.photos))
    tokens = bench.backbone.encode(bench.photos[:1]).tokens[:, 0]
    bank = MemoryBank(torch.cat([tokens] * TRAINING_SHOTS, dim=1))
    heads = FDSL(bench.backbone.width, len(bench.args.layers)).to(bench.device)
    optimizer = torch.optim.Adam(heads.parameters(), lr=1e-3)
    mask = (
        (torch.rand(PHOTOS, 1, bench.args.image_size, bench.args.image_size) > 0.95).float().to(bench.device)
    )

    def step() -> None:
        tokens = bench.backbone.encode(bench.photos).tokens
        features = torch.stack([bank.discrepancy(tokens[:, index]) for index in range(PHOTOS)], dim=1)
        loss = sum(part.sum() for maps in heads(features) for part in map_losses(maps, mask))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return [(f"training step, batch {PHOTOS}, {TRAINING_SHOTS} references", bench.seconds(step), bare)]


def growth(bench: Bench) -> list[tuple]:
    """How the time grows, each in its own unit: images, shots, image size, window stride (own pick), shots
    with LFE."""
    found = []
    patch = bench.backbone.patch_size
    bare = bench.seconds(lambda: bench.bare(bench.photos[:1]))
    detector = bench.detector()
    detector.remember(bench.photos[1:2])
    for count in (1, 2, 4):
        found.append(
            (
                f"no LFE, images: {count}",
                bench.seconds(lambda: [detector(photo[None]) for photo in bench.photos[:count]]),
                bare,
            )
        )
    for shots in (1, 2, 4, 8):
        detector = bench.detector()
        detector.remember(bench.photos[:1].expand(shots, -1, -1, -1))
        found.append((f"no LFE, shots: {shots}", bench.seconds(lambda: detector(bench.photos[:1])), bare))
    for side in sorted(
        {
            round(args_side / patch) * patch
            for args_side in (224, 336, 448, bench.args.image_size)
            if args_side <= bench.args.image_size
        }
    ):
        smaller = Detector(bench.backbone, bench.heads, side)
        smaller.remember(bench.photos[1:2, :, :side, :side])
        found.append(
            (
                f"no LFE, image size: {side}",
                bench.seconds(lambda: smaller(bench.photos[:1, :, :side, :side])),
                bench.seconds(lambda: bench.bare(bench.photos[:1, :, :side, :side])),
            )
        )
    size = bench.args.win_size
    for stride in (size, size // 2, size // 3):
        detector = Detector(
            bench.backbone,
            bench.heads,
            bench.args.image_size,
            windows=WindowSettings("mul", size, stride, index_memory="window"),
        )
        detector.remember(bench.photos[1:2])
        found.append(
            (
                f"LFE, window stride: {stride} ({len(detector.windows)} windows)",
                bench.seconds(lambda: detector(bench.photos[:1]), warm=False),
                bare_windows(bench, detector),
            )
        )
    for shots in (1, 2, 4):
        detector = Detector(
            bench.backbone, bench.heads, bench.args.image_size, windows=WindowSettings("mul", size, size // 2)
        )
        detector.remember(bench.photos[1:2].expand(shots, -1, -1, -1))
        found.append(
            (
                f"LFE {size}/{size // 2}, whole bank, shots: {shots}",
                bench.seconds(lambda: detector(bench.photos[:1]), warm=False),
                bare_windows(bench, detector),
            )
        )
    return found


ROWS = {
    "plain": plain,
    "oracle": oracle,
    "windows": windows,
    "training": training,
    "memory": memory,
    "loading": loading,
    "start": start,
    "ceiling": ceiling,
    "growth": growth,
}


def main() -> None:
    start_logging()
    args = parse()
    start = time.perf_counter()
    bench = Bench(args)
    loaded = time.perf_counter() - start
    found = [row for name in args.rows or ROWS for row in ROWS[name](bench)]
    table = [
        (
            what,
            f"{value:.2f}",
            "-" if bare is None else f"{bare:.2f}",
            "-" if bare is None else f"{value / bare:.2f}",
        )
        for what, value, bare in found
    ]
    facts = {
        **machine_facts(bench.device, bench.dtype).to_json(),
        "bf16 in the CPU": bf16_in_hardware() or "no",
    }
    sys.stdout.write(
        tabulate(
            table, ["what", "seconds (or as said)", "bare backbone", "ratio"], "github", disable_numparse=True
        )
    )
    sys.stdout.write(
        f"\n\n{args.model}, {args.image_size} px, model loaded in {loaded:.1f} s; "
        + ", ".join(f"{name} {value}" for name, value in facts.items())
        + "\n"
    )
    if args.json:
        args.json.write_text(
            json.dumps(
                {
                    "machine": facts,
                    "loaded_s": loaded,
                    "rows": [{"what": what, "value": value, "bare_s": bare} for what, value, bare in found],
                },
                indent=1,
            )
        )


if __name__ == "__main__":
    main()
