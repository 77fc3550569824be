"""The commands, the Python interface and the page have the same defaults: the same scores and
thresholds for the same photographs."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from fdsl.api import AnomalyDetector
from page.collection import Limits
from page.session import Session
from tests.support.predictions import BACKBONE_OPTIONS
from tests.support.small_runs import command

predict, test = command("predict"), command("test")


@pytest.mark.parametrize("shots", [1, 2])
def test_all_four_give_the_same_scores_and_thresholds(datasets, tiny_configs, backbone, tmp_path, shots):
    root, _ = datasets
    run = ["--dataset", "mvtec", "--data-path", str(root), "--method", "plus", "--k-shot", str(shots)]
    test.main([*run, "--results", str(tmp_path / "results"), "--pictures", "0", *backbone])
    (scored,) = (tmp_path / "results").rglob("scores.csv")
    config = json.loads((scored.parent / "config.json").read_text())
    assert (config["image_score"], config["rotations"]) == ("max", "auto")
    lines = (scored.parent / "references.txt").read_text().splitlines()
    references = [str(root / line.split("\t")[-1]) for line in lines if line.strip()]
    assert len(references) == shots
    with open(scored, encoding="utf-8-sig", newline="") as rows:
        table = list(csv.DictReader(rows))
    images, tested = [root / row["image"] for row in table], [float(row["image_score"]) for row in table]

    arguments = ["--references", *references, "--input", *map(str, images)]
    predict.main([*arguments, "--output", str(tmp_path / "out"), "--pictures", "none", *backbone])
    lines = (tmp_path / "out/scores.jsonl").read_text().splitlines()
    predicted = [(row["score"], row["threshold"]) for row in map(json.loads, lines)]

    settings = {**BACKBONE_OPTIONS, "model_config": tiny_configs, "device": "cpu", "precision": "fp32"}
    detector = AnomalyDetector.from_backbone(**settings)
    detector.fit(references)
    by_hand = [(one.score, one.threshold) for one in detector.predict(images)]

    limits = Limits(file_bytes=10**7, references=9, photographs=99)
    session = Session(AnomalyDetector.from_backbone(**settings), tmp_path / "page", limits)
    for file in references:
        session.add("references", Path(file).read_bytes(), Path(file).name)
    session.learn(session.state()["rotations"])
    assert session.detector.config.rotations == detector.config.rotations
    on_page = [(one.score, one.threshold) for one in session.detector.predict(images)]

    assert [score for score, _ in by_hand] == pytest.approx(tested, abs=1e-6)
    assert np.array(predicted) == pytest.approx(np.array(by_hand), abs=1e-6)
    assert np.array(on_page) == pytest.approx(np.array(by_hand), abs=1e-6)
