"""What a run of many photographs leaves: the report shows the highest and a sample, and says so."""

import collections

from fdsl.report.prediction_report import write_prediction_report
from fdsl.store.prediction_folder import RANKED, SAMPLE, Drawn, PredictionFolder
from tests.support.run_config import prediction_config


def row(number):
    return {
        "image": f"{number}.png",
        "score": (number * 37 % 1000) / 1000,
        **dict.fromkeys(("base_score", "window_score", "normal_percentile", "threshold")),
        "anomalous": False,
        "reason": None,
        "boxes": [],
        "grid": 4,
        "picture": None,
    }


def finished(folder, count):
    run = PredictionFolder(folder, prediction_config())
    for number in range(count):
        run.add(row(number), None, None)
    totals = run.finish(4)
    write_prediction_report(folder, totals, None, [], "command", False)
    return totals, (folder / "report.html").read_text()


def test_a_large_runs_report_has_a_sample_and_says_so(tmp_path):
    totals, page = finished(tmp_path / "large", RANKED + 700)
    assert len(totals.top) == RANKED and len(totals.sample) == SAMPLE
    assert f"The {RANKED} highest of 1,200" in page and f"{SAMPLE} of the 1,200 photographs" in page
    numbers = [int(one["image"].removesuffix(".png")) for one in totals.sample]
    assert numbers == sorted(set(numbers)) and numbers[0] < 200 and numbers[-1] > 1000
    assert finished(tmp_path / "again", RANKED + 700)[0].sample == totals.sample


def test_a_small_runs_report_has_none(tmp_path):
    totals, page = finished(tmp_path / "small", RANKED)
    assert totals.sample == [] and "sample" not in page.split("</style>")[1]


def test_each_item_is_as_likely_as_any_other():
    drawn = collections.Counter()
    for start in range(400):
        some = Drawn(5)
        some._random.seed(start)
        for item in range(20):
            some.see(item)
        assert some.items == sorted(set(some.items)) and len(some.items) == 5
        drawn.update(some.items)
    assert min(drawn.values()) > 60 and max(drawn.values()) < 140
