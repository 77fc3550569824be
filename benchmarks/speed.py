"""Speed and memory compared with the bare backbone: `python benchmarks/speed.py [--json FILE] [rows...]`.

The bare backbone is the same open_clip encoder, every value of it in the same precision, on the same batches,
with nothing around it. Weights are untrained, images random: neither changes the work. Ratios are what
counts; a shared machine's seconds vary.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from tabulate import tabulate
from torch import Tensor

if __name__ == "__main__":  # run as a script: import from the project's root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.shared import (
    ROOT,
    backbone_parser,
    backbone_words,
    encode_barely,
    shortest,
    untrained_backbone,
)
from fdsl.api import AnomalyDetector
from fdsl.inspection.score_files import Inspection, score
from fdsl.scoring import Scorer
from fdsl.training.step import HeadsStep
from models.backbone import normalise
from models.detector import Detector
from models.features import Features
from models.matching.candidates import UNRESTRICTED, discrepancy_of
from models.matching.memory_bank import MemoryBank
from models.methods.fdsl import Fdsl
from utils.command import run_command
from utils.config import QUARTER, UNTRAINED, WindowConfig
from utils.device import bf16_in_hardware, choose_device, choose_precision, machine_facts, use_threads
from utils.options import as_stored
from utils.views import Views

PHOTOS = 8  # as many as a training batch
TURNS = 10  # of products that are compared with each other
TRAINING_SHOTS = 10
Row = tuple[str, float, float | None]  # what, its value, and that of what it is compared with


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = backbone_parser(__doc__)
    parser.add_argument("rows", nargs="*", metavar="row", help=f"which of {', '.join(ROWS)} (default all)")
    parser.add_argument("--win-size", type=int, default=13)
    parser.add_argument("--win-stride", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1, help="the shortest counts, after a first one")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    if unknown := set(args.rows) - set(ROWS):
        parser.error(f"unknown row(s) {', '.join(sorted(unknown))}")
    return args


class Bench:
    """The backbone, random photographs, and a clock that waits for the device."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.device = args, choose_device(args.device)
        self.lfe = f"LFE {args.win_size}/{args.win_stride}"
        self.dtype = choose_precision(args.precision, self.device)
        self.backbone = untrained_backbone(args, self.device, self.dtype)
        self.encoder = self.backbone.visual
        if self.dtype != torch.float32:  # all of it narrow, where the detector's adds up in float32
            self.encoder = untrained_backbone(args, self.device, self.dtype).visual.to(self.dtype)
        torch.manual_seed(0)
        self.method = Fdsl(self.backbone.width, len(args.layers)).eval()
        size = (PHOTOS, 3, args.image_size, args.image_size)
        self.pixels = torch.randint(0, 256, size, dtype=torch.uint8)
        self.photos = normalise(self.pixels.to(self.device), self.backbone.mean, self.backbone.std)

    def seconds(self, work: Callable[[], object], warm: bool = True) -> float:
        """The shortest of `repeats` runs, after one that is not counted."""
        return shortest([work], self.args.repeats, self.device, warm)[0]

    @torch.no_grad()
    def bare(self, images: Tensor) -> None:
        """The encoder alone."""
        grid = images.shape[-1] // self.backbone.patch_size
        self.encoder.positional_embedding = self.backbone.position_table(grid)
        encode_barely(self.encoder, images.to(self.device, self.dtype), self.backbone.layers)

    def scorer(self, shots: int = 0, **windows) -> Scorer:
        """A scorer, with LFE where `windows` (of WindowConfig) has it, fitted to `shots` references."""
        lfe = {"winmode": "mul", "win_size": self.args.win_size, "win_stride": self.args.win_stride}
        settings = WindowConfig(**{**lfe, **windows}) if windows else WindowConfig("nan")
        scorer = Scorer(Detector(self.backbone, self.method, self.args.image_size, settings))
        if shots:
            self.fit(scorer, shots)
        return scorer

    def fit(self, scorer: Scorer, shots: int) -> None:
        """Fits the scorer to so many references, which all look alike: that makes no difference."""
        scorer.fit(Views(self.pixels[1:2].expand(shots, -1, -1, -1)))

    def score(self, scorer: Scorer) -> None:
        """From the pixels of an image to its score maps."""
        scorer(Views(self.pixels[:1]), ["a photograph"])

    def scoring(self, scorer: Scorer, warm: bool = True) -> float:
        return self.seconds(partial(self.score, scorer), warm)

    def bare_image(self) -> float:
        """Seconds of the bare backbone over one image."""
        return self.seconds(lambda: self.bare(self.photos[:1]))


def plain(bench: Bench) -> list[Row]:
    """Image to map without LFE."""
    bare, what = bench.bare_image(), "image to map, no LFE, {} shot(s)"
    return [(what.format(shots), bench.scoring(bench.scorer(shots)), bare) for shots in (1, 4)]


@torch.no_grad()
def matching(bench: Bench) -> list[Row]:
    """Each patch's nearest one in a bank, and the whole way to discrepancies, compared with one matrix
    product of the same size; the banks of 1, 2 and 4 shots of five seeds compared with one product with their
    union. Random tokens: it makes no difference how alike they are."""
    patches, width = bench.backbone.grid(bench.args.image_size) ** 2, bench.backbone.width
    found, blocks, repeats = [], len(bench.args.layers), TURNS * bench.args.repeats

    def tokens(count: int) -> Tensor:
        drawn = torch.randn(blocks, count, width, device=bench.device)
        return F.normalize(drawn, dim=-1).to(bench.dtype)

    query = tokens(patches)
    for shots in (1, 4):
        bank = bank_of(tokens(shots * patches), shots)
        works = [
            partial(one_product, query, [bank]),
            partial(bank.index, query),
            partial(discrepancy_of, Features(query[:, None]), bank, UNRESTRICTED, bench.method.options),
        ]
        bare, index, way = shortest(works, repeats, bench.device)
        found.append((f"nearest patches, {shots} shot(s) (compared: one matrix product)", index, bare))
        found.append((f"discrepancies, {shots} shot(s) (compared: one matrix product)", way, bare))
    banks = [bank_of(tokens(4 * patches), 4) for _ in range(5)]
    works = [partial(one_product, query, banks), partial(in_one_pass, query, banks)]
    bare, index = shortest(works, repeats, bench.device)
    return [*found, ("nearest patches in 15 banks (compared: one product with their union)", index, bare)]


def bank_of(tokens: Tensor, photographs: int = 1) -> MemoryBank:
    """The memory bank of tokens (L,M,C) of so many photographs, with as many tokens each."""
    sizes = [[tokens.shape[1] // photographs]] * photographs
    return MemoryBank.collected([Features(tokens[:, None])], sizes)


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
        sharing = replace(bank, matched={})
        for shots in (4, 2, 1):
            sharing.beginning(shots).index(query)


def bare_windows(bench: Bench, detector: Detector) -> float:
    """Seconds of the bare backbone over the image and all its windows."""
    branch = detector.windows
    assert branch is not None
    windows = branch.grid.cut(bench.photos[0], bench.backbone.patch_size)

    def work() -> None:
        bench.bare(bench.photos[:1])
        for part in windows.split(branch.chunk):
            bench.bare(part)

    return bench.seconds(work, warm=False)


def windows(bench: Bench) -> list[Row]:
    """LFE: whole bank, each window's own picks, and a window budget; the bare windows are timed before and
    after each, for a shared machine's speed changes within minutes."""
    bench.bare(bench.photos[:1])
    found = []
    for what, shots, options in (
        ("whole bank", 1, {"index_memory": "0"}),
        ("own picks", 1, {"index_memory": "window"}),
        ("own picks", 4, {"index_memory": "window"}),
        ("own picks, budget", 1, {"index_memory": "window", "window_budget": QUARTER}),
    ):
        scorer = bench.scorer(shots, **options)
        before = bare_windows(bench, scorer.detector)
        taken = bench.scoring(scorer, warm=False)
        bare = (before + bare_windows(bench, scorer.detector)) / 2
        found.append((f"{bench.lfe}, {what}, {shots} shot(s)", taken, bare))
    return found


def training(bench: Bench) -> list[Row]:
    """One step: batch of 8, 10 references, against the bare backbone's forward of the batch."""
    bare = bench.seconds(lambda: bench.bare(bench.photos))
    tokens = bench.backbone.encode(bench.pixels[:1]).tokens[:, 0]
    bank = bank_of(torch.cat([tokens] * TRAINING_SHOTS, dim=1))
    method = Fdsl(bench.backbone.width, len(bench.args.layers)).to(bench.device)
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-3)
    of_heads = HeadsStep(method, optimizer)
    side = bench.args.image_size
    mask = (torch.rand(PHOTOS, 1, side, side) > 0.95).float().to(bench.device)

    def step() -> None:
        tokens = bench.backbone.encode(bench.pixels).tokens
        found = [bank.discrepancy(part, bank.index(part)) for part in tokens.unbind(1)]
        of_heads(torch.stack(found, dim=1), mask)
        optimizer.step()

    return [(f"training step, batch {PHOTOS}, {TRAINING_SHOTS} references", bench.seconds(step), bare)]


def memory(bench: Bench) -> list[Row]:
    """Peak memory beyond the loaded model: the window bank of 4 shots, and a photograph matched with it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        grown = process.submit(grown_by, bench.args, 4).result()
    return [(f"peak memory beyond the model, {bench.lfe}, 4 shots, MiB", grown / 2**20, None)]


def grown_by(args: argparse.Namespace, shots: int) -> int:
    """In a process of its own: the most that its memory grows by while a detector works, in bytes; a GPU's
    own memory there, else the resident memory (Linux)."""
    bench = Bench(args)
    scorer = bench.scorer(index_memory="0")
    bench.bare(bench.photos[:1])  # what the first pass allocates for good belongs to the backbone
    peak = resident_peak
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(bench.device)
        peak = partial(torch.cuda.max_memory_allocated, bench.device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak()
    bench.fit(scorer, shots)
    bench.score(scorer)
    return peak() - before


def resident_peak() -> int:
    """The most resident memory that this process has had, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


OWN_LOAD = """
import sys, torch, open_clip
from safetensors.torch import load_file
if sys.argv[3] != "None": open_clip.add_model_config(sys.argv[3])
text = dict(vocab_size=8, width=8, heads=1, layers=1)
visual = open_clip.create_model(sys.argv[1], pretrained=None, text_cfg=text).visual
visual.load_state_dict(load_file(sys.argv[2]))
visual.to(getattr(torch, sys.argv[4]))
"""


def start(bench: Bench) -> list[Row]:
    """From the command to the first result with the weights on the disk, compared with open_clip's own import
    and load."""
    args, visual = bench.args, bench.backbone.visual
    with tempfile.TemporaryDirectory() as folder:
        weights = f"{folder}/weights.safetensors"
        tensors = {name: value.float().contiguous() for name, value in visual.state_dict().items()}
        save_file({**tensors, "positional_embedding": bench.backbone.native_table}, weights)
        for number in range(2):
            Image.effect_noise((900, 900), 40).convert("RGB").save(f"{folder}/{number}.png")
        runtime = ["--device", args.device, "--precision", args.precision]
        work = ["--references", f"{folder}/0.png", "--input", f"{folder}/1.png", "--format", "json"]
        plainly = ["--method", "nearest", "--false-alarm-rate", "none"]
        predict = [
            str(ROOT / "predict.py"),
            *work,
            *plainly,
            *backbone_words(args, pretrained=weights),
            *runtime,
        ]
        dtype = str(bench.dtype).removeprefix("torch.")
        own = ["-c", OWN_LOAD, args.model, weights, str(args.model_config), dtype]
        load, whole = (
            bench.seconds(partial(subprocess.run, [sys.executable, *one], check=True, capture_output=True))
            for one in (own, predict)
        )
    return [
        ("start to first result, one reference (compared: the model's own load)", whole, load),
        ("beyond the load (compared: two passes of the bare backbone)", whole - load, 2 * bench.bare_image()),
    ]


def host(bench: Bench) -> list[Row]:
    """What a processor does in predict.py for a photograph of 900 x 900 px if its maps cost nothing, in ms of
    its time, without decoding and pictures; compared with decoding."""
    args, count, found = bench.args, 8, []
    encoder = {name: getattr(args, name) for name in ("model", "model_config", "layers", "image_size")}
    encoder["pretrained"] = UNTRAINED
    with tempfile.TemporaryDirectory() as folder:
        for mode in ("RGB", "L"):
            Path(folder, mode).mkdir()
            for number in range(count):
                noise = Image.merge("RGB", [Image.effect_noise((90, 90), 40) for _ in range(3)])
                photograph = noise.convert(mode).resize((900, 900), Image.Resampling.BICUBIC)
                photograph.save(f"{folder}/{mode}/{number}.jpg")
        for tiles, views in ((1, "whole"), (2, "2 x 2 tiles")):
            looking = WindowConfig("nan", tiles=tiles)
            detector = AnomalyDetector.from_backbone(**encoder, **vars(looking), device="cpu")
            detector.fit([photograph])
            whole = detector.scorer.detector
            ready = whole(detector.to_batch([photograph.convert("RGB")]))
            whole.forward = lambda images, match=None, ready=ready: ready
            for mode in ("RGB", "L"):
                wanted = Inspection([f"{folder}/{mode}"], batch_size=1)
                rows = partial(score, detector, wanted)
                decode = partial(map, decoded, sorted(Path(folder, mode).iterdir()))
                every, decoding = (processor_ms(work, args.repeats) / count for work in (rows, decode))
                what = f"host, {mode}, {views}, ms beside decoding (compared: decoding)"
                found.append((what, every - decoding, decoding))
    return found


def decoded(file: Path) -> None:
    """Decodes a photograph, and nothing else."""
    with Image.open(file) as image:
        image.load()


def processor_ms(work: Callable[[], Iterable], repeats: int) -> float:
    """Milliseconds of this process's processor time for all items, the least of `repeats` runs after one."""
    taken = []
    for _ in range(repeats + 1):
        begun = time.process_time()
        deque(work(), maxlen=0)
        taken.append(1e3 * (time.process_time() - begun))
    return min(taken[1:])


WORKS = (plain, windows, training, memory, start, matching, host)
ROWS = {work.__name__: work for work in WORKS}


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    use_threads(args.threads)
    begun = time.perf_counter()
    bench = Bench(args)
    loaded = time.perf_counter() - begun
    found = [row for name in args.rows or ROWS for row in ROWS[name](bench)]
    table = [
        [what, f"{value:.2f}", *(("-", "-") if bare is None else (f"{bare:.2f}", f"{value / bare:.2f}"))]
        for what, value, bare in found
    ]
    facts = as_stored(machine_facts(bench.device, bench.dtype)) | {
        "bf16 in the CPU": bf16_in_hardware() or "no"
    }
    columns = ["what", "seconds (or as named)", "bare backbone", "ratio"]
    print(tabulate(table, columns, "github", disable_numparse=True))
    listed = ", ".join(f"{name} {value}" for name, value in facts.items())
    print(f"\n{args.model}, {args.image_size} px, model loaded in {loaded:.1f} s; {listed}")
    if args.json:
        rows = [{"what": what, "value": value, "bare_s": bare} for what, value, bare in found]
        args.json.write_text(json.dumps({"machine": facts, "loaded_s": loaded, "rows": rows}, indent=1))


if __name__ == "__main__":
    run_command(main)
