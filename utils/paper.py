"""What the FDSL paper reports on the full datasets, for comparison: means over seeds with their spread, per cent."""

from __future__ import annotations

from typing import Any

COLUMNS = ("auroc_sp", "f1_sp", "ap_sp", "auroc_px", "f1_px", "ap_px")
SOURCE = "FDSL paper, all categories, mean over seeds"
FDSL = {
    ("mvtec", 1): ((94.4, .5), (95.1, .4), (97.2, .3), (96.8, .2), (58.6, .5), (60.3, .6)),
    ("mvtec", 2): ((95.0, .6), (95.5, .3), (97.6, .3), (97.0, .1), (59.4, .6), (61.4, .6)),
    ("mvtec", 4): ((96.3, .3), (96.0, .2), (98.2, .2), (97.2, .1), (61.0, .4), (62.9, .4)),
    ("visa", 1): ((90.7, 1.0), (87.0, 1.1), (92.3, 1.0), (97.8, .1), (46.5, .6), (42.8, .8)),
    ("visa", 2): ((93.0, .3), (89.5, .3), (94.1, .3), (98.1, .1), (47.5, .8), (43.6, 1.0)),
    ("visa", 4): ((93.8, .3), (90.3, .3), (94.8, .3), (98.3, .1), (48.5, .5), (44.7, .7)),
}


def paper_row(dataset: str, k_shot: int) -> dict[str, Any] | None:
    """Metric -> (mean, std) in per cent, with `source`; None where the paper has no such setting."""
    values = FDSL.get((dataset, k_shot))
    return {**dict(zip(COLUMNS, values)), "source": SOURCE} if values else None
