"""A saved detector, one file: its fitted parts as tensors, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.photographs import PhotographReader
from data.region_of_interest import MaskFolders
from data.values import Normalisation
from fdsl.config.run_config import FittedConfig
from fdsl.factory import backbone_of_detector, make_method
from fdsl.references.fitted_references import FittedReferences
from fdsl.references.reference_store import FILE, stored_references, tensors_of_references
from fdsl.store.detector_metadata import METADATA_KEY, DetectorMetadata, checked_metadata, refuse_no_detector
from fdsl.store.tensor_file import read_tensor_file, write_tensor_file
from fdsl.thresholds.threshold import NormalScores, Prior
from models.detector import Detector
from models.ensemble.mutual_scoring import ComparedImages, WithMutualScoring
from models.method import Memories
from models.methods.batch import BatchMemory
from utils.config import MethodConfig
from utils.errors import ConfigError, ModelError, is_out_of_memory
from utils.files import remove_leftovers
from utils.image_statistics import PER_IMAGE
from utils.limits import GreyRange
from utils.options import as_stored
from utils.text import one_line, printable
from utils.tile_layout import TileLayout

ROI, LAYOUT = "roi", "tiles.layout"  # where there are some
IN_FOLDERS = torch.empty(0, dtype=torch.uint8)  # in place of a ROI that comes with each photograph
PRIOR = "prior"  # of NormalScores, where there is one
SIZES, GREY, STATISTICS = "references.sizes", "grey.range", "references.statistics"
NORMALISATION = "references.normalisation"  # (2,3): mean and deviation of float tensors
MOST, MOST_ROWS = 2**31, 256  # tokens; rows or columns of tiles
MEMORIES = {"bank": "whole", "window_bank": "windows", "tile_bank": "tiles"}  # name -> that of Memories
TEST_IMAGES = "test_images"  # and the memory of mutual scoring


def save_detector(path: Path, tensors: Mapping[str, Tensor], metadata: DetectorMetadata) -> None:
    """Writes tensors, configuration and threshold to `path`, whole or not at all."""
    remove_leftovers(Path(path))
    write_tensor_file(Path(path), tensors, METADATA_KEY, as_stored(metadata))


def load_detector(path: Path) -> tuple[dict[str, Tensor], DetectorMetadata]:
    """The tensors and metadata of a saved detector; ConfigError, one sentence, for any other file."""
    refuse_no_detector(path)
    try:
        values, tensors = read_tensor_file(path, METADATA_KEY)
    except ValueError as error:
        raise ConfigError(f"{path} {error}; save the detector again.") from error
    metadata = checked_metadata(path, values)
    needed = [SIZES, STATISTICS, *(f"{FILE}{number}" for number in range(len(metadata.reference_files)))]
    if lacking := [name for name in needed if name not in tensors]:
        raise ConfigError(f"{path} is not a complete detector ({lacking[0]} is missing); save it again.")
    return tensors, metadata


def tensors_of(
    detector: Detector, reader: PhotographReader, references: FittedReferences, normal: NormalScores | None
) -> dict[str, Tensor]:
    """The tensors of a fitted detector: `heads.*`, `bank.*`, `window_bank.*`, `tile_bank.*`, `normal.*` for
    thresholds, and `references.*`."""
    method = detector.method
    tensors = {f"heads.{name}": value for name, value in method.alone().state_dict().items()}
    for name, attribute in MEMORIES.items():
        memory = getattr(detector.memories, attribute)
        if memory is not None:
            tensors |= {f"{name}.{part}": value for part, value in memory.state().items()}
    if isinstance(method, WithMutualScoring) and method.test_images and method.own_scales:
        compared = method.test_images
        tensors |= {f"{TEST_IMAGES}.{name}": value for name, value in compared.memory.state().items()}
        scales = [compared.map_scale, compared.score_scale, *method.own_scales]
        tensors[f"{TEST_IMAGES}.levels"] = torch.tensor(scales, dtype=torch.float64)
    tensors[SIZES] = torch.tensor(references.sizes, dtype=torch.int64).view(-1, 2)
    tensors[STATISTICS] = torch.from_numpy(references.statistics)
    for name, facts in ((GREY, reader.grey), (NORMALISATION, reader.normalisation)):
        if facts is not None:
            tensors[name] = torch.tensor(astuple(facts), dtype=torch.float64)
    if _names_roi(method.options):
        tensors[ROI] = IN_FOLDERS if detector.counted.roi is None else detector.counted.roi
    if detector.layout is not None:
        tensors[LAYOUT] = torch.tensor([detector.layout.rows, detector.layout.columns])
    if normal is not None:
        values = {name: np.atleast_1d(value) for name, value in vars(normal).items() if name != PRIOR}
        if normal.prior is not None:
            values[PRIOR] = np.array(list(vars(normal.prior).values()))
        tensors |= {f"normal.{name}": torch.from_numpy(value) for name, value in values.items()}
    return tensors | tensors_of_references(references.stored)


def restored(
    file: str | Path, config: FittedConfig, tensors: Mapping[str, Tensor]
) -> tuple[Detector, NormalScores | None]:
    """The detector of the `tensors` in `file`, and its scores of normal images.

    Raises ModelError for another backbone, ConfigError for tensors that are missing or have other shapes.
    """
    backbone = backbone_of_detector(config.detector)
    if backbone.fingerprint != config.fingerprint:
        raise ModelError(
            f"The backbone's weights ({backbone.fingerprint}) are not those that {file} was made with "
            f"({config.fingerprint}); give the same weights with --pretrained."
        )
    try:
        refuse_other_forms(tensors, len(backbone.layers), backbone.width)
        state = part_of(tensors, "heads")
        method = make_method(config.detector, backbone.width, len(backbone.layers), state=state)
        made = config.detector
        detector = Detector(backbone, method, made.backbone.image_size, made.windows)
        _restore(detector, tensors)
        return detector, normal_scores_of(tensors)
    except (LookupError, TypeError, ValueError, RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise ConfigError(
                f"{file} does not fit into the memory of {backbone.device} ({one_line(error, 120)}); free "
                "some of it, or use another --device."
            ) from error
        raise ConfigError(f"{file} is not a complete detector ({one_line(error)}); save it again.") from error


def part_of(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors `name.*`, without that prefix."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _restore(detector: Detector, tensors: Mapping[str, Tensor]) -> None:
    """Gives the detector its region of interest, memories, layout of tiles, and test images of mutual
    scoring, where it has some."""
    backbone, method, memories = detector.backbone, detector.method, {}
    if len(roi := tensors.get(ROI, IN_FOLDERS)):
        detector.restrict(roi)
    for name, attribute in MEMORIES.items():
        if state := part_of(tensors, name):
            if not method.transductive:  # a method that compares test images keeps them on the CPU
                state = {key: value.to(backbone.device) for key, value in state.items()}
            memories[attribute] = method.restored(state, backbone.dtype)
    detector.memories = Memories(**memories)
    if LAYOUT in tensors:
        rows, columns = tensors[LAYOUT].tolist()
        detector.layout = TileLayout(rows, columns, detector.grid, backbone.patch_size)
    if isinstance(method, WithMutualScoring):
        map_scale, score_scale, own_map, own_score = tensors[f"{TEST_IMAGES}.levels"].tolist()
        memory = BatchMemory.restored(part_of(tensors, TEST_IMAGES), backbone.dtype)
        method.test_images = ComparedImages(memory, map_scale, score_scale)
        method.set_own_scales(own_map, own_score)


def _names_roi(options: MethodConfig) -> bool:
    return options.roi is not None or options.ignore is not None


def with_masks(
    config: FittedConfig,
    file: str | Path,
    tensors: Mapping[str, Tensor],
    roi: str | Path | None,
    ignore: str | Path | None,
) -> FittedConfig:
    """The configuration of a saved detector with other folders of its photographs' masks; ConfigError where
    there are no such folders, or for a detector without them."""
    given = {name: str(place) for name, place in (("roi", roi), ("ignore", ignore)) if place is not None}
    options, own = config.detector.options, tensors.get(ROI)
    in_folders = own is not None and not len(own) and _names_roi(options)
    for name in given:
        if not in_folders or getattr(options, name) is None:
            raise ConfigError(
                f"--{name} {printable(given[name])}: {printable(file)} was not made with such a folder of "
                "masks, and holds what it needs; leave it out."
            )
    options = replace(options, roi=given.get("roi", options.roi), ignore=given.get("ignore", options.ignore))
    folders = [Path(place) for place in (options.roi, options.ignore) if place is not None]
    if in_folders and not any(place.is_dir() for place in folders):
        raise ConfigError(
            f"{printable(file)}: the masks of its photographs were in {printable(folders[0])}, and there is "
            "no such folder; name the folder of the masks with --roi or --ignore, as when it was made."
        )
    return replace(config, detector=replace(config.detector, options=options))


def reader_of(tensors: Mapping[str, Tensor], masks: MaskFolders | None) -> PhotographReader:
    """What reads photographs as the references of a saved detector were read."""
    grey = GreyRange(*tensors[GREY].tolist()) if GREY in tensors else None
    normalisation = None
    if NORMALISATION in tensors:
        normalisation = Normalisation(*map(tuple, tensors[NORMALISATION].tolist()))
    return PhotographReader(grey, normalisation, masks)


def references_of(tensors: Mapping[str, Tensor], facts: Iterable[tuple[str, str, str]]) -> FittedReferences:
    """The references of a saved detector; `facts`: name, digest and day of each that it carries."""
    sizes = [(width, height) for width, height in tensors[SIZES].tolist()]
    return FittedReferences(sizes, tensors[STATISTICS].numpy(), stored_references(facts, tensors))


def normal_scores_of(tensors: Mapping[str, Tensor]) -> NormalScores | None:
    """The left-out scores of normal images; None where the detector was fitted without a threshold."""
    state = part_of(tensors, "normal")
    if not state:
        return None
    scores, peaks, kinds = (state[name].numpy() for name in ("scores", "peaks", "kinds"))
    prior = Prior(*state[PRIOR].tolist()) if PRIOR in state else None
    return NormalScores(scores, peaks, kinds, state["map_median"].item(), prior)


@dataclass(frozen=True)
class Form:
    """A tensor has one of the `shapes`, a sign for each axis: digits are lengths, and equal letters are equal
    lengths, capitals in the whole file. span: of whole numbers; None: these are floats."""

    shapes: tuple[str, ...]
    span: tuple[int, int] | None = None

    def takes(self, value: Tensor) -> bool:
        """Whether the tensor's kind and values are right."""
        if self.span is None:
            return value.is_floating_point()
        if value.dtype not in (torch.int64, torch.uint8):
            return False
        return not value.numel() or self.span[0] <= int(value.min()) <= int(value.max()) <= self.span[1]

    def fits(self, shape: Sequence[int], lengths: dict[str, int], memory: str) -> bool:
        """Whether a shape is right; what its letters stand for is noted in `lengths`."""
        signs = next((signs for signs in self.shapes if len(signs) == len(shape)), None)
        return signs is not None and all(
            length == (int(sign) if sign.isdigit() else lengths.setdefault(name, length))
            for sign, length in zip(signs, shape)
            for name in (sign if sign.isupper() else f"{memory} {sign}",)
        )


# L, C: feature layers and values of a token of the backbone; T: of text. m: tokens. K: references;
# S: statistics of each.
FORMS = {
    "mean": Form(("L1C", "C")),
    "centred": Form(("LmC",)),
    "sizes": Form(("rc",), span=(0, MOST)),
    "whitening": Form(("LCC",)),
    "directions": Form(("Cd",)),
    "keys": Form(("wk",)),
    "text.mean": Form(("11T",)),
    "text.centred": Form(("1mT",)),
    "text.sizes": Form(("rc",), span=(0, MOST)),
    "tokens": Form(("iLnC",)),
    "digests": Form(("id",), span=(0, 255)),
    "tiles": Form(("1",), span=(1, MOST_ROWS**2)),
    "levels": Form(("4",)),
    "heads.directions": Form(("2T",)),
    "normal.scores": Form(("N",)),
    "normal.peaks": Form(("N",)),
    "normal.kinds": Form(("N",), span=(0, 5)),
    "normal.map_median": Form(("1",)),
    "normal.prior": Form(("4",)),
    "references.sizes": Form(("K2",), span=(1, MOST)),
    "references.statistics": Form(("KS",)),
    "references.normalisation": Form(("23",)),
    "grey.range": Form(("2",)),
    "tiles.layout": Form(("2",), span=(1, MOST_ROWS)),
}


def refuse_other_forms(tensors: Mapping[str, Tensor], layers: int, width: int) -> None:
    """ValueError where a tensor has not its form in FORMS, or where a memory's sizes are not those of its
    tokens. `layers`, `width`: of the backbone, L and C."""
    lengths = {"L": layers, "C": width, "S": PER_IMAGE}
    for name, value in tensors.items():
        memory, _, part = name.partition(".")
        form = FORMS.get(part if memory in (*MEMORIES, TEST_IMAGES) else name)
        if form is not None and not (form.takes(value) and form.fits(value.shape, lengths, memory)):
            raise ValueError(f"{name} has another shape or other values than a detector's")
    for memory in MEMORIES:
        for text in ("", "text."):
            sizes, tokens = (tensors.get(f"{memory}.{text}{part}") for part in ("sizes", "centred"))
            if tokens is not None and (sizes is None or not 0 < int(sizes.sum()) == tokens.shape[1]):
                raise ValueError(f"{memory}.{text}sizes are not those of its tokens")
