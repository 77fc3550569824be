"""A made-up test run: drawn photographs, smooth maps, scores. `python tests/support/make_fake_run.py DIR`
writes its report."""

import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fdsl.config.run_config import RunConfig  # noqa: E402
from fdsl.report.category_view import CategoryView  # noqa: E402
from fdsl.report.pictures import write_pictures  # noqa: E402
from fdsl.report.run_report import write_report  # noqa: E402
from tests.support.run_config import a_config  # noqa: E402
from utils.options import from_stored

COMMAND = (
    "python test.py --dataset mvtec --data-path data/mvtec --model-name fdsl "
    "--k-shot 1 --seed 14 --winmode mul"
)
RUN = a_config(
    14,
    command=COMMAND,
    backbone__pretrained="none",
    machine__device="cpu",
    machine__device_name=None,
    machine__precision="float32",
)
CONFIG = from_stored(RunConfig, RUN)
PAPER = {
    "auroc_sp": (94.4, 0.5),
    "f1_sp": (95.1, 0.4),
    "ap_sp": (97.2, 0.3),
    "auroc_px": (96.8, 0.2),
    "f1_px": (58.6, 0.5),
    "ap_px": (60.3, 0.6),
}
GRID = 20
ATTACK = "<img src=x onerror=alert(1)>.png"
ATTACK_NAME = "plate\"'><script>alert(2)</script>{{ 7 * 7 }}"


def photo(index: int, anomalous: bool, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A plate with holes, with a dark scratch when anomalous: (H,W,3) uint8 and its mask (H,W) bool."""
    rng = np.random.default_rng(index)
    height, width = shape
    picture = np.full((height, width, 3), (150, 156, 160), np.float32)
    picture += np.linspace(-25, 25, width)[None, :, None] + rng.normal(0, 5, (height, width, 1))
    for x in (0.25, 0.75):
        for y in (0.25, 0.75):
            cv2.circle(
                picture, (int(x * width), int(y * height)), min(shape) // 10, (58, 60, 66), -1, cv2.LINE_AA
            )
    mask = np.zeros(shape, np.uint8)
    if anomalous:
        start, end = rng.uniform(0.2, 0.8, 2), rng.uniform(0.2, 0.8, 2)
        points = [
            tuple(int(v) for v in point * (width, height)) for point in (start, (start + end) / 2 + 0.05, end)
        ]
        cv2.polylines(mask, [np.array(points)], False, 1, max(3, min(shape) // 40))
        picture[mask > 0] *= 0.45
    return picture.clip(0, 255).astype(np.uint8), mask.astype(bool)


def anomaly_map(index: int, mask: np.ndarray, strength: float) -> np.ndarray:
    """(GRID,GRID) float32 in [0,1]: weak smooth noise, and `strength` where the mask is."""
    noise = cv2.GaussianBlur(
        np.random.default_rng(index + 9999).random((GRID, GRID)).astype(np.float32), (0, 0), 1.5
    )
    defect = cv2.resize(mask.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA)
    defect = cv2.GaussianBlur(defect, (0, 0), 0.8)
    return np.clip(0.25 * noise + strength * defect / max(defect.max(), 1e-6), 0, 1).astype(np.float32)


def category_view(
    name: str, good: int, defective: int, shape: tuple[int, int] = (300, 300), seed: int = 0
) -> CategoryView:
    """A category of drawn photos, most of whose defects are found."""
    rng = np.random.default_rng(seed)
    labels = np.arange(good + defective) >= good
    made = [photo(seed * 1000 + index, bool(label), shape) for index, label in enumerate(labels)]
    strengths = rng.beta(4, 2, len(labels))
    maps = np.stack(
        [anomaly_map(seed * 1000 + index, made[index][1], strengths[index]) for index in range(len(labels))]
    )
    scores = np.float64(maps.max(axis=(1, 2))) + rng.normal(0, 0.06, len(labels))
    kinds = [
        "good" if not label else ("scratch", "cut", "bent_edge")[index % 3]
        for index, label in enumerate(labels)
    ]
    metrics, threshold = (
        dict.fromkeys(("auroc_px", "f1_px", "ap_px", "aupro", "auroc_sp", "f1_sp", "ap_sp")),
        None,
    )
    if good and defective:
        precision, recall, thresholds = precision_recall_curve(labels, scores)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
        threshold = float(thresholds[f1[:-1].argmax()])
        metrics |= {
            "auroc_px": 0.968,
            "f1_px": 0.584,
            "ap_px": 0.612,
            "auroc_sp": float(roc_auc_score(labels, scores)),
            "f1_sp": float(f1.max()),
            "ap_sp": float(average_precision_score(labels, scores)),
        }
    return CategoryView(
        name=name,
        image_paths=[f"{name}/test/{kind}/{index:03d}.png" for index, kind in enumerate(kinds)],
        defects=kinds,
        labels=labels,
        scores=scores,
        maps=maps,
        metrics=metrics,
        map_threshold=0.45 if defective else None,
        score_threshold=threshold,
        references=[f"{name}/train/good/000.png"],
        read_photo=lambda index: made[index][0],
        read_mask=lambda index: made[index][1] if labels[index] else None,
        reference_photo=lambda index: photo(seed * 1000 + 999, False, shape)[0],
    )


def many(summary: CategoryView, name: str, count: int, seed: int = 0) -> CategoryView:
    """A category of `count` images that share the pictures of `summary`, with scores of their own."""
    rng = np.random.default_rng(seed)
    source = rng.integers(0, len(summary.files), count)
    labels = summary.labels[source]
    return replace(
        summary,
        name=name,
        labels=labels,
        scores=rng.normal(0.35 + 0.25 * labels, 0.1),
        score_threshold=0.5,
        image_paths=[f"{name}/test/{summary.defects[i]}/{n:05d}.png" for n, i in enumerate(source)],
        **{
            field: [getattr(summary, field)[i] for i in source]
            for field in ("defects", "files", "panel_sizes", "has_strip")
        },
    )


def run_metrics(views: list) -> dict:
    """What metrics.json holds for these views."""
    categories = {view.name: view.metrics for view in views}
    means = {}
    for key in next(iter(categories.values())):
        values = [metrics[key] for metrics in categories.values() if metrics[key] is not None]
        means[key] = float(np.mean(values)) if values else None
    return {"categories": categories, "mean": means}


HOSTILE = replace(CONFIG, command=f"{COMMAND} '<b>'")


def hostile_run(folder: Path) -> tuple[Path, list[CategoryView]]:
    """A report of three categories: an ordinary one, one with hostile names, one without defects."""
    views = [
        category_view("plate", 9, 14, (90, 120), seed=1),
        category_view("evil", 5, 6, (120, 60), seed=2),
        category_view("only_good", 5, 0, (60, 60), seed=3),
    ]
    views[1] = replace(
        views[1],
        name=ATTACK_NAME,
        image_paths=[f"{ATTACK_NAME}/test/{index}/{ATTACK}" for index in range(11)],
        defects=["good"] * 5 + ["</script><b>&amp;"] * 6,
        references=[f"a/../{ATTACK}\udcff"],
    )
    summaries = [write_pictures(view, folder / "pictures") for view in views]
    return write_report(folder, summaries, HOSTILE, run_metrics(views), PAPER), summaries


if __name__ == "__main__":
    shapes = {"plate": (300, 300), "strap": (420, 200), "rail": (200, 520)}
    made_up = [
        category_view(name, 20, 30, shape, seed) for seed, (name, shape) in enumerate(shapes.items(), 1)
    ]
    made_up.append(category_view("only_good", 12, 0, seed=9))
    folder = Path(sys.argv[1])
    summaries = [write_pictures(view, folder / "pictures") for view in made_up]
    write_report(folder, summaries, CONFIG, run_metrics(made_up), PAPER)
