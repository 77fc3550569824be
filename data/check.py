"""Checks of a dataset's files."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.records import Catalogue, Record
from utils.errors import DataError
from utils.text import printable

CHECKING_THREADS = 8
MOST_DEFECT = 0.6  # of a mask, from which on it may be inverted


def check_catalogue(
    catalogue: Catalogue, decode: bool = True, need_masks: bool = True, progress: bool = False
) -> list[str]:
    """One sentence per problem, in the catalogue's order: categories without normal or test images, files
    that are missing or cannot be opened, defects without a mask, masks that are empty or of another size than
    their image.

    decode=False reads only the images' headers (masks are always decoded); need_masks=False accepts a kind
    of defect that has no mask at all. Nothing raises, nothing is changed.
    """
    problems = list(catalogue.unused)
    for category in catalogue.categories:
        (_, train), (_, test) = catalogue.splits(category)
        if not any(not record.anomalous for record in train):
            problems.append(
                f"category {printable(category)}: no normal training image, so no reference can be sampled"
            )
        if not test:
            problems.append(f"category {printable(category)}: no test image")
    records = list(
        dict.fromkeys(r for c in catalogue.categories for _, part in catalogue.splits(c) for r in part)
    )
    masked = {(r.category, r.defect) for r in records if need_masks or r.mask_path}
    with ThreadPoolExecutor(CHECKING_THREADS) as pool:
        checks = pool.map(
            lambda r: _check_record(catalogue.root, r, decode, (r.category, r.defect) in masked), records
        )
        for sentences in tqdm(
            checks, "checking", len(records), unit="img", disable=not progress, leave=False
        ):
            problems += sentences
    return problems


def _check_record(root: Path, record: Record, decode: bool, need_mask: bool) -> list[str]:
    from data.images import image_size, open_mask, rotation_doubt, size_doubt

    problems, size = [], None
    try:
        size = image_size(root / record.image_path, decode)
    except DataError as error:
        problems.append(str(error))
    if record.anomalous and not record.mask_path and need_mask:
        problems.append(f"{printable(root / record.image_path)}: anomalous image without a mask")
    elif record.mask_path:
        try:
            mask = open_mask(root / record.mask_path)
        except DataError as error:
            return [*problems, f"mask of {printable(record.image_path)}: {error}"]
        if np.asarray(mask).mean() > 255 * MOST_DEFECT:
            problems.append(
                f"{printable(root / record.mask_path)}: nearly all of the mask is defect; inverted?"
            )
        if mask.getextrema()[1] == 0:
            problems.append(f"{printable(root / record.mask_path)}: empty mask of an anomalous image")
        doubt = "" if size is None else size_doubt(mask.size, size)
        if size is not None:
            doubt = doubt or rotation_doubt(root / record.mask_path, root / record.image_path)
        if doubt:
            problems.append(f"{printable(root / record.mask_path)}: {doubt}")
    return problems


def find_duplicates(root: Path, references: Iterable[Record], records: Iterable[Record]) -> list[str]:
    """One sentence per test image whose file is, byte for byte, one of the references; unreadable files are
    skipped."""

    def size(record: Record) -> int | None:
        path = root / record.image_path
        return path.stat().st_size if path.is_file() else None

    by_content = {(root / r.image_path).read_bytes(): r for r in references if size(r)}
    sizes = {len(content) for content in by_content}
    twins = ((r, by_content.get((root / r.image_path).read_bytes())) for r in records if size(r) in sizes)
    return [
        f"{printable(root / r.image_path)}: the same file as the reference {printable(twin.image_path)}"
        for r, twin in twins
        if twin
    ]
