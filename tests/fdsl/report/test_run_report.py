"""The report: honest, escaped and self-contained."""

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from fdsl.report import run_report as report
from fdsl.report.charts import bin_edges, curve_svg, histogram_svg, operating_point
from fdsl.report.pages import script_json
from fdsl.report.pictures import write_pictures
from fdsl.report.run_report import write_report
from fdsl.report.tables import per_cent
from tests.support.make_fake_run import ATTACK, ATTACK_NAME, COMMAND, CONFIG, category_view, hostile_run
from utils.config import BackboneConfig


class Page(HTMLParser):
    """Tags with attributes, the text outside scripts and styles, the raw scripts."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text, self.scripts, self.inside = [], "", [], ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.data = json.loads(self.scripts[0])
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts.append(data)
        elif self.inside != "style":
            self.text += f" {data}"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return hostile_run(tmp_path_factory.mktemp("run"))


def test_every_name_is_escaped(run):
    page = Page(run[0])
    assert all(set(attributes) <= {"src", "alt"} for tag, attributes in page.tags if tag == "img")
    assert sum(tag == "script" for tag, _ in page.tags) == 2 and not any(tag == "b" for tag, _ in page.tags)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert ATTACK_NAME in page.text and "'<b>'" in page.text
    assert page.data["categories"][1]["name"] == ATTACK_NAME
    assert page.data["categories"][1]["images"][0].endswith(ATTACK)


def test_script_json_cannot_leave_its_element():
    hostile = "</script><!-- & \u2028 \udcff"
    text = script_json({"a": hostile})
    assert not set("<>&\u2028") & set(text) and json.loads(text) == {"a": hostile}
    with pytest.raises(ValueError):
        script_json(float("nan"))


def test_the_page_needs_nothing_from_elsewhere(run):
    page = Page(run[0])
    assert not re.search(r"https?:|wss?:|@import|url\(|fetch\(|XMLHttpRequest", page.source)
    assert not [
        value
        for _, attributes in page.tags
        for value in attributes.values()
        if (value or "").startswith("//")
    ]
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "object", "base")]
    policy = next(attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes)
    assert "default-src 'none'" in policy and "unsafe-eval" not in policy and "script-src 'sha256-" in policy
    for item in page.data["categories"]:
        for image in [*item["thumbnails"], *item["references"]]:
            assert image.startswith("data:image/webp;base64,")
            assert base64.b64decode(image.split(",")[1])[8:12] == b"WEBP"
        for file in item["pictures"]:
            assert (run[0].parent / file).is_file()
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    links = [link for link in links if not link.startswith("#")]
    assert len(links) == 3 and all((run[0].parent / link).is_file() for link in links)


def test_many_thumbnails_stay_beside_the_page(run, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "EMBEDDED_BYTES", 1000)
    path = write_report(tmp_path / "elsewhere", run[1], CONFIG, {"mean": {}})
    for item in Page(path).data["categories"]:
        for image in [*item["thumbnails"], *item["references"]]:
            assert image.startswith("..") and (path.parent / image).is_file()


def test_scores_and_thresholds_arrive_to_the_last_digit(run):
    for item, summary in zip(Page(run[0]).data["categories"], run[1]):
        assert item["scores"] == summary.scores.tolist() and item["threshold"] == summary.score_threshold
        assert item["labels"] == summary.labels.astype(int).tolist()


def test_numbers_are_per_cent_with_a_dash_where_not_defined(run):
    shown = [per_cent(value, "–") for value in (0.9687, 1.0, 0.0, None)]
    assert shown == ["96.9", "100.0", "0.0", "–"]
    table = re.search(r'<table id="summary">.*?</table>', Page(run[0]).source, re.S).group()
    rows = {}
    for row in table.split("<tr")[3:]:
        name = re.sub("<.*?>", "", re.search(r"<th.*?>(.*?)</th>", row).group(1))
        rows[name] = re.findall(r"<td[^>]*>(.*?)</td>", row)
    assert rows["plate"][:5] == ["23", "96.8", "58.4", "61.2", "–"]
    assert rows["only_good"] == ["5"] + ["–"] * 7
    assert rows["Paper"] == [
        "",
        "96.8 ± 0.2",
        "58.6 ± 0.5",
        "60.3 ± 0.6",
        "–",
        "94.4 ± 0.5",
        "95.1 ± 0.4",
        "97.2 ± 0.3",
    ]


def test_the_head_says_what_the_numbers_are(run, tmp_path):
    text = Page(run[0]).text
    for words in (
        "Products in MVTec AD's layout, 1 shot",
        "Untrained weights.",
        "Seed 14",
        "Image score paper",
        "Metric size 240 px",
        "ViT-L-14-336-quickgelu at 518 px",
        "Heads trained on visa",
        "--winmode mul --win-size 13 --win-stride 2 --win-weight 0.5",
        "The paper's row is the mean over its seeds",
        COMMAND,
    ):
        assert words in text, words
    detector = replace(CONFIG.detector, backbone=BackboneConfig())
    config = replace(CONFIG, detector=detector, image_score="max", metric_size="full")
    text = Page(write_report(tmp_path, run[1], config, {"mean": {}})).text
    assert "Untrained" not in text and "Metric size full" in text
    assert "no test-set scaling" in text and "The paper's row" not in text


def test_beside_the_papers_row_a_run_says_that_it_sees_the_test_set(run, tmp_path):
    detector = replace(CONFIG.detector, options=replace(CONFIG.detector.options, with_batch=True))
    config, paper = replace(CONFIG, detector=detector), {"auroc_px": (96.8, None)}
    rows = re.findall(
        r"<tr.*?</tr>", Page(write_report(tmp_path, run[1], config, {"mean": {}}, paper)).source, re.S
    )
    (head,) = [row for row in rows if "Sees the test set" in row]
    (paper_row,) = [row for row in rows if ">Paper<" in row]
    (mean,) = [row for row in rows if 'class="mean"' in row]
    assert head.count("<th") == mean.count("<t") - 1 == paper_row.count("<t") - 1
    assert mean.rstrip().endswith("yes</td>\n      </tr>") and paper_row.rstrip().endswith(
        "–</td>\n      </tr>"
    )
    for other, row in ((CONFIG, paper), (config, None)):
        assert (
            "Sees the test set" not in Page(write_report(tmp_path, run[1], other, {"mean": {}}, row)).source
        )


def test_unreadable_photos_are_listed_and_bare_metrics_are_enough(tmp_path):
    view = category_view("plate", 2, 2, (60, 60))

    def broken(index):
        raise OSError(f"<truncated> {index}")

    view = replace(view, read_photo=broken)
    page = Page(write_report(tmp_path, [write_pictures(view, tmp_path)], CONFIG, {}))
    assert "Files that could not be read" in page.text and page.text.count("<truncated>") == 4
    assert Page(write_report(tmp_path / "none", [], CONFIG, {})).data["categories"] == []


def test_charts_say_what_is_not_defined_and_count_what_they_show():
    scores, labels = np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True])
    assert "not defined" in curve_svg("roc", scores, np.zeros(4, bool), None)
    assert "2 of normal images above, 2 of defects below" in histogram_svg(scores, labels, 0.5)
    assert list(operating_point(scores, labels, 0.85).values()) == [2, 1, 2, 0]
    assert operating_point(scores, labels, 0.2)["false_alarms"] == 1
    assert operating_point(scores, labels, None)["detected"] == 0


def test_no_bar_of_a_histogram_lies_on_both_sides_of_the_threshold():
    generator = np.random.default_rng(0)
    for threshold in (0.0, 0.00366, 0.37, 1.0):
        scores = np.append(generator.random(200), threshold)
        edges = bin_edges(0.0, 1.0, 48, threshold)
        assert threshold in edges and edges[0] <= 0 and edges[-1] >= 1 and np.allclose(np.diff(edges), 1 / 48)
        counts = np.histogram(scores, edges)[0]
        assert counts.sum() == len(scores) and counts[edges[:-1] >= threshold].sum() in (
            (scores >= threshold).sum(),
            (scores >= threshold).sum() - (threshold == edges[-1]),
        )
    assert np.array_equal(bin_edges(0.0, 1.0, 4, None), [0, 0.25, 0.5, 0.75, 1])
    assert np.array_equal(bin_edges(0.0, 1.0, 4, 7.0), [0, 0.25, 0.5, 0.75, 1])
