"""The product's paths on a pretended CUDA device and on the CPU (tests/support/pretended_cuda.py).

    python tests/drivers/device_paths.py                       # all paths in float32
    python tests/drivers/device_paths.py plus subspace         # those whose names hold one of these words
    python tests/drivers/device_paths.py --precision fp16 plus
    python tests/drivers/device_paths.py --faults              # planted faults, each of which must be refused

Each path is walked twice with the same weights and photographs. A line of JSON says how far the device's
results are from the CPU's and what was counted while photographs were scored, and under "wrong" what is not
as it is to be.
"""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils._python_dispatch import _disable_current_modes

import fdsl.scoring
import fdsl.training.batches as training_batches
import fdsl.training.step as training_step
import models.backbones.cpu_attention as cpu_attention
import models.branches
import models.matching.candidates as candidates
import models.matching.memory_bank as memory_bank
import models.methods.batch as batch
import models.methods.plus as plus
import models.views.sliding_windows as sliding_windows
import utils.views
from fdsl.api import AnomalyDetector
from tests.support.constants import ROOT
from tests.support.photographs import texture
from tests.support.pretended_cuda import HOST_INDEX, TO_DEVICE, TO_HOST, OnDevice, meter, pretended_cuda
from tests.support.small_runs import command, draw_dataset, write_model_config
from utils.device import PRECISIONS

MOST = {"fp32": 1e-6, "bf16": 0.05, "fp16": 0.05}  # that a result may lie from the CPU's
FOLDER = Path(tempfile.mkdtemp(prefix="device-paths-"))
CONFIGS = str(write_model_config(FOLDER / "configs", quick_gelu=True))  # as CLIP's own
MODEL = {
    "model": "ViT-tiny-test",
    "model_config": CONFIGS,
    "layers": (1, 2, 3),
    "image_size": 64,
    "pretrained": "none",
}
FLAGS = ["--model", "ViT-tiny-test", "--model-config", CONFIGS, "--pretrained", "none", "--image-size", "64"]
FLAGS += ["--layers", "1", "2", "3"]
TIMM = {"model": "timm/vit_tiny_patch16_224", "model_config": None, "layers": (3, 12)}
GOOD = [Image.fromarray(texture(number)) for number in (1, 2, 3)]
PARTS = [Image.fromarray(texture(20 + number, defect=number > 1)) for number in range(3)]
# Where the host may wait for the device while photographs are scored, and where tensors may cross.
MAY_WAIT = {
    "models/matching/candidates.py:SharedTopK.rows",  # how many windows were picked, for each photograph
    "models/methods/batch.py:mutual_scores",  # whether there is another photograph, for each batch
    "models/methods/batch.py:BatchMemory.tokens_for",  # once for all batches
    "models/backbones/open_clip.py:OpenClipBackbone.position_table",  # once for each size
}
MAY_CROSS = {
    "utils/views.py:Views.moved": TO_DEVICE,  # a batch
    "models/backbones/open_clip.py:OpenClipBackbone.position_table": TO_DEVICE,  # once for each size
    "models/methods/batch.py:BatchMemory.tokens_for": TO_DEVICE,  # once for all batches
    "models/views/sliding_windows.py:WindowGrid.seen_in": TO_DEVICE,  # once, or of the windows that pay
    "models/views/sliding_windows.py:WindowGrid._count": TO_DEVICE,  # once, or of the windows that pay
    "models/branches.py:Windows.raw_maps": TO_HOST,  # the maps that say which windows pay
    "fdsl/scoring.py:Scorer.begin": TO_HOST,
}
NEVER_WAITS = "fdsl/training/batches.py:"  # for each batch of a training
Results = dict[str, np.ndarray]
Walk = Callable[[str, str], Results]  # device, precision -> what came out


def gradients_on_the_cpu(step, head, features, mask, own=training_step.HeadsStep._backward):
    """HeadsStep._backward: its forward on the device, where what meets is seen; then everything on the
    CPU, for autograd's engine asks the driver."""
    if not isinstance(features, OnDevice):
        return own(step, head, features, mask)
    method, index = step.method, list(step.method.heads).index(head)
    with torch.no_grad():
        twin = deepcopy(method)
        grid = int(features.shape[1] ** 0.5)
        raw = twin.heads[index](features[None]).softmax(dim=-1)[..., 1].unflatten(-1, (grid, grid))
        there = training_step.losses(twin.maps_of(raw), mask)
    plain = type(method)(method.width, method.blocks, method.options, method.nam is not None).train()
    with _disable_current_modes():
        plain.load_state_dict({name: value.inner for name, value in method.state_dict().items()})
        here = training_step.HeadsStep(plain, step.optimizer)
        found = own(here, plain.heads[index], features.inner, mask.inner)
        apart = (torch.stack([one.inner for one in there]) - found).abs().max()
        if apart > 1e-4 * found.max():
            raise RuntimeError(f"the device's losses differ by {apart:g}")
        moved = dict(plain.heads[index].named_buffers())
        for name, value in head.named_buffers():
            value.inner.copy_(moved[name])
        for parameter, counterpart in zip(method.parameters(), plain.parameters(), strict=True):
            if counterpart.grad is not None:
                before = 0 if parameter.grad is None else parameter.grad.inner
                parameter.grad = OnDevice(before + counterpart.grad)
        return OnDevice(found)


def results_of(found) -> Results:
    kept = {
        "score": np.array([one.score for one in found]),
        "map": np.stack([one.patch_map for one in found]),
    }
    if found[0].window_map is not None:
        kept["window"] = np.stack([one.window_map for one in found])
    if found[0].threshold is not None:
        kept["threshold"] = np.array([one.threshold for one in found])
    return kept


def fitted(
    device, precision, *, references=2, rotations=1, rate=0.1, test_images=(), **more
) -> AnomalyDetector:
    detector = AnomalyDetector.from_backbone(**{**MODEL, "device": device, "precision": precision, **more})
    detector.fit(GOOD[:references], rotations=rotations, false_alarm_rate=rate, test_images=test_images)
    return detector


def counted(predict: Callable[[], list]) -> Results:
    """What is found in photographs; what was counted before is forgotten, but for indices on the host."""
    indices = {key: times for key, times in meter.crossed.items() if key[0] == HOST_INDEX}
    meter.reset()
    meter.crossed.update(indices)
    found = results_of(predict())
    meter.scored = True
    return found


def scored(detector) -> Results:
    return counted(lambda: detector.predict(PARTS, batch_size=2))


def predicted(**settings) -> Walk:
    return lambda *where: scored(fitted(*where, **settings))


def masked(device, precision) -> Results:
    """Photographs that each have a mask of their own, with tiles."""
    detector = fitted(device, precision, method="plus", references=1, tiles=2)
    views = detector.to_batch(PARTS)
    masks = torch.zeros_like(views.whole[:, 0])
    masks[..., :40] = 255
    seen, sizes = replace(views, roi=masks), [one.size for one in PARTS]
    return counted(lambda: detector.begin_batch(seen, sizes)())


def windows(index="0", winmode="mul", **more) -> dict:
    return {"winmode": winmode, "win_size": 4, "win_stride": 2, "index_memory": index, **more}


def saved_and_loaded(name, **settings) -> Walk:
    """Saved and loaded on the same device, then given another threshold."""

    def walk(device, precision):
        file = FOLDER / f"{name}-{device}-{precision}.safetensors"
        fitted(device, precision, **settings).save(file)
        loaded = AnomalyDetector.load(file, device=device, model_config=CONFIGS)
        loaded.learn_threshold_from_batch([*PARTS, *GOOD, *PARTS])
        return scored(loaded.another())

    return walk


def dataset() -> str:
    root = FOLDER / "data"
    return str(root if root.is_dir() else draw_dataset(root, categories=("cup",), bad=3))


def arguments_of(device, precision) -> list[str]:
    """What train.py and test.py are given alike."""
    given = ["--dataset", "mvtec", "--data-path", dataset(), "--model-name", "m", *FLAGS, "--workers", "0"]
    return [*given, "--device", device, "--precision", precision]


def checkpoint_of(device, precision) -> Path:
    """Two steps of training."""
    out = FOLDER / f"checkpoints-{device}-{precision}"
    arguments = [*arguments_of(device, precision), "--checkpoints", str(out), "--k-shot", "2"]
    file = out / "m/mvtec.safetensors"
    if not file.exists():
        command("train").main([*arguments, "--epochs", "1", "--batch-size", "3"])
        torch.use_deterministic_algorithms(False)
    return file


def trained(device, precision) -> Results:
    state = load_file(checkpoint_of(device, precision))
    return {name: value.float().numpy() for name, value in state.items()}


def with_heads(method, **settings) -> Walk:
    def walk(device, precision):
        detector = AnomalyDetector.from_checkpoint(
            checkpoint_of("cpu", "fp32"),
            method=method,
            device=device,
            precision=precision,
            model_config=CONFIGS,
            **settings,
        )
        detector.fit(GOOD[:2], false_alarm_rate=0.1)
        return scored(detector)

    return walk


def tested(device, precision) -> Results:
    """test.py, whose runs of several shots encode each image once."""
    out = FOLDER / f"results-{device}-{precision}"
    arguments = [*arguments_of(device, precision), "--results", str(out), "--pictures", "0"]
    arguments += ["--win-size", "4", "--win-stride", "4", "--k-shot", "1", "2"]
    command("test").main([*arguments, "--checkpoint", str(checkpoint_of("cpu", "fp32"))])
    files = sorted(out.rglob("maps.npz"))
    return {str(file.parent.relative_to(out)): np.load(file)["score"] for file in files}


def predict_command(device, precision) -> Results:
    out = FOLDER / f"predicted-{device}-{precision}"
    arguments = ["--references", f"{dataset()}/cup/train/good", "--input", f"{dataset()}/cup/test", *FLAGS]
    arguments += ["--output", str(out), "--device", device, "--precision", precision, "--workers", "1"]
    arguments += ["--save-maps", "--method", "plus", "--tiles", "2"]
    command("predict").main([*arguments, "--rotate-references", "2"])
    with np.load(out / "maps.npz") as maps:
        return {"map": maps["fused"], "score": maps["score"]}


def like_no_normal_one(device, precision) -> Results:
    """The nearest of 13 normal tokens that all point the other way: what fills their number up to a
    multiple would be nearer."""
    normal = -torch.arange(1.0, 14.0)[:, None].expand(-1, 8) / 8
    query = torch.ones(3, 8)
    both = (tokens.to(device, PRECISIONS[precision]) for tokens in (query, normal))
    return {"index": memory_bank.nearest_index(*both).cpu().numpy()}


SEEN = [*PARTS, *GOOD]
LEFT_OUT = ("top-k", "bilateral", "self-dissimilarity", "common-mode")
PATHS: dict[str, Walk] = {
    "nearest windows": predicted(method="nearest", **windows()),
    "nearest one reference diff2": predicted(method="nearest", references=1, rotations=2, align="diff2"),
    "nearest windows one reference": predicted(method="nearest", references=1, **windows()),
    "nearest shared picks": predicted(method="nearest", **windows("1", "onlywin")),
    "nearest own picks diff2": predicted(method="nearest", **windows("window"), align="diff2"),
    "nearest whole-image memory, zip, budget": predicted(
        method="nearest", **windows(window_memory="image", win_zip=3, window_budget=4)
    ),
    "plus rotated auto tiles": predicted(method="plus", rotations="auto", tiles=2),
    "plus one reference tiles": predicted(method="plus", references=1, tiles=2),
    "plus tiles, masks": masked,
    "plus windows": predicted(method="plus", **windows(win_stride=4)),
    "plus own picks": predicted(method="plus", **windows("window", win_stride=4)),
    "plus components left out": predicted(method="plus", leave_out=LEFT_OUT),
    "plus with text tiles": predicted(method="plus", with_text=True, object="bolt", tiles=2),
    "nearest with batch windows": predicted(
        method="nearest", with_batch=True, test_images=SEEN[:4], **windows(win_stride=4)
    ),
    "subspace one reference": predicted(method="subspace", references=1, rotations=2),
    "subspace tiles": predicted(method="subspace", tiles=2),
    "batch tiles": predicted(method="batch", references=0, test_images=SEEN, rate=None, tiles=2),
    "text windows": predicted(method="text", references=0, object="bolt", rate=None, **windows()),
    "saved nearest own picks": saved_and_loaded("picks", method="nearest", **windows("window")),
    "saved plus tiles": saved_and_loaded("tiles", method="plus", tiles=2, rotations=2),
    "saved plus with batch": saved_and_loaded("batch", method="plus", with_batch=True, test_images=SEEN[:4]),
    "timm windows shared picks": predicted(**TIMM, method="nearest", **windows("1", win_size=2)),
    "tokens like no normal one": like_no_normal_one,
    "one training step": trained,
    "fdsl windows": with_heads("fdsl", **windows()),
    "both shared picks": with_heads("both", **windows("1", win_stride=4)),
    "test.py": tested,
    "predict.py": predict_command,
}


class Fault:
    """A function of the product in which `old` stands as `new`, on a path that must then be refused."""

    def __init__(self, place, name: str, old: str, new: str, path: str, precision: str = "fp32") -> None:
        self.place, self.name, self.old, self.new = place, name, old, new
        self.path, self.precision = path, precision

    def __str__(self) -> str:
        return f"{self.place.__name__}.{self.name}: {self.old.strip()} -> {self.new.strip() or 'nothing'}"

    @contextmanager
    def planted(self):
        before = inspect.getattr_static(self.place, self.name)
        function = inspect.unwrap(getattr(self.place, self.name))
        source = textwrap.dedent(inspect.getsource(function))
        if source.count(self.old) != 1:
            raise SystemExit(f"{self}: stands there {source.count(self.old)} times")
        source = source.replace(self.old, self.new)
        if inspect.isclass(self.place):  # within its class, so that it has the name that MAY_CROSS knows
            source = f"class {self.place.__name__}:\n{textwrap.indent(source, '    ')}"
        made: dict[str, object] = {}
        code = compile(f"from __future__ import annotations\n{source}", inspect.getfile(function), "exec")
        exec(code, function.__globals__, made)
        holder = made[self.place.__name__].__dict__ if inspect.isclass(self.place) else made
        setattr(self.place, self.name, holder[self.name])
        try:
            yield
        finally:
            setattr(self.place, self.name, before)


FAULTS = [
    Fault(
        models.branches.Windows,
        "encoded",
        "(image,) = views.whole",
        "(image,) = views.whole.cpu()",
        "nearest windows",
    ),
    Fault(candidates.Masked, "of_query", ".to(query.tokens.device)", "", "nearest one reference diff2"),
    Fault(plus, "nearness", ", device=device", "", "plus windows"),
    Fault(fdsl.scoring.Scorer, "begin", ".cpu()", "", "text windows"),
    Fault(plus, "smoothed", "device=maps.device, ", "", "plus rotated auto tiles"),
    Fault(sliding_windows.WindowGrid, "stitch", "maps.new_zeros((*", "torch.zeros((*", "text windows"),
    Fault(
        batch.BatchMemory, "tokens_for", "self.cached.get(device, self.tokens)", "self.tokens", "batch tiles"
    ),
    Fault(memory_bank.MemoryBank, "keys_of", "- self.mean", "- self.mean.cpu()", "nearest own picks diff2"),
    Fault(memory_bank, "nearest_of", "[:, :count]", "", "tokens like no normal one", "fp16"),
    Fault(memory_bank, "_nearest_within", " + best % patches", "", "nearest own picks diff2"),
    Fault(
        cpu_attention.PackedAttention, "forward", ".to(self.in_proj_weight.dtype)", "", "text windows", "fp16"
    ),
    Fault(
        training_batches.Batches,
        "_on_device",
        "sent(mask, self.source.backbone.device)",
        "mask",
        "one training step",
    ),
    Fault(
        sliding_windows.WindowGrid,
        "seen_in",
        "sent(self.seen, device)",
        "self.seen",
        "nearest windows one reference",
    ),
    Fault(training_batches, "sent", 'device.type == "cuda"', "False", "one training step"),
    Fault(utils.views, "sent", 'device.type == "cuda"', "False", "plus tiles, masks"),
    Fault(
        memory_bank.MemoryBank,
        "index",
        "index = torch.where(better, place, index)",
        "index = torch.where(better, place, index) if better.any() else index",
        "nearest windows",
    ),
]


def walked(name: str, precision: str) -> dict:
    """What a path gives on both devices, as a line of the output."""
    walk = PATHS[name]
    line: dict = {"path": name, "precision": precision}
    meter.scored = False
    try:
        on_cpu = walk("cpu", "fp32" if precision == "fp16" else precision)
        with pretended_cuda():
            on_device = walk("cuda", precision)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if frame.filename.startswith(f"{ROOT}/")]
        where = " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in reversed(ours[-4:]))
        return line | {"wrong": [f"{type(error).__name__}: {error} [{where}]"]}
    apart = difference(on_cpu, on_device)
    wrong = [] if apart <= MOST[precision] else [f"the results differ by {apart:g}"]
    for (what, where), times in meter.waits.items():
        if (meter.scored and where not in MAY_WAIT) or where.startswith(NEVER_WAITS):
            wrong.append(f"the host waits {times} times in {where} ({what})")
    for (direction, where), times in meter.crossed.items():
        if direction == HOST_INDEX or (meter.scored and MAY_CROSS.get(where) != direction):
            wrong.append(f"{times} tensors cross in {where} ({direction})")
    counted = {"kernels": meter.kernels, "waits": meter.waits.total(), "bytes": dict(meter.bytes)}
    return line | {"differs": apart, **counted, "wrong": wrong}


def difference(one: Results, other: Results) -> float:
    """The largest distance of two results; infinite for others."""
    if set(one) != set(other) or any(one[name].shape != other[name].shape for name in one):
        return float("inf")
    apart = [np.abs(one[name].astype(np.float64) - other[name].astype(np.float64)) for name in one]
    return max(float(np.nan_to_num(part, nan=np.inf).max(initial=0)) for part in apart)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="of the paths' names; none: all paths")
    parser.add_argument("--precision", choices=sorted(MOST), default="fp32")
    parser.add_argument(
        "--faults", action="store_true", help="walk paths with planted faults; exit code 0: all refused"
    )
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    training_step.HeadsStep._backward = gradients_on_the_cpu
    right = []
    for fault in FAULTS if args.faults else ():
        with fault.planted():
            line = {"fault": str(fault)} | walked(fault.path, fault.precision)
        right.append(bool(line["wrong"]))
        print(json.dumps(line), flush=True)
    for name in () if args.faults else PATHS:
        if not args.words or any(word in name for word in args.words):
            line = walked(name, args.precision)
            right.append(not line["wrong"])
            print(json.dumps(line), flush=True)
    return int(not all(right))


if __name__ == "__main__":
    raise SystemExit(main())
