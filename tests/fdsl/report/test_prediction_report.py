"""What a run of many photographs leaves: the report shows the highest and a sample, and says so."""

import json
import re

import numpy as np
import pytest

from fdsl.report.charts import histogram_svg, ticks
from fdsl.report.prediction_report import write_prediction_report
from fdsl.store.journal import RANKED, SAMPLE
from fdsl.thresholds.threshold import Threshold
from tests.support.predictions import finished_run, stored_row


def row(number, **more):
    score = (number * 37 % 1000) / 1000
    return stored_row(f"{number}.png", score=score, anomalous=False, normal_percentile=None, **more)


def finished(folder, count):
    totals = finished_run(folder, map(row, range(count)))
    write_prediction_report(folder, totals, None, [], "", "command", False)
    return totals, (folder / "report.html").read_text()


def test_a_large_runs_report_has_a_sample_and_says_so(tmp_path):
    totals, page = finished(tmp_path / "large", RANKED + 700)
    assert len(totals.top) == RANKED and len(totals.sample) == SAMPLE
    assert f"The {RANKED} highest of 1,200" in page and f"{SAMPLE} of the 1,200 photographs" in page
    numbers = [int(one["image"].removesuffix(".png")) for one in totals.sample]
    assert numbers == sorted(set(numbers)) and numbers[0] < 200 and numbers[-1] > 1000
    assert finished(tmp_path / "again", RANKED + 700)[0].sample == totals.sample


def test_how_it_was_made_is_closed_and_how_far_the_threshold_holds_is_not(tmp_path):
    totals = finished_run(tmp_path, [row(1)])
    facts, trust = [("Precision", "bfloat16")], "Trust the ranking more than the decision."
    write_prediction_report(
        tmp_path, totals, Threshold(0.210744, 0.1, "given"), facts, trust, "command", False
    )
    closed, _, shown = (tmp_path / "report.html").read_text().split("<header")[1].partition("</details>")
    assert '<details class="how"><summary>' in closed and "bfloat16" in closed and "command" in closed
    assert trust in shown and 'value="0.2107"' in shown


def test_a_small_runs_report_has_none(tmp_path):
    totals, page = finished(tmp_path / "small", RANKED)
    assert totals.sample == [] and "sample" not in page.split("</style>")[1]


def inspected(folder, count, **more):
    """The page of rows with pictures beside the photographs that they are of."""
    rows = [
        row(number, width=80, height=60, picture=f"pictures/{number}.jpg", **more) for number in range(count)
    ]
    write_prediction_report(
        folder, finished_run(folder, rows), Threshold(0.1, 0.1, "given"), [], "", "command", False
    )
    text = (folder / "report.html").read_text()
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return text, json.loads(data[1])


def test_a_row_links_to_its_photograph_and_all_scores_are_counted(tmp_path):
    photo = tmp_path / "parts" / "a b.png"
    text, data = inspected(tmp_path / "out", 3, path=str(photo), reason="no part in the picture")
    assert text.count('href="../parts/a%20b.png"') == 3
    (category,) = data["categories"]
    assert category["originals"] == ["../parts/a%20b.png"] * 3
    assert category["all"] == sorted(category["scores"]) and category["reasoned"] == [0.0, 0.037, 0.074]
    assert data["panels"] == ["photograph", "heat map"] and data["mode"] == 1
    without = inspected(tmp_path / "tar", 2)[1]["categories"][0]
    assert without["originals"] == [None, None] and without["reasoned"] == []


def luminance(colour):
    """Relative luminance of #rrggbb (WCAG 2)."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_normal_and_defect_differ_in_greyscale_too(tmp_path):
    text = inspected(tmp_path / "out", 1)[0]
    for name in ("normal", "defect"):
        assert len(re.findall(rf"--{name}-fill: (#\w+);", text)) == 3, "light, dark and dark by choice"
    pairs = list(zip(*(re.findall(rf"--{name}-fill: (#\w+);", text) for name in ("normal", "defect"))))
    for normal, defect in pairs:
        light, dark = sorted((luminance(normal), luminance(defect)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 2.5


def test_ticks_are_round_and_within_their_range():
    assert ticks(0, 7, 4) == [0, 2, 4, 6] and ticks(0, 1, 4) == [0, 0.5, 1]
    assert ticks(0.183, 0.336, 6) == pytest.approx([0.2, 0.25, 0.3]) and ticks(2, 2, 4) == [2]


def test_a_histogram_of_scores_has_axes_and_a_bar_for_every_score():
    drawn = histogram_svg(np.array([0.1, 0.1, 0.5]), None, 0.3)
    assert sorted(re.findall(r"<title>(\d+)</title>", drawn)) == ["1", "2"]
    assert all(f">{tick}</text>" in drawn for tick in ("0", "1", "2", "0.2", "0.4"))
    assert 'class="threshold"' in drawn
    assert 'class="threshold"' not in histogram_svg(np.array([0.1]), None, None)
