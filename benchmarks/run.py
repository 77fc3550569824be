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
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.bench import PHOTOS, Bench  # noqa: E402
from benchmarks.surroundings import first_photograph, loading, memory, start  # noqa: E402
from models.detector import Detector  # noqa: E402
from models.features import Features  # noqa: E402
from models.losses import map_losses  # noqa: E402
from models.matching import EVERYTHING  # noqa: E402
from models.memory_bank import MemoryBank, discrepancy_of  # noqa: E402
from models.methods.fdsl import Fdsl  # noqa: E402
from utils.config import QUARTER  # noqa: E402
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
        scorer = bench.scorer()
        bench.remember(scorer, shots)
        taken = bench.seconds(partial(bench.score, scorer))
        found.append((f"image to map, no LFE, {shots} shot(s)", taken, bare))
    return found


def ceiling(bench: Bench) -> list[tuple]:
    """TFLOP/s in the ViT over a chunk of windows, beside those of one large matrix product."""
    visual, side = bench.backbone.visual, bench.args.win_size * bench.backbone.patch_size
    count = bench.scorer(win_size=bench.args.win_size).detector.chunk
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


@torch.no_grad()
def matching(bench: Bench) -> list[tuple]:
    """Each patch's nearest one in a bank, and the whole way to discrepancies, beside one matrix product of
    the same size; the banks of 1, 2 and 4 shots of five seeds beside one product with their union. Random
    tokens: it makes no difference how alike they are."""
    patches, width = bench.backbone.grid(bench.args.image_size) ** 2, bench.backbone.width
    found, blocks = [], len(bench.args.layers)

    def tokens(count: int) -> Tensor:
        drawn = torch.randn(blocks, count, width, device=bench.device)
        return F.normalize(drawn, dim=-1).to(bench.dtype)

    query = tokens(patches)
    for shots in (1, 4):
        bank = MemoryBank.of_tokens(tokens(shots * patches), shots)
        bare, index, way = bench.in_turns(
            partial(one_product, query, [bank]),
            partial(bank.index, query),
            partial(discrepancy_of, Features(query[:, None]), bank, EVERYTHING, bench.method.options),
        )
        found.append((f"nearest patches, {shots} shot(s) (beside it: one matrix product)", index, bare))
        found.append((f"discrepancies, {shots} shot(s) (beside it: one matrix product)", way, bare))
    banks = [MemoryBank.of_tokens(tokens(4 * patches), 4) for _ in range(5)]
    bare, index = bench.in_turns(partial(one_product, query, banks), partial(in_one_pass, query, banks))
    return [*found, ("nearest patches in 15 banks (beside it: one product with their union)", index, bare)]


def one_product(query: Tensor, banks: list[MemoryBank]) -> None:
    """Query tokens (L,Q,C) with all tokens of each bank, and nothing else."""
    place = query.new_empty(query.shape[1], len(banks[0]))
    for bank in banks:
        for own, known in zip(query, bank.centred):
            torch.mm(own, known.t(), out=place)


def in_one_pass(query: Tensor, banks: list[MemoryBank]) -> None:
    """The nearest tokens in the banks of 4, 2 and 1 shots of each seed, as a pass over test images finds
    them."""
    for bank in banks:
        sharing = replace(bank, known={})
        for shots in (4, 2, 1):
            sharing.beginning(shots).index(query)


def bare_windows(bench: Bench, detector: Detector) -> float:
    """Seconds of the bare backbone over the image and all its windows."""
    windows = detector.windows.cut(bench.photos[0].to(bench.device), bench.backbone.patch_size)

    def work() -> None:
        bench.bare(bench.photos[:1])
        for part in windows.split(detector.chunk):
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
            {"index_memory": "window", "window_budget": budget or QUARTER},
        ),
    ):
        scorer = bench.scorer(**options)
        bench.remember(scorer, shots)
        before = bare_windows(bench, scorer.detector)
        taken = bench.seconds(partial(bench.score, scorer), warm=False)
        bare = (before + bare_windows(bench, scorer.detector)) / 2
        found.append(
            (f"LFE {bench.args.win_size}/{bench.args.win_stride}, {what}, {shots} shot(s)", taken, bare)
        )
    return found


def training(bench: Bench) -> list[tuple]:
    """One step: batch of 8, 10 references, against the bare backbone's forward of the batch."""
    bare = bench.seconds(lambda: bench.bare(bench.photos))
    tokens = bench.backbone.encode(bench.photos[:1]).tokens[:, 0]
    bank = MemoryBank.of_tokens(torch.cat([tokens] * TRAINING_SHOTS, dim=1))
    method = Fdsl(bench.backbone.width, len(bench.args.layers)).to(bench.device)
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-3)
    mask = (
        (torch.rand(PHOTOS, 1, bench.args.image_size, bench.args.image_size) > 0.95).float().to(bench.device)
    )

    def step() -> None:
        tokens = bench.backbone.encode(bench.photos).tokens
        found = [bank.discrepancy(part, bank.index(part)) for part in tokens.unbind(1)]
        features = torch.stack(found, dim=1)
        loss = sum(part.sum() for maps in method(features) for part in map_losses(maps, mask))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return [(f"training step, batch {PHOTOS}, {TRAINING_SHOTS} references", bench.seconds(step), bare)]


def growth(bench: Bench) -> list[tuple]:
    """How the time grows, each in its own unit: images, shots, image size, window stride (own pick), shots
    with LFE."""
    found = []
    patch, largest = bench.backbone.patch_size, bench.args.image_size
    bare = bench.seconds(lambda: bench.bare(bench.photos[:1]))
    scorer = bench.scorer()
    bench.remember(scorer, 1)
    for count in (1, 2, 4):
        taken = bench.seconds(partial(bench.score, scorer, count))
        found.append((f"no LFE, images: {count}", taken, bare))
    for shots in (1, 2, 4, 8):
        bench.remember(scorer, shots)
        found.append((f"no LFE, shots: {shots}", bench.seconds(partial(bench.score, scorer)), bare))
    for side in sorted(
        {round(asked / patch) * patch for asked in (224, 336, 448, largest) if asked <= largest}
    ):
        smaller = bench.scorer(side)
        bench.remember(smaller, 1)
        bare_here = bench.seconds(partial(bench.bare, bench.photos[:1, :, :side, :side]))
        found.append((f"no LFE, image size: {side}", bench.seconds(partial(bench.score, smaller)), bare_here))
    return found + growth_of_windows(bench)


def growth_of_windows(bench: Bench) -> list[tuple]:
    """The same with LFE: window stride (own picks), and shots (whole bank)."""
    found, size = [], bench.args.win_size
    for stride in (size, size // 2, size // 3):
        scorer = bench.scorer(win_stride=stride, index_memory="window")
        bench.remember(scorer, 1)
        what = f"LFE, window stride: {stride} ({len(scorer.detector.windows)} windows)"
        taken = bench.seconds(partial(bench.score, scorer), warm=False)
        found.append((what, taken, bare_windows(bench, scorer.detector)))
    for shots in (1, 2, 4):
        scorer = bench.scorer(win_stride=size // 2)
        bench.remember(scorer, shots)
        what = f"LFE {size}/{size // 2}, whole bank, shots: {shots}"
        taken = bench.seconds(partial(bench.score, scorer), warm=False)
        found.append((what, taken, bare_windows(bench, scorer.detector)))
    return found


ROWS = {
    "plain": plain,
    "windows": windows,
    "training": training,
    "memory": memory,
    "loading": loading,
    "start": start,
    "first": first_photograph,
    "ceiling": ceiling,
    "matching": matching,
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
