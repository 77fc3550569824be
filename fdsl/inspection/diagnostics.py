"""What is on this machine, and what to do about what is not: `predict.py --doctor`."""

from __future__ import annotations

import platform
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fdsl.config.resolve import backbone_config
from utils.command import how_to_install
from utils.config import UNTRAINED, BackboneConfig
from utils.console import put_line
from utils.errors import ConfigError, ModelError
from utils.text import one_line

if TYPE_CHECKING:
    import torch

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements.txt"
OLDEST = (3, 11)
PASSES, ENOUGH_SECONDS = 3, 5.0  # as many passes are timed as take about so long


class Finding(NamedTuple):
    """One thing that was looked at. `cure`: what to do, "" where it is as it should be or another one has it.
    `stops`: nothing runs before that is done."""

    what: str
    observed: str
    cure: str = ""
    stops: bool = False

    @property
    def line(self) -> str:
        mark = "stops" if self.stops else "note" if self.cure else "ok"
        return f"[{mark:>5}] {self.what}: {self.observed}{'; ' if self.cure else ''}{self.cure}"


def examine(on: str, precision: str, given: Mapping[str, Any]) -> Iterator[Finding]:
    """Everything that decides whether and how fast a detector would run, one after the other: `on` this
    device, in this precision, with the `given` options of a backbone."""
    yield _python()
    installed = list(packages(REQUIREMENTS))
    yield from installed
    if missing := [package for package in installed if package.stops]:
        yield Finding("packages", f"{len(missing)} missing", how_to_install(), stops=True)
        return
    from utils.device import choose_device, choose_precision, describe_device  # PyTorch: it is here

    try:
        device = choose_device(on)
        dtype = choose_precision(precision, device)
    except ConfigError as error:
        yield Finding("device", on, one_line(error, 300), stops=True)
        return
    slow = (
        "no GPU is visible to PyTorch: if there is one, install its PyTorch" if device.type == "cpu" else ""
    )
    yield Finding("device", f"{device}, {describe_device(device)}", slow)
    yield Finding("precision", str(dtype).removeprefix("torch."))
    try:
        config = backbone_config(given)
        weights = _weights(config)
        yield weights
        yield _timed_pass(config, device, dtype, trained=not weights.cure)
    except (ModelError, ConfigError) as error:
        yield Finding(
            "backbone", given.get("model", BackboneConfig().model), one_line(error, 300), stops=True
        )


def _python() -> Finding:
    found = f"{platform.python_version()}, {platform.platform()}"
    if sys.version_info[:2] >= OLDEST:
        return Finding("Python", found)
    return Finding("Python", found, "install Python 3.11 or newer", stops=True)


def packages(file: Path) -> Iterator[Finding]:
    """The packages that a requirements file names, with the versions that it pins."""
    if not file.is_file():
        yield Finding("packages", "installed as a package, with what it asks for")
        return
    for line in file.read_text(encoding="utf-8").splitlines():
        pinned = re.fullmatch(r"([A-Za-z0-9_.-]+)==([^\s;#]+).*", line.strip())
        if pinned:
            yield _package(pinned[1], pinned[2])


def _package(name: str, pinned: str) -> Finding:
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding(name, f"is missing, {pinned} is pinned", stops=True)
    if found.partition("+")[0] == pinned:
        return Finding(name, found)
    return Finding(name, found, f"tested with {pinned}: pip install {name}=={pinned} where something fails")


def _weights(config: BackboneConfig) -> Finding:
    """Whether the backbone's weights are here, or how to get them."""
    what = f"weights of {config.model}"
    if config.untrained:
        return Finding(what, "none: random ones", "leave --pretrained none out for real results")
    if Path(config.pretrained).is_file():
        return Finding(what, config.pretrained)
    from models.backbones.backbone_registry import family_of

    place = family_of(config.model).cached(config.model, config.pretrained)
    if place is not None:
        return Finding(what, f"{config.pretrained}, in the cache ({place})")
    return Finding(
        what,
        f"{config.pretrained}, not in the cache",
        "they are fetched on the first use; without a network give --pretrained FILE",
    )


def _timed_pass(config: BackboneConfig, device: torch.device, dtype: torch.dtype, trained: bool) -> Finding:
    """How long one photograph takes in the backbone; with random weights where others are not here."""
    import torch

    from models.backbones.backbone_registry import load_backbone

    timed = config if trained else replace(config, pretrained=UNTRAINED)
    backbone = load_backbone(timed, device, dtype)
    image = torch.zeros(1, 3, config.image_size, config.image_size, dtype=torch.uint8)
    best, begun = float("inf"), time.perf_counter()
    for _ in range(PASSES):
        start = time.perf_counter()
        backbone.encode(image).tokens.cpu()
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() - begun > ENOUGH_SECONDS:
            break
    return Finding(f"one photograph at {config.image_size} px", f"{1e3 * best:,.1f} ms in the backbone")


def report(findings: Iterable[Finding]) -> int:
    """Prints the findings, and last what is to be done; returns the exit code: 2 where
    something stops everything."""
    to_do = []
    for finding in findings:
        put_line(finding.line)
        to_do += [f"{finding.what}: {finding.cure}"] if finding.stops and finding.cure else []
    things = f"{len(to_do)} thing{'s' if len(to_do) > 1 else ''} to do"
    put_line(f"{things}: {'; '.join(to_do)}." if to_do else "Ready.")
    return 2 if to_do else 0
