"""The report: honest, escaped, self-contained, and alive in a real browser."""

import base64
import json
import re
import time
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from browser.chromium import chromium, missing_browser, resize
from make_fake_run import COMMAND, CONFIG, PAPER, category_view, many, run_metrics

from utils import report
from utils.charts import curve_svg, histogram_svg, operating_point
from utils.pictures import write_pictures
from utils.report import per_cent, script_json, write_report

ATTACK = "<img src=x onerror=alert(1)>.png"
ATTACK_NAME = "plate\"'><script>alert(2)</script>{{ 7 * 7 }}"
no_browser = missing_browser()
in_browser = pytest.mark.skipif(bool(no_browser), reason=no_browser or "a browser is there")


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
    """Three categories: an ordinary one, one with hostile names, one without defects."""
    folder = tmp_path_factory.mktemp("run")
    views = [category_view("plate", 9, 14, (90, 120), seed=1), category_view("evil", 5, 6, (120, 60), seed=2),
             category_view("only_good", 5, 0, (60, 60), seed=3)]
    views[1] = replace(views[1], name=ATTACK_NAME, image_paths=[f"{ATTACK_NAME}/test/{i}/{ATTACK}" for i in range(11)],
                       defects=["good"] * 5 + ["</script><b>&amp;"] * 6, references=[f"a/../{ATTACK}\udcff"])
    summaries = [write_pictures(view, folder / "pictures") for view in views]
    path = write_report(folder, summaries, CONFIG, run_metrics(views), f"{COMMAND} '<b>'", PAPER)
    return path, summaries


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
    assert not [value for _, attributes in page.tags for value in attributes.values() if (value or "").startswith("//")]
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "object", "base")]
    policy = next(attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes)
    assert "default-src 'none'" in policy and "unsafe-eval" not in policy and "script-src 'sha256-" in policy
    for item, summary in zip(page.data["categories"], run[1]):
        for image in [*item["thumbnails"], *item["references"]]:
            assert image.startswith("data:image/webp;base64,")
            assert base64.b64decode(image.split(",")[1])[8:12] == b"WEBP"
        for file in item["files"]:
            assert (run[0].parent / item["strips"] / f"{file}.jpg").is_file()
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a" and not attributes["href"].startswith("#")]
    assert len(links) == 6 and all((run[0].parent / link).is_file() for link in links)


def test_many_thumbnails_stay_beside_the_page(run, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "EMBEDDED_BYTES", 1000)
    path = write_report(tmp_path / "elsewhere", run[1], CONFIG, {"mean": {}}, COMMAND)
    for item in Page(path).data["categories"]:
        for image in [*item["thumbnails"], *item["references"]]:
            assert image.startswith("..") and (path.parent / image).is_file()


def test_scores_and_thresholds_arrive_to_the_last_digit(run):
    for item, summary in zip(Page(run[0]).data["categories"], run[1]):
        assert item["scores"] == summary.scores.tolist() and item["threshold"] == summary.score_threshold
        assert item["labels"] == summary.labels.astype(int).tolist()


def test_numbers_are_per_cent_with_a_dash_where_not_defined(run):
    assert [per_cent(value) for value in (0.9685, 1.0, 0.0, None, float("nan"))] == ["96.9", "100.0", "0.0", "–", "–"]
    table = re.search(r'<table id="summary">.*?</table>', Page(run[0]).source, re.S).group()
    rows = {name: re.findall(r"<td[^>]*>(.*?)</td>", row) for row, name in
            ((row, re.sub("<.*?>", "", re.search(r"<th.*?>(.*?)</th>", row).group(1))) for row in table.split("<tr")[3:])}
    assert rows["plate"][:5] == ["23", "96.8", "58.4", "61.2", "–"]
    assert rows["only_good"] == ["5"] + ["–"] * 7
    assert rows["Paper"] == ["", "96.8 ± 0.2", "58.6 ± 0.5", "60.3 ± 0.6", "–", "94.4 ± 0.5", "95.1 ± 0.4", "97.2 ± 0.3"]


def test_the_head_says_what_the_numbers_are(run, tmp_path):
    text = Page(run[0]).text
    for words in ("MVTec AD, 1 shot", "Untrained weights.", "Seed 14", "paper", "240 px", "ViT-L-14-336-quickgelu at 518 px", "VisA",
                  "mul: 13 patches, stride 2, weight 0.5", "MVTec AD has 15 categories and this run 3", COMMAND):
        assert words in text, words
    config = {**CONFIG, "backbone": {**CONFIG["backbone"], "pretrained": "openai"}, "image_score": "max", "metric_size": "full"}
    text = Page(write_report(tmp_path, run[1], config, {"mean": {}}, COMMAND)).text
    assert "Untrained" not in text and "Metric size full" in text
    assert "no test-set scaling" in text and "the two rows" not in text


def test_unreadable_photos_are_listed_and_a_bare_config_is_enough(tmp_path):
    view = category_view("plate", 2, 2, (60, 60))

    def broken(index):
        raise OSError(f"<truncated> {index}")

    view = replace(view, read_photo=broken, score_threshold=float("inf"), scores=np.array([0.1, np.nan, np.inf, 0.4]))
    page = Page(write_report(tmp_path, [view], {}, {}, ""))
    assert "Files that could not be read" in page.text and page.text.count("<truncated>") == 4
    assert page.data["categories"][0]["scores"] == [0.1, None, None, 0.4]
    assert Page(write_report(tmp_path / "none", [], {}, {}, "")).data["categories"] == []


def test_charts_say_what_is_not_defined_and_count_what_they_show():
    scores, labels = np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True])
    assert "not defined" in curve_svg("roc", scores, np.zeros(4, bool), None)
    assert "2 good above, 2 defects below" in histogram_svg(scores, labels, 0.5)
    assert operating_point(scores, labels, 0.85) == {"defects": 2, "found": 1, "good": 2, "false_alarms": 0}
    assert operating_point(scores, labels, 0.2)["false_alarms"] == 1 and operating_point(scores, labels, None)["found"] == 0


# ---- in the browser


@pytest.fixture(scope="module")
def browser():
    with chromium() as driver:
        yield driver


@pytest.fixture
def page(browser, run):
    browser.get("about:blank")
    resize(browser, 1280, 900)
    browser.get(run[0].as_uri())
    yield browser
    problems = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert not problems, problems


def counts(driver):
    """The shown numbers of the category in view."""
    return driver.execute_script("""return Object.fromEntries([...document.querySelectorAll(
        'section.category:not([hidden]) [data-count]')].map(output => [output.dataset.count, output.textContent]))""")


def expected(summary, threshold, start):
    alarm, before, labels = summary.scores >= threshold, summary.scores >= start, summary.labels
    found, alarms = int((alarm & labels).sum()), int((alarm & ~labels).sum())
    share = lambda part, whole: f"{100 * part / whole:.1f} %" if whole else "–"  # noqa: E731
    return {"found": str(found), "missed": str(int(labels.sum()) - found), "alarms": str(alarms),
            "recall": share(found, int(labels.sum())), "precision": share(found, found + alarms),
            "flipped": str(int((alarm != before).sum()))}


def press(driver, *keys):
    from selenium.webdriver.common.action_chains import ActionChains

    for key in keys:
        ActionChains(driver).send_keys(key).perform()


def slide(driver, value):
    return driver.execute_script("""const slider = document.querySelector('section.category:not([hidden]) input.threshold');
        slider.value = arguments[0]; slider.dispatchEvent(new Event('input')); return slider.valueAsNumber""", float(value))


@in_browser
def test_the_slider_counts_what_python_counts(page, run):
    for index, summary in enumerate(run[1]):
        page.execute_script("location.hash = arguments[0]", f"c{index}")
        time.sleep(0.2)
        top = float(page.execute_script("return document.querySelector('section.category:not([hidden]) input.threshold').max"))
        start = top if summary.score_threshold is None else summary.score_threshold
        assert counts(page) == expected(summary, start, start)
        for value in np.linspace(summary.scores.min() - 0.01, summary.scores.max() + 0.001, 7):
            assert counts(page) != {} and (at := slide(page, value)) is not None
            assert counts(page) == expected(summary, at, start)
        press(page, "0")
        assert counts(page)["flipped"] == "0"


@in_browser
def test_threshold_keys_move_by_one_image_and_flipped_images_are_marked(page, run):
    summary = run[1][0]
    start = summary.score_threshold
    press(page, "}")
    above = min(score for score in summary.scores if score > start)
    assert counts(page) == expected(summary, above, start)
    press(page, "}", "}")
    assert counts(page)["flipped"] == "3"
    page.execute_script("const f = document.getElementById('filter'); f.value = 'flipped'; f.dispatchEvent(new Event('input'))")
    assert page.execute_script("return document.querySelectorAll('.tile').length") == 3
    assert page.execute_script("return document.querySelectorAll('.badge.flip').length") == 3
    press(page, "{", "{", "{")
    assert counts(page)["flipped"] == "0"
    press(page, "[")
    low, high = (float(page.execute_script(f"return document.querySelector('input.threshold').{end}")) for end in ("min", "max"))
    assert counts(page) == expected(summary, start - 0.01 * (high - low), start)


@in_browser
def test_tiles_are_sorted_and_the_keyboard_walks_them(page, run):
    from selenium.webdriver.common.keys import Keys

    summary = run[1][0]
    order = np.argsort(-summary.scores, kind="stable").tolist()
    shown = page.execute_script("return [...document.querySelectorAll('.tile')].map(tile => Number(tile.dataset.image))")
    assert shown == order
    focused = lambda: page.execute_script("return Number(document.activeElement.dataset.image)")  # noqa: E731
    press(page, "j", "j", Keys.ARROW_RIGHT, "k")
    assert focused() == order[1]
    press(page, Keys.ENTER)
    opened = lambda: page.execute_script("return document.getElementById('viewer').open")  # noqa: E731
    assert opened() and summary.image_paths[order[1]].split("/")[-1] == \
        page.execute_script("return document.getElementById('viewer-title').textContent")
    press(page, "j")
    wait_for(page, "return [...document.querySelectorAll('#panels img')].every(image => image.complete && image.naturalWidth > 1000)")
    assert page.execute_script("return document.querySelectorAll('#panels [role=img]').length") == 4
    assert summary.image_paths[order[2]] in page.execute_script("return document.getElementById('viewer-facts').textContent")
    press(page, Keys.ESCAPE)
    assert not opened() and focused() == order[2]
    press(page, "1")
    assert page.execute_script("return getComputedStyle(document.getElementById('grid')).getPropertyValue('--mode')") == "0"
    press(page, "?")
    assert page.execute_script("return document.getElementById('help').open")
    press(page, Keys.ESCAPE, "n")
    time.sleep(0.2)
    assert page.execute_script("return document.querySelector('.tabs [aria-current]').textContent") == ATTACK_NAME


def wait_for(driver, script, seconds=8):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if driver.execute_script(script):
            return
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {script}")


@in_browser
def test_hostile_names_are_text(page, run):
    page.execute_script("location.hash = 'c1'")
    wait_for(page, "return document.querySelectorAll('.tile').length === 11")
    page.execute_script("document.querySelector('.tile').click()")
    text = page.execute_script("return document.getElementById('viewer').textContent + document.getElementById('grid').textContent")
    assert ATTACK in text and "</script><b>&amp;" in text
    assert page.execute_script("return document.querySelectorAll('img[onerror], b').length") == 0
    assert page.execute_script("return document.title") == "MVTec AD, 1 shot · FDSL report"


@in_browser
def test_a_missing_strip_falls_back_to_the_thumbnail(browser, run, tmp_path):
    summary = replace(run[1][0], folder=run[1][0].folder, files=[f"gone_{file}" for file in run[1][0].files], has_strip=[False] * 23)
    for new, old in zip(summary.files, run[1][0].files):
        summary.thumbnail(new).write_bytes(run[1][0].thumbnail(old).read_bytes())
    browser.get(write_report(tmp_path, [summary], CONFIG, {}, COMMAND).as_uri())
    press(browser, "j")
    browser.execute_script("document.activeElement.click()")
    wait_for(browser, "return [...document.querySelectorAll('#panels img')].every(image => image.naturalWidth === 768)")


@in_browser
def test_themes_and_a_narrow_screen(page):
    background = "return getComputedStyle(document.body).backgroundColor"
    light = page.execute_script(background)
    resize(page, 1280, 900, dark=True)
    dark = page.execute_script(background)
    assert light != dark
    page.execute_script("document.getElementById('theme').click()")
    assert page.execute_script(background) == light
    page.refresh()
    assert page.execute_script(background) == light, "the choice is kept"
    page.execute_script("localStorage.clear()")
    for width in (360, 800, 1600):
        resize(page, width, 800)
        assert page.execute_script("return document.documentElement.scrollWidth") <= width


@in_browser
def test_text_has_contrast_and_controls_have_names(page):
    for dark in (False, True):
        resize(page, 1280, 900, dark)
        pairs = page.execute_script("""const style = getComputedStyle(document.documentElement);
            return ['ink', 'soft', 'muted', 'good', 'defect', 'accent'].map(name => [style.getPropertyValue('--' + name),
            style.getPropertyValue('--paper')])""")
        for text, paper in pairs:
            light, deep = sorted((luminance(text.strip()), luminance(paper.strip())), reverse=True)
            assert (light + 0.05) / (deep + 0.05) >= 4.5, (text, paper)
    nameless = page.execute_script("""return [...document.querySelectorAll('button, input, select, [role=img]')].filter(element =>
        !element.textContent.trim() && !element.getAttribute('aria-label') && !(element.labels && element.labels.length)).length""")
    assert nameless == 0


def luminance(colour):
    parts = np.array([int(colour[index:index + 2], 16) / 255 for index in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@in_browser
def test_five_thousand_images_stay_usable(browser, run, tmp_path):
    summaries = [many(run[1][0], "big", 4000, 1), many(run[1][0], "small", 1000, 2)]
    path = write_report(tmp_path, summaries, CONFIG, run_metrics(summaries), COMMAND)
    assert path.stat().st_size < 4_000_000
    resize(browser, 1280, 900)
    start = time.monotonic()
    browser.get(path.as_uri())
    wait_for(browser, "return document.querySelector('.tile img').naturalWidth > 0")
    assert time.monotonic() - start < 8
    assert browser.execute_script("return document.querySelectorAll('*').length") < 2500
    began = time.monotonic()
    for value in (0.3, 0.45, 0.55, 0.7):
        at = slide(browser, value)
        assert counts(browser) == expected(summaries[0], at, 0.5)
    assert time.monotonic() - began < 4
    for _ in range(3):
        browser.execute_script("document.getElementById('next').click()")
    assert browser.execute_script("return document.getElementById('range').textContent") == "181–240 of 4,000"
    browser.execute_script("const f = document.getElementById('find'); f.value = '03999'; f.dispatchEvent(new Event('input'))")
    assert browser.execute_script("return document.querySelectorAll('.tile').length") == 1
