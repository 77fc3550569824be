"""What the published code computes on real photographs is what ours computes (float32, CPU).

Two bank tokens can be equally near to a query token up to rounding; which of them is matched then depends on
the order of additions. Such ties are found here, and map values within their reach are allowed the documented
0.02.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.catalogue import open_catalogue
from data.images import open_image
from data.masks import open_mask
from data.photographs import image_to_pixels, mask_to_tensor
from data.records import write_meta
from fdsl.metrics.exact import METRIC_NAMES
from fdsl.store.checkpoint import load_checkpoint
from models.backbone import normalise
from models.backbones.timm import TimmBackbone
from models.backbones.timm_loading import encoder_of_file
from models.detector import Detector
from models.features import EMBEDDING
from models.losses import map_losses
from models.methods.fdsl import Fdsl
from models.views.tile_maps import resized
from tests.support.constants import REAL_BACKBONE, SHARED
from tests.support.detectors import raw_window_maps
from tests.support.small_runs import command
from utils.config import MethodConfig, WindowConfig
from utils.views import Views

SIDE, EVALUATED, REACH = 448, 240, 4  # NAM sees 4 patches in each direction
TIE = 2e-6
CASES = json.loads((SHARED / "golden" / "cases.json").read_text()) if SHARED.is_dir() else []
pytestmark = pytest.mark.skipif(not CASES, reason="the folder ../shared with golden outputs is not here")


class Case:
    """A golden case with everything that ours computes on it."""

    def __init__(self, case, backbone):
        self.golden = dict(np.load(SHARED / "golden" / case["file"]))
        checkpoint = load_checkpoint(SHARED / "golden" / case["checkpoint"])
        method = Fdsl.of_heads(checkpoint.width, checkpoint.blocks, MethodConfig(), checkpoint.state)
        self.settings = WindowConfig(
            "mul", case["win"], case["stride"], case["weight"], index_memory=str(int(case["index"]))
        )

        def prepared(path):
            return image_to_pixels(open_image(SHARED / path), SIDE)

        self.image = prepared(case["query"])
        self.mask = mask_to_tensor(open_mask(SHARED / case["mask"]), SIDE)[None]
        self.detector = Detector(backbone, method, SIDE, self.settings)
        self.detector.fit(torch.stack([prepared(path) for path in case["references"]]))
        self.features = backbone.encode(self.image[None], frozenset({EMBEDDING}))
        raw = self.detector.raw_maps(self.image[None])
        self.maps = method.maps_of(raw)
        self.window = method.maps_of(raw_window_maps(self.detector, self.image[None]))


@pytest.fixture(scope="module", params=["open_clip", "timm"])
def encoder(request, real_backbone):
    """The same weights in the encoders of both libraries; golden outputs are of CLIP's mean and deviation."""
    if request.param == "open_clip":
        return real_backbone
    visual = encoder_of_file("timm/deit_tiny_patch16_224", Path(REAL_BACKBONE["pretrained"]))
    like = real_backbone
    return TimmBackbone(visual, like.layers, like.device, like.dtype, like.mean.tolist(), like.std.tolist())


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case["file"].removesuffix(".npz"))
def case(request, encoder):
    with torch.no_grad():
        return Case(request.param, encoder)


def close(found, golden, tied=None):
    """Within 1e-4 for at least 99 % of the values (all that no tie reaches), and never off by more than
    0.02."""
    off = np.abs(np.asarray(found) - golden)
    fine = off < 1e-4 if tied is None else (off < 1e-4) | tied
    assert fine.mean() >= 0.99 and off.max() <= 0.02, (
        f"{fine.mean():.4f} within 1e-4, largest {off.max():.2g}"
    )


def tied_window_patches(case):
    """(L,G,G) bool: patches of the window maps that a tie in matching reaches; checked to be a minor part."""
    detector = case.detector
    windows, bank = detector.windows, detector.memory_of("windows")
    encoded = windows.encoded(detector.encode, Views(case.image[None]), windows.match.want)
    parts = list(windows.match.over(encoded))
    if detector.settings.index_memory == "1":
        bank = bank.part(parts[0][1].rows(bank))
    query = torch.cat([part.tokens for part, _ in parts], dim=1).flatten(1, 2)
    reached = torch.zeros(len(query), 1, detector.grid, detector.grid)
    for block, (tokens, normal) in enumerate(zip(query, bank.centred)):
        best = (tokens.double() @ normal.double().t()).topk(2, dim=-1).values
        ties = (best[:, 0] - best[:, 1] < TIE).nonzero()[:, 0]
        reached[block, 0].view(-1)[detector.windows.grid.patches.flatten()[ties]] = 1
    reached = torch.nn.functional.max_pool2d(reached, 2 * REACH + 1, 1, REACH)[:, 0].bool().numpy()
    assert reached.mean() < 0.25
    return reached


def test_prepared_pixels_and_mask(case):
    backbone = case.detector.backbone
    images = normalise(case.image, backbone.mean, backbone.std)
    assert np.abs(images[:, ::28, ::28].numpy() - case.golden["pixels"]).max() < 1e-5
    assert int(case.mask.sum()) == int(case.golden["mask_pixels"])


def test_tokens_and_embedding(case):
    tokens, grid = case.features.tokens[:, 0], case.detector.grid
    assert np.abs(tokens.mean(1).numpy() - case.golden["tokens_mean"]).max() < 1e-5
    assert np.abs(tokens[:, grid * grid // 2].numpy() - case.golden["tokens_row"]).max() < 1e-5
    embedding = case.golden["image_embedding"] / np.linalg.norm(case.golden["image_embedding"])
    assert np.abs(case.features.embedding[0].numpy() - embedding).max() < 1e-5


def test_matches(case):
    found = case.detector.memories.whole.index(case.features.tokens[:, 0]).numpy()
    assert (found == case.golden["matched_index"]).mean(axis=1).min() >= 0.995


def test_full_image_maps_and_scores(case):
    golden = case.golden
    close(case.maps.raw[:, 0], golden["raw"])
    close(case.maps.refined[:, 0], golden["nam"])
    for maps, name in ((case.maps.refined, "base"), (case.maps.raw, "base_raw")):
        mean, score = case.detector.method.summarise(maps)
        close(resized(mean, EVALUATED)[0], golden[f"{name}_map"])
        assert abs(float(score) - golden[f"{name}_score"]) < 1e-4


def test_window_and_fused_maps_and_scores(case):
    golden, tied = case.golden, tied_window_patches(case)
    close(case.window.refined[:, 0], golden["window_layers"], tied)
    found = case.detector(case.image[None])
    reached = resized(torch.from_numpy(tied.any(0)).float()[None], EVALUATED)[0].numpy() > 0
    close(resized(found.window, EVALUATED)[0], golden["window_map"], reached)
    fused, score = found.fused(case.settings)
    close(resized(fused, EVALUATED)[0], golden["fused_map"], reached)
    assert abs(float(found.window_score) - golden["window_score"]) < 1e-4
    assert abs(float(score) - golden["fused_score"]) < 1e-4


def test_losses(case):
    parts = [map_losses(maps, case.mask) for maps in case.maps]
    for found, name in zip(zip(*parts), ("focal", "dice")):
        assert torch.cat(found).numpy() == pytest.approx(case.golden[name], rel=1e-3)


PUBLISHED_ROW = (71.2, 31.4, 22.7, 41.4, 56.4, 82.5, 80.2)  # magnetic_tile, no LFE


@pytest.mark.slow
def test_published_heads_give_their_published_table(tmp_path):
    """All seven metrics of 168 photographs to the published decimal, with the reference that the published
    run drew.

    Which one that was is not reported; of the 40 it is the only one that comes near.
    """
    root = SHARED / "data" / "visa"
    catalogue = open_catalogue("visa", root)
    meta = tmp_path / "meta.json"
    kept = [record for record in catalogue.train["magnetic_tile"] if record.image_path.endswith("/0022.JPG")]
    write_meta(replace(catalogue, train={"magnetic_tile": kept}), meta)
    backbone = [
        "--model",
        REAL_BACKBONE["model"],
        "--model-config",
        REAL_BACKBONE["model_config"],
        "--pretrained",
        REAL_BACKBONE["pretrained"],
        "--layers",
        *map(str, REAL_BACKBONE["layers"]),
        "--image-size",
        str(SIDE),
    ]
    command("test").main(
        [
            "--dataset",
            "visa",
            "--data-path",
            str(root),
            "--meta",
            str(meta),
            "--model-name",
            "published",
            "--checkpoint",
            str(SHARED / "golden" / "published_on_mvtec.pth"),
            *backbone,
            "--precision",
            "fp32",
            "--device",
            "cpu",
            "--winmode",
            "nan",
            "--results",
            str(tmp_path),
            "--pictures",
            "0",
        ]
    )
    metrics = json.loads(next(tmp_path.rglob("metrics.json")).read_text())
    found = [metrics["categories"]["magnetic_tile"][name] for name in METRIC_NAMES]
    assert 100 * np.array(found) == pytest.approx(PUBLISHED_ROW, abs=0.0501)
