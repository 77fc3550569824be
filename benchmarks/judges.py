"""The detectors of judgement.py and thresholds.py, this project's and anomalib's AnomalyDINO, on a backbone
that encodes each image once; and the rows that they compute."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from benchmarks.products import Product, Row, backbones_of, catalogues, read_rows, write_row
from data.images import open_image
from data.photographs import views_of
from data.records import sample_references
from fdsl.api import AnomalyDetector
from fdsl.config.run_config import FittedConfig, RunConfig
from fdsl.factory import build_detector, detector_config
from fdsl.references.rotation import ROTATIONS
from fdsl.scoring import fused_scores
from fdsl.store.checkpoint import load_checkpoint
from models.backbone import NOTHING_MORE, Backbone
from models.backbones.backbone_registry import family_of, load_backbone
from models.detector import Detector
from models.features import Features
from models.methods.nearest import Nearest
from models.methods.plus import Plus
from models.methods.registry import METHODS
from utils.config import FINAL, BackboneConfig, MethodConfig, WindowConfig
from utils.device import choose_device, choose_precision
from utils.errors import ConfigError
from utils.files import whole_file
from utils.options import options_of
from utils.views import Views

COPIES = {Plus.name: Plus.rotations, Nearest.name: ROTATIONS}  # of others 1
OPTIONS = {**options_of(MethodConfig), **options_of(WindowConfig)}
OPTIONS["rotations"] = options_of(RunConfig)["rotations"]
COMPONENTS = "anomalib.models.components"


class Encoded:
    """A `Backbone` that keeps the tokens (L,N,C) of each image in a folder, in its own precision.

    A file's name is a digest of the pixels, the weights, the feature layers and the precision. What is wanted
    else than tokens is not kept. seconds: spent on encoding and reading so far.
    """

    def __init__(self, backbone: Backbone, folder: Path) -> None:
        self.backbone, self.seconds = backbone, 0.0
        about = f"{backbone.fingerprint} {backbone.layers} {backbone.dtype}"
        self.key = hashlib.blake2b(about.encode()).digest()
        self.folder = folder / self.key.hex()[:16]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backbone, name)

    def encode(
        self, images: Tensor, want: frozenset[str] = NOTHING_MORE, side: int | None = None
    ) -> Features:
        """As the backbone's own, image by image."""
        started = time.perf_counter()
        if want or side not in (None, images.shape[-1]):
            found = self.backbone.encode(images, want, side)
        else:
            found = Features(torch.stack([self._tokens(image) for image in images], 1).to(self.device))
        self.seconds += time.perf_counter() - started
        return found

    def _tokens(self, image: Tensor) -> Tensor:
        digest = hashlib.blake2b(image.cpu().contiguous().numpy().tobytes(), key=self.key, digest_size=20)
        file = self.folder / f"{digest.hexdigest()}.safetensors"
        if not file.exists():
            tokens = self.backbone.encode(image[None]).tokens[:, 0].cpu().contiguous()
            with whole_file(file, "wb") as stream:
                stream.write(save({"tokens": tokens}))
        return load_file(file)["tokens"]


def encoded_backbone(args: argparse.Namespace, encoder: BackboneConfig) -> Encoded:
    device = choose_device(args.device)
    return Encoded(load_backbone(encoder, device, choose_precision(args.precision, device)), args.cache)


class Ours:
    """This project's detector, as METHOD or METHOD:NAME=VALUE,...; ConfigError and ModelError as the
    commands. `heads`: the checkpoint of a method that needs trained ones."""

    def __init__(
        self,
        text: str,
        args: argparse.Namespace,
        encoder: BackboneConfig,
        backbone: Encoded,
        heads: Path | None = None,
    ) -> None:
        self.backbone, self.side = backbone, encoder.image_size
        self.method, given = read_setting(text)
        self.rotations = given.get("rotations", COPIES.get(self.method, 1))
        checkpoint = load_checkpoint(heads) if heads and METHODS[self.method].needs_heads else None
        given = {**asdict(encoder), "winmode": "nan", **given}
        made = detector_config(self.method, given, args.device, args.precision, checkpoint)
        config = FittedConfig(made, given.get("image_score", "max"))
        like = Detector(backbone, Nearest(backbone.width, len(backbone.layers)), self.side)
        self.detector = AnomalyDetector(build_detector(made, checkpoint, like), config)
        self.scorer = self.detector.scorer

    @property
    def layout(self) -> Any:
        """How photographs are cut into tiles; None: they are not."""
        return self.scorer.detector.layout

    def fit(self, references: Sequence[Path]) -> None:
        self.detector.fit(references, rotations=self.rotations, false_alarm_rate=None)

    def __call__(self, views: Views) -> tuple[np.ndarray, np.ndarray]:
        """B images -> maps (B,G,G) and image scores (B,)."""
        found = self.scorer(views, ["a test image"] * len(views))
        return fused_scores(found, self.scorer.detector.settings, self.detector.config.image_score)


def read_setting(text: str) -> tuple[str, dict[str, Any]]:
    """METHOD:NAME=VALUE,... -> the method and what was given, several values joined by +; ConfigError."""
    method, _, rest = text.partition(":")
    pairs = dict(pair.partition("=")[::2] for pair in filter(None, rest.split(",")))
    if method not in METHODS or not pairs.keys() <= {"image_score", *OPTIONS}:
        raise ConfigError(f"--methods {text}: give METHOD or METHOD:NAME=VALUE,... with a name of an option")
    try:
        return method, {name: _value(name, value) for name, value in pairs.items()}
    except (argparse.ArgumentTypeError, ValueError) as error:
        raise ConfigError(f"--methods {text}: {error}") from None


def _value(name: str, text: str) -> Any:
    if name not in OPTIONS:
        return text
    known = OPTIONS[name]
    if known.many:
        return text.split("+")
    if known.span is None:
        return text == "1" if known.kind is bool else text
    return known.words[text] if text in known.words else known.kind(text)


class AnomalyDino:
    """anomalib's AnomalyDINOModel with its defaults, of which the backbone alone is ours: the tokens of the
    last block behind the final norm, in float32."""

    name, layout = "anomalydino", None

    def __init__(self, args: argparse.Namespace, encoder: BackboneConfig) -> None:
        module = anomaly_dino_module()
        last = family_of(encoder.model).defaults(encoder.model, encoder.model_config).layers[-1]
        self.backbone = encoded_backbone(args, replace(encoder, layers=(last,), token_norm=FINAL))
        self.side = encoder.image_size
        extractor = SimpleNamespace(patch_size=self.backbone.patch_size)
        module.TimmFeatureExtractor = lambda **_: extractor  # it would fetch DINOv2's weights
        self.model = module.AnomalyDINOModel().to(self.backbone.device)
        self.model.extract_features = lambda pixels: self.backbone.encode(pixels.byte()).tokens[-1].float()

    def fit(self, references: Sequence[Path]) -> None:
        self.model.train()
        images = Views.joined([views_of(open_image(path), self.side) for path in references])
        self.model(self._moved(images))
        self.model.fit()
        self.model.eval()

    def __call__(self, views: Views) -> tuple[np.ndarray, np.ndarray]:
        """B images -> maps (B,S,S) and image scores (B,)."""
        found = self.model(self._moved(views))
        return found.anomaly_map[:, 0].cpu().numpy(), found.pred_score[:, 0].double().cpu().numpy()

    def _moved(self, views: Views) -> Tensor:
        return views.whole.to(self.backbone.device, torch.float32)


def anomaly_dino_module() -> Any:
    """anomalib's models/image/anomaly_dino/torch_model.py. Its packages stay empty but for what it uses: they
    would import Lightning, data sets and all other models."""
    try:
        root = Path(importlib.import_module("anomalib").__path__[0])
        for name in (
            *("models", "models.components", "models.components.base", "models.image"),
            *("models.image.anomaly_dino", "models.image.patchcore"),
            *("data", "data.dataclasses", "data.dataclasses.torch"),
        ):
            package: Any = ModuleType(f"anomalib.{name}")
            package.__path__ = [str(root / name.replace(".", "/"))]
            sys.modules[package.__name__] = package
        for package, source, name in (
            (COMPONENTS, f"{COMPONENTS}.filters.blur", "GaussianBlur2d"),
            (COMPONENTS, f"{COMPONENTS}.base.dynamic_buffer", "DynamicBufferMixin"),
            ("anomalib.data", "anomalib.data.dataclasses.torch.base", "InferenceBatch"),
        ):
            setattr(sys.modules[package], name, getattr(importlib.import_module(source), name))
        sys.modules[COMPONENTS].KCenterGreedy = None  # of its coreset, which is off by default
        return importlib.import_module("anomalib.models.image.anomaly_dino.torch_model")
    except ImportError as error:
        raise ConfigError(
            f"--methods {AnomalyDino.name} needs anomalib ({error}): pip install --no-deps anomalib kornia "
            "kornia_rs, or leave that row out."
        ) from error


def computed(
    args: argparse.Namespace, kind: type[Row], measured: Callable[..., dict[str, Any]]
) -> Iterator[Row]:
    """All rows of the command line: those that are in --json, and the others as they are computed. `measured`
    gives the fields of `kind` behind its key from a detector, a product and records of references."""
    rows, products = read_rows(args.json, kind), catalogues(args)
    for weights, encoder, heads in backbones_of(args):
        settings = (encoder.model, encoder.layers, encoder.image_size, encoder.token_norm)
        run = " ".join(map(str, (*settings, args.precision, args.images)))
        judges: dict[str, Ours | AnomalyDino] = {}
        for category, catalogue in products.items():
            product = None
            for shots, seed, text in itertools.product(args.shots, args.seeds, args.methods):
                key = text, weights, category, shots, seed, run
                if key not in rows:
                    judges = judges or judges_of(args, encoder, heads)
                    product = product or Product(catalogue, category, args.images)
                    references = sample_references(product.train, shots, seed, category)
                    rows[key] = kind(*key, **measured(judges[text], product, references))
                    write_row(rows[key], args.json)
                yield rows[key]


def judges_of(
    args: argparse.Namespace, encoder: BackboneConfig, heads: Path | None
) -> dict[str, Ours | AnomalyDino]:
    """What computes the rows of each method on one backbone."""
    backbone, other = encoded_backbone(args, encoder), AnomalyDino.name
    return {
        text: AnomalyDino(args, encoder) if text == other else Ours(text, args, encoder, backbone, heads)
        for text in args.methods
    }
