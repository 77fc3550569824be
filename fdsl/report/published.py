"""What papers report on the full datasets, for comparison: FDSL and its rivals, means over seeds with their
spread.

All numbers are per cent. Rivals stand here only with numbers that public texts quote (`quoted`
names them); what a paper does not report, or could not be confirmed there, is None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data import mvtec, visa
from fdsl.config.run_config import RunConfig
from models.methods.registry import METHODS, WITH_HEADS
from utils.config import OTHER_DATASET
from utils.options import flags_of

COLUMNS = ("auroc_sp", "f1_sp", "ap_sp", "auroc_px", "f1_px", "ap_px", "aupro")
PAPER_MODELS = ("ViT-L-14-336-quickgelu", "ViT-L-14-336")  # the weights' own name; the published behaviour
DATASET_TITLES = {"mvtec": "MVTec AD", "visa": "VisA"}
# What the papers' means are over.
CATEGORIES = {"mvtec": tuple(mvtec.OFFICIAL_COUNTS), "visa": tuple(visa.OFFICIAL_COUNTS)}


@dataclass(frozen=True)
class Published:
    """A method's own numbers: (dataset, shots) -> one cell for each of COLUMNS, `mean±std`, `mean` or `-`.

    `source` is the paper that reports them, `quoted` the public texts that they were read from, "" for the
    paper itself.
    """

    method: str
    source: str
    quoted: str
    cells: Mapping[tuple[str, int], str]


PAPER = Published(
    "FDSL",
    "FDSL paper, all categories, mean over seeds.",
    "",
    {
        ("mvtec", 1): "94.4±0.5 95.1±0.4 97.2±0.3 96.8±0.2 58.6±0.5 60.3±0.6 -",
        ("mvtec", 2): "95.0±0.6 95.5±0.3 97.6±0.3 97.0±0.1 59.4±0.6 61.4±0.6 -",
        ("mvtec", 4): "96.3±0.3 96.0±0.2 98.2±0.2 97.2±0.1 61.0±0.4 62.9±0.4 -",
        ("visa", 1): "90.7±1.0 87.0±1.1 92.3±1.0 97.8±0.1 46.5±0.6 42.8±0.8 -",
        ("visa", 2): "93.0±0.3 89.5±0.3 94.1±0.3 98.1±0.1 47.5±0.8 43.6±1.0 -",
        ("visa", 4): "93.8±0.3 90.3±0.3 94.8±0.3 98.3±0.1 48.5±0.5 44.7±0.7 -",
    },
)
QUOTED = "PL-SCEA's Tables 1 and 2, in part also notes on AnomalyDINO's Tables 2 and 3"
RIVALS = (
    Published(
        "PatchCore",
        "Roth et al., CVPR 2022, run with few shots by WinCLIP (Jeong et al., CVPR 2023)",
        QUOTED,
        {
            ("mvtec", 1): "83.4±3.0 90.5±1.5 92.2±1.5 92.0±1.0 50.4±2.1 - 79.7±2.0",
            ("mvtec", 2): "86.3±3.3 92.0±1.5 93.8±1.7 93.3±0.6 53.0±1.7 - 82.3±1.3",
            ("mvtec", 4): "88.8±2.6 92.6±1.6 94.5±1.5 94.3±0.5 55.0±1.9 - 84.3±1.6",
            ("visa", 1): "79.9±2.9 81.7±1.6 82.8±2.3 95.4±0.6 38.0±1.9 - 80.5±2.5",
            ("visa", 2): "81.6±4.0 82.5±1.8 84.8±3.2 96.1±0.5 41.0±3.9 - 82.6±2.3",
            ("visa", 4): "85.3±2.1 84.3±1.3 87.5±2.1 96.8±0.3 43.9±3.1 - 84.9±1.4",
        },
    ),
    Published(
        "WinCLIP+",
        "Jeong et al., CVPR 2023 (arXiv 2303.14814), five seeds",
        QUOTED,
        {
            ("mvtec", 1): "93.1±2.0 93.7±1.1 96.5±0.9 95.2±0.5 55.9±2.7 - 87.1±1.2",
            ("mvtec", 2): "94.4±1.3 94.4±0.8 97.0±0.7 96.0±0.3 58.4±1.7 - 88.4±0.9",
            # MuSc's README has pixel F1 51.7 and PRO 88.0 here: the values of its RegAD row.
            ("mvtec", 4): "95.2±1.3 94.7±0.8 97.3±0.6 96.2±0.3 59.5±1.8 - 89.0±0.8",
            ("visa", 1): "83.8±4.0 83.1±1.7 85.1±4.0 96.4±0.4 41.3±2.3 - 85.1±2.1",
            ("visa", 2): "84.6±2.4 83.0±1.4 85.8±2.7 96.8±0.3 43.5±3.3 - 86.2±1.4",
            ("visa", 4): "87.3±1.8 84.2±1.6 88.8±1.8 97.2±0.2 47.0±3.0 - 87.6±0.9",
        },
    ),
    Published(
        "APRIL-GAN",
        "Chen et al., VAND workshop 2023 (arXiv 2305.17382)",
        f"{QUOTED}; pixel AP: MuSc's README",
        {
            ("mvtec", 1): "92.0±0.3 92.4±0.2 95.8±0.2 95.1±0.1 54.2±0.0 - 90.6±0.2",
            ("mvtec", 2): "92.4±0.3 92.6±0.1 96.0±0.2 95.5±0.0 55.9±0.5 - 91.3±0.1",
            ("mvtec", 4): "92.8±0.2 92.8±0.1 96.3±0.1 95.9±0.0 56.9±0.1 54.5 91.8±0.1",
            ("visa", 1): "91.2±0.8 86.9±0.6 93.3±0.8 96.0±0.0 38.5±0.3 - 90.0±0.1",
            ("visa", 2): "92.2±0.3 87.7±0.3 94.2±0.3 96.2±0.0 39.3±0.2 - 90.1±0.1",
            ("visa", 4): "92.6±0.4 88.4±0.5 94.5±0.3 96.2±0.0 40.0±0.1 32.2 90.2±0.1",
        },
    ),
    Published(
        "PromptAD",
        "Li et al., CVPR 2024 (arXiv 2404.05231), prompts learned for each category",
        "AnomalyAny (1 shot), SubspaceAD's Table 1 (image AUROC), SOWA's and MuSc's READMEs (4 shots)",
        {
            ("mvtec", 1): "94.6 - - 95.9 - - -",
            ("mvtec", 2): "95.7 - - - - - -",
            ("mvtec", 4): "96.6±0.9 - - 96.5±0.2 - - -",
            ("visa", 1): "86.9 - - 96.7 - - -",
            ("visa", 2): "88.3 - - - - - -",
            ("visa", 4): "89.1±1.7 - - 97.4±0.3 - - -",
        },
    ),
    Published(
        "AnomalyDINO-S, 672 px",
        "Damm et al., WACV 2025 (arXiv 2405.14529), Tables 2 and 3, three seeds",
        QUOTED,
        {
            ("mvtec", 1): "96.6±0.4 95.8±0.5 98.2±0.2 96.8±0.1 60.2±1.1 - 92.7±0.1",
            ("mvtec", 2): "96.9±0.7 96.1±0.3 98.2±0.5 97.0±0.2 61.0±0.5 - 93.1±0.2",
            ("mvtec", 4): "97.7±0.2 96.6±0.0 98.7±0.1 97.2±0.1 61.8±0.1 - 93.4±0.1",
            ("visa", 1): "87.4±1.2 84.3±0.5 89.0±1.0 97.8±0.1 45.1±0.9 - 92.5±0.5",
            ("visa", 2): "89.7±1.3 86.3±1.2 90.7±0.8 98.0±0.1 47.6±0.5 - 93.4±0.6",
            ("visa", 4): "92.6±0.9 88.8±0.9 92.9±0.7 98.2±0.0 49.4±0.3 - 94.1±0.1",
        },
    ),
)


def published_row(config: RunConfig, categories: Sequence[str]) -> dict[str, Any] | None:
    """The paper's row for a run; `source` also names what keeps the two from comparing.

    None where the paper has no such setting, and for an untrained backbone: nothing compares with that.
    """
    setting = config.dataset, config.k_shot
    if config.detector.backbone.untrained or setting not in PAPER.cells:
        return None
    row = _row(PAPER, setting)
    incomplete, other = incomplete_categories(config.dataset, categories), unlike_the_paper(config)
    row["source"] += f" This run is {incomplete}." if incomplete else ""
    row["source"] += f" Unlike the paper: {other}." if other else ""
    return row


def dataset_title(dataset: str, categories: Sequence[str]) -> str:
    """The dataset's name; what only has its layout (none of its categories) is not called by it."""
    title = DATASET_TITLES.get(dataset, dataset)
    is_it = set(categories) & set(CATEGORIES.get(dataset, categories))
    return title if is_it else f"Products in {title}'s layout"


def published_rows(dataset: str, k_shot: int) -> list[dict[str, Any]]:
    """FDSL's row and its rivals': `method`, `source`, `quoted`, and each of COLUMNS -> (mean, std) in per
    cent.

    std is None where only the mean is known, the whole pair where nothing is. Empty for other datasets and
    shots.
    """
    setting = dataset, k_shot
    return [_row(one, setting) for one in (PAPER, *RIVALS) if setting in one.cells]


def _row(published: Published, setting: tuple[str, int]) -> dict[str, Any]:
    cells = map(_cell, published.cells[setting].split())
    facts = {"method": published.method, "source": published.source, "quoted": published.quoted}
    return facts | dict(zip(COLUMNS, cells, strict=True))


def _cell(text: str) -> tuple[float, float | None] | None:
    mean, _, std = text.partition("±")
    return None if text == "-" else (float(mean), float(std) if std else None)


def incomplete_categories(dataset: str, categories: Sequence[str]) -> str:
    """Why a mean over `categories` cannot be compared with published ones, which are over all 15 or 12; "" if
    it can."""
    if dataset not in CATEGORIES:
        return "there are no published numbers for these photographs"
    missing = [name for name in CATEGORIES[dataset] if name not in categories]
    foreign = [name for name in categories if name not in CATEGORIES[dataset]]
    if not missing and not foreign:
        return ""
    title, total = DATASET_TITLES[dataset], len(CATEGORIES[dataset])
    reasons = [f"{total - len(missing)} of {title}'s {total} categories"]
    reasons += [f"missing {', '.join(missing)}"] if missing else []
    reasons += [f"{', '.join(foreign)} not of {title}"] if foreign else []
    return f"not comparable with the published rows: {'; '.join(reasons)}"


def unlike_the_paper(config: RunConfig) -> str:
    """The flags of a run's settings that are not as in the paper's table; "" where all are."""
    made, published = config.detector, METHODS[WITH_HEADS]
    windows = {"index_memory": "1"} if made.windows.index_memory == "1" else {}  # as published, and slower
    usual = {"image_score": published.image_score, "k_shot": config.k_shot, "seed": config.seed}
    backbone = {"model": made.backbone.model} if made.backbone.model in PAPER_MODELS else {}
    flags = [f"--method {made.method}"] if made.method != WITH_HEADS else []
    flags += flags_of(made.backbone, backbone) + flags_of(made.windows, windows, made.lacks)
    flags += flags_of(made.options, {}, made.lacks) + flags_of(config, usual)
    if config.trained_on not in (None, OTHER_DATASET.get(config.dataset)):
        flags.append(f"heads trained on {config.trained_on}")
    return ", ".join(flags)
