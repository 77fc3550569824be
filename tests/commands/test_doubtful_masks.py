"""Masks that are empty or nearly all defect are said, by test.py and by the check of a folder."""

import shutil

import cv2
import numpy as np
import pytest

from data.catalogue import open_catalogue
from data.check import check_catalogue
from tests.support.both_layouts import BACKBONE
from tests.support.small_runs import command

test = command("test")


@pytest.mark.parametrize("value, said", [(255, "inverted?"), (0, "empty")])
def test_masks_that_cannot_be_right_are_said(datasets, tiny_configs, tmp_path, told, value, said):
    shutil.copytree(datasets[0], tmp_path / "mvtec")
    mask = sorted((tmp_path / "mvtec").glob("*/ground_truth/*/*.png"))[0]
    cv2.imwrite(str(mask), np.full_like(cv2.imread(str(mask)), value))
    places = ["--data-path", str(tmp_path / "mvtec"), "--results", str(tmp_path / "results")]
    run = ["--dataset", "mvtec", "--method", "nearest", "--pictures", "0", "--model-config", tiny_configs]
    test.main([*run, *places, *BACKBONE])
    words = {"inverted?": "100% of the mask is defect", "empty": "the mask of a defect is empty"}[said]
    assert f"{mask.name}: {words}" in told()
    problems = check_catalogue(open_catalogue("mvtec", tmp_path / "mvtec"))
    assert any(mask.name in problem and said.split()[-1] in problem for problem in problems)


def test_usual_masks_are_not_mentioned(datasets, tiny_configs, tmp_path, told):
    places = ["--data-path", str(datasets[0]), "--results", str(tmp_path / "results")]
    run = ["--dataset", "mvtec", "--method", "nearest", "--pictures", "0", "--model-config", tiny_configs]
    test.main([*run, *places, *BACKBONE])
    assert "mask" not in "".join(line for line in told().splitlines() if "warning" in line)
