"""Runs on the same backbone: grouped, and each given a detector that shares what is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterable

from fdsl.assembly import build_detector
from fdsl.planning import Planned
from models.detector import Detector


def of_one_backbone(runs: Iterable[Planned]) -> list[list[Planned]]:
    """The runs in groups that share the backbone's work: the same backbone, feature layers, image side and
    machine."""
    groups: dict[str, list[Planned]] = {}
    for run in runs:
        values = run.config.detector.to_json()
        key = [values[name] for name in ("backbone", "machine")]
        groups.setdefault(json.dumps(key, sort_keys=True), []).append(run)
    return list(groups.values())


class Detectors:
    """The detectors of runs of one group. What two of them share is there once: the backbone for all, and
    the heads for those that differ in their windows alone."""

    def __init__(self) -> None:
        self.known: dict[str, Detector] = {}

    def of(self, run: Planned) -> Detector:
        """The detector of a run, its memory still empty; ModelError as build_detector."""
        made = run.config.detector
        values = made.to_json()
        key = json.dumps([values["method"], values["options"], run.config.checkpoint_digest], sort_keys=True)
        if key not in self.known:
            like = next(iter(self.known.values()), None)
            self.known[key] = build_detector(made, run.checkpoint, like, run.tested.catalogue.test)
        known = self.known[key]
        return known if known.settings == made.windows else known.another(made.windows)
