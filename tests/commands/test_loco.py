"""test.py on MVTec LOCO AD's layout: saturated PRO by each file's regions and the saturation of its value."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import auc

from fdsl.scoring import upsample_maps
from tests.support.both_layouts import BACKBONE
from tests.support.photographs import texture
from tests.support.small_runs import command
from utils.errors import DataError

pytestmark = pytest.mark.usefixtures("one_thread")
test = command("test")
SIZE = (80, 60)
KINDS = ("logical_anomalies", "structural_anomalies")
# Of each kind's images the masks: value, slices.
MASKS = {
    "logical_anomalies": [
        [(255, np.s_[10:50, 20:70])],
        [(255, np.s_[0:30, 0:40]), (254, np.s_[20:50, 30:60])],
    ],
    "structural_anomalies": [[(254, np.s_[30:46, 50:66])]],
}
CONFIG = [
    {"defect_name": "missing", "pixel_value": 255, "saturation_threshold": 0.2, "relative_saturation": True},
    {"defect_name": "long", "pixel_value": 254, "saturation_threshold": 90, "relative_saturation": False},
]
PIXELS = {(255, 40 * 50): 400, (255, 30 * 40): 240, (254, 30 * 30): 90, (254, 16 * 16): 90}


@pytest.fixture
def dataset(tmp_path):
    part = tmp_path / "loco/box"

    def write(place, seed, defect=False):
        (part / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(texture(seed, defect, SIZE[1], SIZE[0])).save(part / place)

    for number in range(3):
        write(f"train/good/{number:03d}.png", number)
        write(f"validation/good/{number:03d}.png", 10 + number)
        write(f"test/good/{number:03d}.png", 20 + number)
    for kind, images in MASKS.items():
        for number, regions in enumerate(images):
            write(f"test/{kind}/{number:03d}.png", 30 + number, defect=True)
            masks = part / f"ground_truth/{kind}/{number:03d}"
            masks.mkdir(parents=True)
            for place, (value, where) in enumerate(regions):
                pixels = np.zeros(SIZE[::-1], np.uint8)
                pixels[where] = value
                Image.fromarray(pixels).save(masks / f"{place:03d}.png")
    (part / "defects_config.json").write_text(json.dumps(CONFIG))
    return part.parent


def run(dataset, tiny_configs, results, *more):
    flags = ["--dataset", "folder", "--method", "nearest", "--data-path", str(dataset)]
    test.main([*flags, "--results", str(results), "--model-config", tiny_configs, *BACKBONE, *more])
    (written,) = results.rglob("metrics.json")
    return written.parent, json.loads(written.read_text())["mean"]


def by_hand(maps, limit):
    """The mean over both kinds, each with the normal images, threshold by threshold."""
    values = []
    for kind in KINDS:
        own = {name: single for name, single in maps.items() if kind in name or "good" in name}
        normal, regions = [], []
        for name, single in own.items():
            outside = np.ones(single.shape, bool)
            for value, where in MASKS[kind][int(name[-7:-4])] if kind in name else []:
                outside[where] = False
                regions.append((single[where].ravel(), PIXELS[value, single[where].size]))
            normal.append(single[outside])
        normal = np.concatenate(normal)
        fpr, found = [0.0], [0.0]
        for threshold in np.unique(np.concatenate([single.ravel() for single in own.values()]))[::-1]:
            fpr.append(np.mean(normal >= threshold))
            found.append(np.mean([min((r >= threshold).sum() / pixels, 1) for r, pixels in regions]))
        points = [*sorted({one for one in fpr if one < limit}), limit]
        fpr, found = np.array(fpr), np.array(found)
        inside = fpr < limit
        at_limit = np.interp(limit, fpr[np.argmax(~inside) - 1 :][:2], found[np.argmax(~inside) - 1 :][:2])
        values.append(auc(np.append(fpr[inside], limit), np.append(found[inside], at_limit)) / limit)
        assert len(points) > 2
    return np.mean(values)


def test_saturated_pro_is_that_of_its_definition(dataset, tiny_configs, tmp_path):
    folder, mean = run(dataset, tiny_configs, tmp_path / "full", "--metric-size", "full")
    with np.load(folder / "maps.npz") as saved:
        maps = {
            str(name): upsample_maps(single[None], SIZE[::-1])[0]
            for name, single in zip(saved["names"], saved["fused"])
        }
    for name, limit in (("auspro", 0.3), ("auspro_05", 0.05)):
        assert mean[name] == pytest.approx(by_hand(maps, limit), abs=1e-6)
    assert mean["auspro"] != pytest.approx(mean["aupro"], abs=1e-3)
    assert "sPRO to 0.05" in (folder / "report.html").read_text()
    _, smaller = run(dataset, tiny_configs, tmp_path / "usual", "--pictures", "0")  # at 240 px
    assert smaller["auspro"] == pytest.approx(mean["auspro"], abs=0.05)


def test_masks_that_do_not_say_it_have_none(dataset, tiny_configs, tmp_path):
    (dataset / "box/defects_config.json").unlink()
    folder, mean = run(dataset, tiny_configs, tmp_path)
    assert mean["auspro"] is None and mean["auspro_05"] is None and mean["aupro_05"] is not None
    assert "sPRO" not in (folder / "report.html").read_text()


def test_a_file_that_says_something_else_is_one_sentence(dataset, tiny_configs, tmp_path):
    (dataset / "box/defects_config.json").write_text("{}")
    with pytest.raises(DataError, match=r"defects_config.json: is not a list of entries"):
        run(dataset, tiny_configs, tmp_path)
