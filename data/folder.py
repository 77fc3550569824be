"""Your own photographs: one category or a folder of categories, each in either of two layouts.

    CATEGORY/good/...                    normal photographs; references are sampled from them and not tested
    CATEGORY/DEFECT/...                  any number of defect folders, any names
    CATEGORY/masks/DEFECT/NAME.png       optional; ground_truth/DEFECT/NAME_mask.png is the same, and so are
                                         masks/NAME.png and DEFECT/NAME_mask.png next to its image

    CATEGORY/train/good/...              where there is train/: references are sampled from here alone
    CATEGORY/test/good/..., test/DEFECT/...
    CATEGORY/masks/DEFECT/NAME.png       optional, as above

The same with the folders of public datasets: several masks of one photograph in masks/DEFECT/NAME/ are
joined (MVTec LOCO); photographs in train/ and test/ themselves, each with NAME_GT.png next to it, are good
where that mask is black (KolektorSDD2); folders of samples in good/ and in ng/DEFECT/ are read to their
bottom, a PNG next to a JPEG of its name being its mask (Real-IAD).

good may also be called ok or normal, and test test_public; all folders in any case. As a script it prints
how a folder is read and writes nothing: python data/folder.py DIR
"""

import os
import sys
from collections import Counter
from pathlib import Path, PurePosixPath

if __name__ == "__main__":  # run as a script, also from inside this folder: import from the project's root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.catalogue import run_script
from data.category_folders import CategoryReading, is_normal
from data.listing import list_folders, list_images, unread_below
from data.masks import is_mask_folder
from data.records import Catalogue, Layout, Record
from utils.command import run_command
from utils.errors import DataError
from utils.text import natural_key, printable

VALIDATION = "validation/good"  # of a category: normal images that are neither references nor tested
SPLIT_FOLDERS = dict.fromkeys(("train", "training"), "train")
SPLIT_FOLDERS |= dict.fromkeys(("test", "testing", "test_public"), "test")


def scan(root: str | Path) -> Catalogue:
    """The catalogue of a folder by the rules above. Where a category has no train/, its normal images are
    both in train and in test, and `without_references` takes the references out. Raises DataError where
    there is no category."""
    root = Path(root)
    names = list_folders(root)
    inside = {} if is_category(names) else {name: list_folders(root / name) for name in names}
    categories = [name for name in inside if is_category(inside[name]) and not is_mask_folder(name)]
    others = [name for name in inside if name not in categories]
    unused = [f"{printable(name)}/ is not used: it holds no good/ and no train/ or test/" for name in others]
    if is_category(names):
        category = os.path.basename(os.path.abspath(root)) or "category"
        rules = [f"{printable(root)} is one category, {printable(category)}"]
        readings = [_read_category(root, "", category)]
    elif categories:
        rules = [f"{printable(root)} is a folder of {len(categories)} categories"]
        readings = [_read_category(root, name + "/", name) for name in categories]
    else:
        raise DataError(
            f"{printable(root)}: holds no folder good (or ok, normal), no train and test, and no folder that "
            f"has them{_contents(root, names)}; put the normal photographs into a folder named good"
        )
    for r in readings:
        unused += [f"{printable(r.category)}: {sentence}" for sentence in r.unused]
        rules += [f"{printable(r.category)}: {rule}" for rule in r.rules]
    train, test = {r.category: r.train for r in readings}, {r.category: r.test for r in readings}
    return Catalogue(root, train, test, (*unused, *unread_below(root)), tuple(rules))


def _contents(root: Path, names: list[str]) -> str:
    """What a folder holds instead, as part of a sentence."""
    images = len(list_images(root))
    contents = [f"{images} images directly"] if images else []
    if names:
        more = f" and {len(names) - 1} more folders" if names[1:] else ""
        contents.append(f"{printable(names[0])}/{more}")
    return f" (it holds {' and '.join(contents)})" if contents else ""


def is_category(folders: list[str]) -> bool:
    """Whether a folder with these sub-folders is a category."""
    return any(is_normal(name) or name.casefold() in SPLIT_FOLDERS for name in folders)


def _read_category(root: Path, prefix: str, category: str) -> CategoryReading:
    """Read root/prefix ("" or "CATEGORY/"); the records' paths are relative to root."""
    reading = CategoryReading(root, category)
    folders = list_folders(root / prefix)
    mask_folders = [f"{prefix}{name}" for name in folders if is_mask_folder(name)]
    splits = {name: split for name in folders if (split := SPLIT_FOLDERS.get(name.casefold()))}
    for name in splits:
        inner = list_folders(root / prefix / name)
        mask_folders += [f"{prefix}{name}/{one}" for one in inner if is_mask_folder(one)]
    for folder in mask_folders:
        reading.take_masks(folder)
    if splits:
        others = [name for name in folders if name not in splits and not is_mask_folder(name)]
        if (root / prefix / VALIDATION).is_dir():
            others = [name for name in others if name != VALIDATION.partition("/")[0]]
            reading.rules.append(f"{VALIDATION}/ gives the threshold of SegF1")
        reading.unused += [
            f"{printable(prefix + name)}/ is not used: the images are those in {'/ and '.join(splits)}/"
            for name in others
        ]
        reading.note_loose_images(prefix)
    parts: dict[str, list[Record]] = {}
    for name, split in splits.items():
        parts.setdefault(split, []).extend(reading.records_of(f"{prefix}{name}/"))
    if "train" in parts:
        reading.train = [record for record in parts["train"] if not record.anomalous]
        reading.test = parts.get("test", [])
        bad = Counter(str(PurePosixPath(r.image_path).parent) for r in parts["train"] if r.anomalous)
        reading.unused += [
            f"{printable(place)}/ is not used: only normal images are sampled from train/"
            if place.count("/") > prefix.count("/")
            else f"{bad[place]} defective images in {printable(place)}/ are not used: only normal ones are "
            "sampled from it"
            for place in sorted(bad, key=natural_key)
        ]
        reading.rules.append("references are sampled from train/; test/ is tested")
    else:
        reading.test = parts["test"] if "test" in parts else reading.records_of(prefix)
        reading.train = [record for record in reading.test if not record.anomalous]
        reading.rules.append("no train/: references are sampled from the normal images, and are not tested")
    _note_masks(reading)
    return reading


def _note_masks(reading: CategoryReading) -> None:
    """Adds what can be measured to the rules, and masks of no image to what is unused."""
    if reading.views:
        reading.unused.append(
            f"{len(reading.views)} views without a mask next to them are not used, for other views of the "
            f"defective part have one: they may show no defect, the first {printable(reading.views[0])}"
        )
    reading.rules = list(dict.fromkeys(reading.rules))
    used = {record.mask_path for record in reading.test}
    paths = {path for of_kind in reading.masks.values() for path in of_kind.values()}
    orphans = sorted(paths - used, key=natural_key)
    reading.unused += [f"{printable(path)}: mask of no image in the defect's folder" for path in orphans]
    defects = [record for record in reading.test if record.anomalous]
    without = sum(not record.mask_path for record in defects)
    if not defects:
        reading.rules.append("no defects: scores only")
    elif without == len(defects):
        reading.rules.append("no masks: image metrics only")
    else:
        reading.rules.append(f"masks for {len(defects) - without} of {len(defects)} defective images")


LAYOUT = Layout("folder", scan, needs_masks=False)

if __name__ == "__main__":
    run_command(lambda _: run_script(LAYOUT, None, __doc__))
