"""Records of labelled images, the catalogue of a dataset, and meta.json, the file that keeps it."""

import contextlib
import hashlib
import importlib
import json
import logging
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from tabulate import tabulate
from tqdm import tqdm

logger = logging.getLogger("fdsl")
DATASETS = ("mvtec", "visa", "folder")
SPLITS = ("train", "test")
CHECKING_THREADS = 8
ENTRY_KEYS = ("img_path", "mask_path", "cls_name", "specie_name", "anomaly")


class DataError(Exception):
    """What is wrong with the user's data, in one sentence that names the file and the cure.

    A DataLoader re-raises a worker's error with the worker's traceback as its message: the sentence is taken
    out again.
    """

    def __init__(self, sentence: str):
        marker = f"\n{type(self).__module__}.{type(self).__qualname__}: "
        if sentence.startswith("Caught ") and marker in sentence:
            sentence = sentence.rsplit(marker, 1)[1].strip()
        super().__init__(sentence)


@dataclass(frozen=True)
class Record:
    """One image: paths relative to the dataset's root with forward slashes; mask_path is "" where there is no
    mask."""

    image_path: str
    mask_path: str
    category: str
    defect: str  # "good" for a normal image
    anomalous: bool


@dataclass(frozen=True)
class Catalogue:
    """A dataset: its root folder and, per split, the records of each category in natural order."""

    root: Path
    train: dict[str, list[Record]]
    test: dict[str, list[Record]]

    @property
    def categories(self) -> list[str]:
        return sorted({*self.train, *self.test}, key=natural_key)

    def splits(self, category: str) -> list[tuple[str, list[Record]]]:
        return [("train", self.train.get(category, [])), ("test", self.test.get(category, []))]


def natural_key(text: str) -> tuple:
    """Sort key that puts 2.png before 10.png; equal only for equal texts."""
    parts = re.split(r"([0-9]+)", text)
    numbers = [part.lstrip("0") for part in parts[1::2]]
    return tuple(zip(parts[::2], [*((len(n), n) for n in numbers), (0, "")])), text


def shown(path: str | Path) -> str:
    """A name as messages and tables show it: one line, control characters and undecodable bytes escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(path))


def checked_path(text: object, where: str) -> str:
    """text if it is a relative path that stays inside the dataset's root; raises DataError naming `where`
    otherwise."""
    if not isinstance(text, str) or not text or "\0" in text:
        raise DataError(
            f"{where}: a path is missing or is not text; write the dataset's meta.json or split file again"
        )
    separated = text.replace("\\", "/") if os.name == "nt" else text
    if PurePosixPath(separated).is_absolute() or re.match(r"[A-Za-z]:[\\/]", text):
        raise DataError(
            f"{where}: {shown(text)} is an absolute path; paths must be relative to the dataset's root"
        )
    if ".." in PurePosixPath(separated).parts or not PurePosixPath(separated).parts:
        raise DataError(
            f"{where}: {shown(text)} does not stay inside the dataset's root; remove its '..' or the entry"
        )
    return text


def checked_name(text: object, where: str) -> str:
    """text if it can name a folder (categories and defects do); raises DataError naming `where` otherwise."""
    forbidden = ("/", "\0", "\\") if os.name == "nt" else ("/", "\0")
    if not isinstance(text, str) or text in ("", ".", "..") or any(c in text for c in forbidden):
        raise DataError(f"{where}: {shown(text)!r} cannot name a category or a defect; use a plain name")
    return text


# meta.json --------------------------------------------------------------------------------------------------


def write_meta(catalogue: Catalogue, file: str | Path) -> None:
    """Write the catalogue as meta.json (the published scripts' format), whole or not at all; DataError if it
    cannot."""
    content = {
        split: {category: [_entry(record) for record in records] for category, records in part.items()}
        for split, part in (("train", catalogue.train), ("test", catalogue.test))
    }
    file = Path(file)
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="ascii") as stream:
            stream.write(json.dumps(content, indent=4) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except OSError as error:
        raise DataError(
            f"{shown(file)}: cannot be written ({error.strerror}); name a file in a folder you may write "
            "to with --meta FILE"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _entry(record: Record) -> dict:
    values = (record.image_path, record.mask_path, record.category, record.defect, int(record.anomalous))
    return dict(zip(ENTRY_KEYS, values))


def read_meta(file: str | Path, root: str | Path) -> Catalogue:
    """Read and validate a meta.json; no entry may point outside root.

    Raises DataError for anything that is not exactly this format: broken JSON, unknown keys, wrong types,
    escaping paths, an image listed twice in a split.
    """
    name, cure = (
        shown(file),
        "write it again with data/mvtec.py or data/visa.py, or name another with --meta FILE",
    )
    try:
        with open(file, encoding="utf-8-sig") as stream:
            content = json.load(stream)
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror}); {cure}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: is not valid JSON ({shown(str(error))}); {cure}") from error
    if not isinstance(content, dict) or set(content) != set(SPLITS):
        raise DataError(f"{name}: must hold exactly the keys 'train' and 'test'; {cure}")
    if not all(isinstance(part, dict) for part in content.values()) or not any(content.values()):
        raise DataError(f"{name}: 'train' and 'test' must map categories to lists of images; {cure}")
    train, test = (
        {
            checked_name(category, name): _read_entries(
                entries, category, f"{name}, {split}/{shown(category)}"
            )
            for category, entries in content[split].items()
        }
        for split in SPLITS
    )
    return Catalogue(Path(root), train, test)


def _read_entries(entries: object, category: str, where: str) -> list[Record]:
    if not isinstance(entries, list):
        raise DataError(f"{where}: is not a list of images; write meta.json again")
    records = [_read_entry(entry, category, f"{where}[{index}]") for index, entry in enumerate(entries)]
    seen = set()
    for record in records:
        if record.image_path in seen:
            raise DataError(f"{where}: lists {shown(record.image_path)} twice; remove one of the entries")
        seen.add(record.image_path)
    return sorted(records, key=lambda record: natural_key(record.image_path))


def _read_entry(entry: object, category: str, where: str) -> Record:
    if not isinstance(entry, dict) or set(entry) != set(ENTRY_KEYS):
        raise DataError(f"{where}: must hold exactly the keys {', '.join(ENTRY_KEYS)}; write meta.json again")
    if type(entry["anomaly"]) is not int or entry["anomaly"] not in (0, 1):
        raise DataError(f"{where}: 'anomaly' must be 0 or 1; write meta.json again")
    if entry["cls_name"] != category:
        raise DataError(
            f"{where}: 'cls_name' differs from the category it is listed under; write meta.json again"
        )
    anomalous = entry["anomaly"] == 1
    # Published VisA files leave specie_name empty. A normal image's mask, where a file names one, is never
    # read.
    defect = "" if entry["specie_name"] == "" else checked_name(entry["specie_name"], where)
    mask = "" if entry["mask_path"] == "" else checked_path(entry["mask_path"], where)
    return Record(
        checked_path(entry["img_path"], where),
        mask if anomalous else "",
        category,
        defect or ("bad" if anomalous else "good"),
        anomalous,
    )


def open_catalogue(dataset: str, root: str | Path, meta_file: str | Path | None = None) -> Catalogue:
    """The catalogue of a dataset ("mvtec", "visa" or "folder"): from meta_file, else root/meta.json, else by
    scanning.

    Nothing is written, so a read-only root will do. Raises DataError.
    """
    root = Path(root)
    if dataset not in DATASETS:
        raise DataError(f"--dataset {shown(dataset)}: is not known; choose one of {', '.join(DATASETS)}")
    if not root.is_dir():
        raise DataError(
            f"{shown(root)}: is not a folder; give the {dataset} dataset's root with --data-path DIR"
        )
    if meta_file is not None or (root / "meta.json").is_file():
        found = read_meta(meta_file if meta_file is not None else root / "meta.json", root)
        if meta_file is None:
            _warn_of_categories_beside(found, root)
        return found
    return importlib.import_module(f"data.{dataset}").scan(root)


def _warn_of_categories_beside(found: Catalogue, root: Path) -> None:
    """Says which folders look like categories that meta.json does not know: datasets are often completed bit
    by bit."""
    beside = sorted(
        folder.name
        for folder in root.iterdir()
        if folder.name not in {*found.train, *found.test}
        and (
            (folder / "train").is_dir()
            and (folder / "test").is_dir()
            or (folder / "Data" / "Images").is_dir()
        )
    )
    if beside:
        logger.warning(
            "warning: %s lists %d of %d categories: %s left out; delete it or write it again.",
            root / "meta.json",
            len({*found.train, *found.test}),
            len({*found.train, *found.test}) + len(beside),
            ", ".join(map(shown, beside)),
        )


# Drawing references -----------------------------------------------------------------------------------------


def stable_seed(*parts: object) -> int:
    """A 63-bit seed from the parts, the same in every process and on every machine."""
    digest = hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def draw_references(records: Iterable[Record], k: int, seed: int, category: str) -> list[Record]:
    """k distinct normal records of the category, by a generator seeded from (seed, category).

    The order of the records does not matter, and the draw of k begins with the draw of k - 1. Raises
    DataError where the category has fewer than k.
    """
    normal = {r.image_path: r for r in records if not r.anomalous and r.category == category}
    if k < 0:
        raise DataError(f"--k-shot {k}: must not be negative; give the number of references to draw")
    if k > len(normal):
        raise DataError(
            f"category {shown(category)}: has {len(normal)} normal training images, {k} references are "
            "wanted; add images or lower --k-shot"
        )
    ordered = [normal[path] for path in sorted(normal, key=natural_key)]
    generator = torch.Generator().manual_seed(stable_seed(int(seed), category))
    return [ordered[i] for i in torch.randperm(len(ordered), generator=generator)[:k].tolist()]


def without_references(records: Iterable[Record], references: Iterable[Record]) -> list[Record]:
    """The records that are not among the references: an image in the memory bank is never tested on."""
    drawn = {(reference.category, reference.image_path) for reference in references}
    return [record for record in records if (record.category, record.image_path) not in drawn]


def with_masks(records: Iterable[Record]) -> list[Record]:
    """The records that can train the heads or be measured pixel by pixel: normal ones, and defects with a
    mask."""
    return [record for record in records if record.mask_path or not record.anomalous]


# Looking at what is there -----------------------------------------------------------------------------------


def check_catalogue(
    catalogue: Catalogue,
    decode: bool = True,
    need_masks: bool = True,
    progress: bool = False,
    max_pixels: int | None = None,
) -> list[str]:
    """One sentence per problem, in the catalogue's order: categories without normal or test images, files
    that are missing or cannot be opened, defects without a mask, masks that are empty or of another size than
    their image.

    decode=False reads only the images' headers (masks are decoded always); need_masks=False lets a kind of
    defect pass that has no mask at all; max_pixels is open_image's. Nothing raises, nothing is changed.
    """
    problems = []
    for category in catalogue.categories:
        (_, train), (_, test) = catalogue.splits(category)
        if not any(not record.anomalous for record in train):
            problems.append(
                f"category {shown(category)}: no normal training image, so no reference can be drawn"
            )
        if not test:
            problems.append(f"category {shown(category)}: no test image")
    records = list(
        dict.fromkeys(r for c in catalogue.categories for _, part in catalogue.splits(c) for r in part)
    )
    masked = {(r.category, r.defect) for r in records if need_masks or r.mask_path}
    limit = {} if max_pixels is None else {"max_pixels": max_pixels}
    with ThreadPoolExecutor(CHECKING_THREADS) as pool:
        found = pool.map(
            lambda r: _check_record(catalogue.root, r, decode, (r.category, r.defect) in masked, limit),
            records,
        )
        for sentences in tqdm(found, "checking", len(records), unit="img", disable=not progress, leave=False):
            problems += sentences
    return problems


def _check_record(root: Path, record: Record, decode: bool, need_mask: bool, limit: dict) -> list[str]:
    from data.transforms import image_size, open_mask  # transforms imports DataError from here

    problems, size = [], None
    try:
        size = image_size(root / record.image_path, decode, **limit)
    except DataError as error:
        problems.append(str(error))
    if record.anomalous and not record.mask_path and need_mask:
        problems.append(f"{shown(root / record.image_path)}: anomalous image without a mask")
    elif record.mask_path:
        try:
            mask = open_mask(root / record.mask_path, **limit)
        except DataError as error:
            return [*problems, f"mask of {shown(record.image_path)}: {error}"]
        if mask.getextrema()[1] == 0:
            problems.append(f"{shown(root / record.mask_path)}: empty mask of an anomalous image")
        if size is not None and mask.size != size:
            problems.append(
                "{}: mask of {}x{} px for an image of {}x{} px".format(
                    shown(root / record.mask_path), *mask.size, *size
                )
            )
    return problems


def describe_catalogue(catalogue: Catalogue, dataset: str) -> str:
    """A table of image and mask counts per category, split and defect; for "mvtec" and "visa" beside the
    official counts: "complete" or "n of m"."""
    official = {} if dataset == "folder" else importlib.import_module(f"data.{dataset}").OFFICIAL_COUNTS
    rows = []
    for category in catalogue.categories:
        counts = official.get(category)
        rows += _category_rows(catalogue, category, counts, "not an official category" if official else "")
    headers = ["category", "split", "defect", "images", "masks"] + (["official"] if official else [])
    table = tabulate(
        [row[: len(headers)] for row in rows],
        headers,
        disable_numparse=True,
        colalign=["left"] * 3 + ["right"] * 2 + ["left"] * (len(headers) - 5),
    )
    absent = [category for category in official if category not in catalogue.categories]
    if absent:
        table += f"\n{len(official) - len(absent)} of {len(official)} official categories; absent: {', '.join(absent)}"
    return table


def _category_rows(
    catalogue: Catalogue, category: str, counts: tuple[int, int, int] | None, unknown: str
) -> list:
    def row(split: str, defect: str, part: list[Record], wanted: int | None) -> list[str]:
        masks = str(sum(bool(r.mask_path) for r in part)) if any(r.anomalous for r in part) else "-"
        status = "" if wanted is None else "complete" if len(part) == wanted else f"{len(part)} of {wanted}"
        return [shown(category), split, shown(defect), str(len(part)), masks, status]

    rows = []
    train_good, test_good, test_anomalous = counts or (None, None, None)
    for split, records in catalogue.splits(category):
        normal = [r for r in records if not r.anomalous]
        anomalous = [r for r in records if r.anomalous]
        rows.append(row(split, "good", normal, train_good if split == "train" else test_good))
        defects = sorted({r.defect for r in anomalous}, key=natural_key)
        rows += [row(split, defect, [r for r in anomalous if r.defect == defect], None) for defect in defects]
        if split == "test" and len(defects) == 1:
            rows[-1] = row(split, defects[0], anomalous, test_anomalous)
        elif split == "test" and (defects or counts):
            rows.append(row(split, "(all defects)", anomalous, test_anomalous))
    if counts is None:
        rows[0][-1] = unknown
    return rows


def find_duplicates(root: Path, references: Iterable[Record], records: Iterable[Record]) -> list[str]:
    """One sentence per test image whose file is, byte for byte, one of the references; unreadable files are
    skipped."""

    def size(record: Record) -> int | None:
        path = root / record.image_path
        return path.stat().st_size if path.is_file() else None

    known = {(size(r), (root / r.image_path).read_bytes()): r for r in references if size(r)}
    sizes = {length for length, _ in known}
    found = (
        (r, known.get((size(r), (root / r.image_path).read_bytes()))) for r in records if size(r) in sizes
    )
    return [
        f"{shown(root / r.image_path)}: the same file as the reference {shown(twin.image_path)}"
        for r, twin in found
        if twin
    ]
