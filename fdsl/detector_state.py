"""The fitted parts of a detector as the tensors of its file, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fdsl.config.run_config import FittedConfig
from fdsl.factory import assemble, backbone_of_detector, saved_method
from fdsl.thresholds.threshold import LEAVE_COPY_OUT, LEAVE_ONE_OUT, NormalScores, Prior, is_normal
from models.detector import Detector
from models.ensemble.mutual_scoring import ComparedImages, WithMutualScoring
from models.features import EMBEDDING
from models.matching.candidates import UNRESTRICTED, PerWindowTopK, SharedTopK
from models.method import Memories
from models.methods.batch import BatchMemory
from utils.config import MethodConfig
from utils.errors import ConfigError, ModelError
from utils.grey_range import GreyRange
from utils.image_statistics import PER_IMAGE
from utils.memory import is_out_of_memory
from utils.text import one_line, printable
from utils.tile_layout import MOST_IN_ALL, TileLayout

# The errors of missing tensors, and of tensors with other shapes.
UNFIT = (LookupError, TypeError, ValueError, RuntimeError)
ROI, LAYOUT = "roi", "tiles.layout"  # where there are some
IN_FOLDERS = torch.empty(0, dtype=torch.uint8)  # in place of a ROI that comes with each photograph
PRIOR = "prior"  # of NormalScores, where there is one
SIZES, GREY, STATISTICS = "references.sizes", "grey.range", "references.statistics"
# Name in the file -> that of Memories.
MEMORIES = {"bank": "whole", "window_bank": "windows", "tile_bank": "tiles"}


def tensors_of(
    detector: Detector,
    normal: NormalScores | None,
    sizes: Sequence[tuple[int, int]] = (),
    grey: GreyRange | None = None,
) -> dict[str, Tensor]:
    """The tensors of a fitted detector: `heads.*`, `bank.*`, `window_bank.*`, `tile_bank.*`, and `normal.*`
    for thresholds."""
    tensors = {f"heads.{name}": value for name, value in detector.method.state_dict().items()}
    for name, attribute in MEMORIES.items():
        memory = getattr(detector.memories, attribute)
        if memory is not None:
            tensors |= {f"{name}.{part}": value for part, value in memory.state().items()}
    method = detector.method
    if isinstance(method, WithMutualScoring) and method.test_images and method.own_scales:
        compared = method.test_images
        tensors |= {f"test_images.{name}": value for name, value in compared.memory.state().items()}
        scales = [compared.map_scale, compared.score_scale, *method.own_scales]
        tensors["test_images.levels"] = torch.tensor(scales, dtype=torch.float64)
    tensors[SIZES] = torch.tensor(list(sizes), dtype=torch.int64).view(-1, 2)
    if grey is not None:
        tensors[GREY] = torch.tensor([grey.low, grey.high], dtype=torch.float64)
    if _names_roi(method.options):
        tensors[ROI] = IN_FOLDERS if detector.roi is None else detector.roi
    if detector.layout is not None:
        tensors[LAYOUT] = torch.tensor([detector.layout.rows, detector.layout.columns])
    if normal is not None:
        values = {name: np.atleast_1d(value) for name, value in vars(normal).items() if name != PRIOR}
        if normal.prior is not None:
            values[PRIOR] = np.array(list(vars(normal.prior).values()))
        tensors |= {f"normal.{name}": torch.from_numpy(value) for name, value in values.items()}
    return tensors


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
        method = saved_method(config.detector, backbone, part_of(tensors, "heads"))
        detector = assemble(config.detector, backbone, method)
    except UNFIT as error:
        raise _not_complete(file, error) from error
    try:
        _refuse_other_directions(detector)
        restore_roi(detector, tensors)
        restore_memories(detector, tensors)
        restore_layout(detector, tensors)
        restore_test_images(detector, tensors)
        return detector, normal_scores_of(tensors)
    except (ConfigError, ModelError, MemoryError, *UNFIT) as error:
        if is_out_of_memory(error):
            raise ConfigError(
                f"{file} does not fit into the memory of {backbone.device} ({one_line(error, 120)}); free "
                "some of it, or use another --device."
            ) from error
        raise _not_complete(file, error) from error


def _not_complete(file: str | Path, error: Exception) -> ConfigError:
    reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return ConfigError(f"{file} is not a complete detector ({one_line(reason)}); save it again.")


def part_of(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors `name.*`, without that prefix."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def restore_memories(detector: Detector, tensors: Mapping[str, Tensor]) -> None:
    """Gives the detector its memories; KeyError where a part is missing, ValueError where one has another
    shape."""
    backbone, memories = detector.backbone, {}
    for name, attribute in MEMORIES.items():
        state = part_of(tensors, name)
        if not detector.method.transductive:  # a method that compares test images keeps them on the CPU
            state = {key: value.to(backbone.device) for key, value in state.items()}
        if not state and _needs(detector, name):
            raise ValueError(f"it has no {name}")
        if name == "window_bank" and state:
            _refuse_other_windows(detector, state)
        if state:
            memories[attribute] = detector.method.restored(state, backbone.dtype)
    detector.memories = Memories(**memories)


def _needs(detector: Detector, name: str) -> bool:
    """Whether the detector cannot score without this memory."""
    method = detector.method
    if not (method.needs_references or method.transductive):
        return False
    own_windows = detector.windows is not None and not detector.matches_whole_image
    return name == "bank" or (name == "window_bank" and own_windows)


def _refuse_other_windows(detector: Detector, state: Mapping[str, Tensor]) -> None:
    """ValueError where a bank's windows are not the detector's."""
    windows, keys = detector.windows, state.get("keys")
    if windows is None or windows.match is UNRESTRICTED or not detector.method.matches:
        return
    match = windows.match
    if keys is None or keys.dim() != 2:
        raise ValueError("window_bank has no keys")
    if len(keys) * windows.grid.encoded**2 != state["centred"].shape[1]:
        raise ValueError("window_bank holds windows of another size")
    method = detector.method
    own = isinstance(match, PerWindowTopK)
    if keys.shape[1] != (method.width * method.blocks if own else _embedding_width(detector)):
        raise ValueError("the keys of window_bank have another length")


def _refuse_other_directions(detector: Detector) -> None:
    """ValueError where directions of text have another length than the backbone's embeddings; ModelError for
    a backbone that cannot project its patches into that space."""
    method = detector.method
    if method.reads_text and method.directions.shape[1] != _embedding_width(detector, method.want):
        raise ValueError("its directions of text have another length")
    if method.reads_text and not bool(method.directions.isfinite().all()):
        raise ValueError("its directions of text are not finite")


def _embedding_width(detector: Detector, want: frozenset[str] = frozenset()) -> int:
    """D of the backbone's image embeddings, measured on a window or a single patch; `want`: other features
    that it must be able to give."""
    patches = 1 if detector.windows is None else detector.windows.grid.encoded
    side = patches * detector.backbone.patch_size
    window = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    return detector.backbone.encode(window, SharedTopK.want | want).wanted(EMBEDDING).shape[1]


def _require(holds: bool, sentence: str) -> None:
    """ConfigError with the sentence unless it holds."""
    if not holds:
        raise ConfigError(sentence)


def restore_roi(detector: Detector, tensors: Mapping[str, Tensor]) -> None:
    """Gives the detector its region of interest, where it has one; ConfigError for one that does not fit."""
    roi = tensors.get(ROI)
    sentence = "its region of interest is not there, or one is that it does not name"
    _require(_names_roi(detector.method.options) == (roi is not None), sentence)
    if roi is not None and len(roi):
        side = detector.image_size
        fits = roi.shape == (side, side) and roi.dtype == torch.uint8
        _require(fits, "its region of interest has another size")
        detector.restrict(roi)


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


def restore_layout(detector: Detector, tensors: Mapping[str, Tensor]) -> None:
    """Gives the detector its layout of tiles, where it has one; ConfigError for one that does not fit."""
    if LAYOUT not in tensors:
        return
    layout, memory = tensors[LAYOUT], detector.memories.tiles
    complete = layout.shape == (2,) and not layout.is_floating_point() and memory is not None
    _require(complete, "its tiles are missing")
    rows, columns = map(int, layout.tolist())
    _require(1 <= min(rows, columns) and rows * columns <= MOST_IN_ALL, f"it has {rows} x {columns} tiles")
    if isinstance(memory, BatchMemory):
        sentence = f"it has {rows} x {columns} tiles, and its memory bank {memory.tiles}"
        _require(memory.tiles == rows * columns, sentence)
    detector.layout = TileLayout(rows, columns, detector.grid, detector.backbone.patch_size)


def restore_test_images(detector: Detector, tensors: Mapping[str, Tensor]) -> None:
    """Gives the detector the test images of mutual scoring, where it has some; KeyError where a part is
    missing."""
    method = detector.method
    if not isinstance(method, WithMutualScoring):
        return
    scales = tensors["test_images.levels"]
    fits = scales.shape == (4,) and bool((scales > 0).all())
    _require(fits, "its levels are not those of test images")
    map_scale, score_scale, own_map, own_score = scales.double().tolist()
    memory = method.batch.restored(part_of(tensors, "test_images"), detector.backbone.dtype)
    method.test_images = ComparedImages(memory, map_scale, score_scale)
    method.set_own_scales(own_map, own_score)


def _of_references(tensors: Mapping[str, Tensor], name: str, columns: int) -> Tensor:
    """The tensor `name`, a row of `columns` numbers for each reference; ConfigError for another shape, and
    for numbers that are not finite."""
    rows = tensors.get(name, torch.empty(0))
    fits = rows.shape[1:] == (columns,) and bool(rows.isfinite().all())
    _require(fits, f"the {name.partition('.')[2]} of its references are none")
    return rows


def sizes_of(tensors: Mapping[str, Tensor]) -> list[tuple[int, int]]:
    """The references' (width, height); ConfigError for numbers that are no size."""
    sizes = _of_references(tensors, SIZES, 2)
    _require(bool((sizes > 0).all()), "the sizes of its references are none")
    return [(int(width), int(height)) for width, height in sizes.tolist()]


def statistics_in(tensors: Mapping[str, Tensor]) -> np.ndarray:
    """The references' statistics (K,6); ConfigError as `_of_references`."""
    return _of_references(tensors, STATISTICS, PER_IMAGE).double().numpy()


def grey_of(tensors: Mapping[str, Tensor]) -> GreyRange | None:
    """The grey range of photographs with more than 8 bits; None where there was none."""
    grey = tensors.get(GREY)
    if grey is None:
        return None
    _require(grey.shape == (2,) and bool(grey[0] < grey[1]), "its range of grey values is none")
    return GreyRange(*grey.double().tolist())


def normal_scores_of(tensors: Mapping[str, Tensor]) -> NormalScores | None:
    """The left-out scores of normal images; None where the detector was fitted without a threshold."""
    state = part_of(tensors, "normal")
    if "scores" not in state:
        return None
    scores, peaks, kinds, floor = (state[name].numpy() for name in ("scores", "peaks", "kinds", "floor"))
    _require(floor.size == 1 and is_normal(scores, peaks, kinds), "its held-out scores are none")
    prior = None
    if PRIOR in state:
        numbers = state[PRIOR].double()
        fits = numbers.shape == (4,) and bool(numbers.isfinite().all() and (numbers[[1, 3]] > 0).all())
        _require(fits, "its prior of other products is no offset and spread")
        left_out = np.isin((LEAVE_ONE_OUT, LEAVE_COPY_OUT), kinds).any()
        _require(bool(left_out), "its references' scores without themselves are missing")
        prior = Prior(*numbers.tolist())
    return NormalScores(scores, peaks, kinds, float(floor.item()), prior)
