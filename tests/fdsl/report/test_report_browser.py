"""The report in a real browser: no errors, a slider that counts right, keys, names as text, 5,000 images."""

import time
from dataclasses import replace

import numpy as np
import pytest

from fdsl.report.prediction_report import write_prediction_report
from fdsl.report.run_report import write_report
from fdsl.thresholds.threshold import Threshold
from tests.support.chromium import chromium, missing_browser, read, resize, wait_for
from tests.support.make_fake_run import ATTACK, ATTACK_NAME, CONFIG, hostile_run, many, run_metrics
from tests.support.predictions import finished_run, stored_row

no_browser = missing_browser()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(no_browser), reason=no_browser)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return hostile_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def browser():
    with chromium() as driver:
        yield driver


@pytest.fixture
def page(browser, run):
    browser.get_log("browser")  # what earlier pages left there
    resize(browser, 1280, 900)
    browser.get(run[0].as_uri())
    yield browser
    problems = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert not problems, problems


SLIDER = "document.querySelector('section.category:not([hidden]) input.threshold')"


def choose(driver, identity, value):
    """Sets a field of the toolbar as a user would."""
    driver.execute_script(
        """const field = document.getElementById(arguments[0]);
        field.value = arguments[1]; field.dispatchEvent(new Event('input'))""",
        identity,
        value,
    )


def counts(driver):
    """The shown numbers of the category in view."""
    return driver.execute_script("""return Object.fromEntries([...document.querySelectorAll(
        'section.category:not([hidden]) [data-count]')].map(
        output => [output.dataset.count, output.textContent]))""")


def expected(summary, threshold, start):
    alarm, before, labels = summary.scores >= threshold, summary.scores >= start, summary.labels
    found, alarms = int((alarm & labels).sum()), int((alarm & ~labels).sum())
    share = lambda part, whole: f"{100 * part / whole:.1f} %" if whole else "–"  # noqa: E731
    return {
        "detected": str(found),
        "missed": str(int(labels.sum()) - found),
        "false alarm": str(alarms),
        "recall": share(found, int(labels.sum())),
        "precision": share(found, found + alarms),
        "flipped": str(int((alarm != before).sum())),
    }


def press(driver, *keys):
    from selenium.webdriver.common.action_chains import ActionChains

    for key in keys:
        ActionChains(driver).send_keys(key).perform()


def slide(driver, value):
    """Moves the slider and returns where it really stands."""
    driver.execute_script(
        f"{SLIDER}.value = arguments[0]; {SLIDER}.dispatchEvent(new Event('input'))", float(value)
    )
    return read(driver, f"{SLIDER}.valueAsNumber")


def test_the_slider_counts_what_python_counts(page, run):
    for index, summary in enumerate(run[1]):
        page.execute_script("location.hash = arguments[0]", f"c{index}")
        wait_for(page, f"!document.querySelectorAll('section.category')[{index}].hidden")
        top = float(read(page, f"{SLIDER}.max"))
        start = top if summary.score_threshold is None else summary.score_threshold
        assert counts(page) == expected(summary, start, start)
        for value in np.linspace(summary.scores.min() - 0.01, summary.scores.max() + 0.001, 7):
            assert expected(summary, slide(page, value), start) == counts(page)
        press(page, "0")
        assert counts(page)["flipped"] == "0"


@pytest.mark.parametrize("width", [1400, 390])
def test_the_knob_stands_below_the_line_of_the_histogram(page, width):
    resize(page, width, 900)
    line, knob = page.execute_script("""
        const slider = document.querySelector('input.threshold'), box = slider.getBoundingClientRect();
        const share = (slider.value - slider.min) / (slider.max - slider.min), half = 10;
        const line = document.querySelector('.histogram path.threshold').getBoundingClientRect();
        return [line.left + line.width / 2, box.left + half + share * (box.width - 2 * half)];""")
    assert abs(line - knob) < 1


def test_a_photograph_that_cannot_be_judged_is_never_flipped(browser, tmp_path):
    """It is anomalous at any threshold: the count is that of the list."""
    reasons = {3: "no part in the picture", 5: "no part in the picture"}
    rows = [
        stored_row(
            f"{number}.png", score=number * 0.037, reason=reasons.get(number), anomalous=number in reasons
        )
        for number in range(8)
    ]
    totals = finished_run(tmp_path, rows)
    limit = Threshold(0.15, 0.15, "given")
    write_prediction_report(tmp_path, totals, limit, [], "", "command", False)
    browser.get((tmp_path / "report.html").as_uri())
    for at in (0.15, 0.001, 0.1, 0.2, 0.25):
        value = slide(browser, at)
        listed = {}
        for kind in ("anomalous", "normal", "flipped"):
            choose(browser, "filter", kind)
            listed[kind] = str(read(browser, "document.querySelectorAll('.tile').length"))
        assert counts(browser) == listed, value


def test_threshold_keys_move_by_one_image_and_flipped_images_are_marked(page, run):
    summary = run[1][0]
    start = summary.score_threshold
    press(page, "}")
    above = min(score for score in summary.scores if score > start)
    assert counts(page) == expected(summary, above, start)
    press(page, "}", "}")
    assert counts(page)["flipped"] == "3"
    choose(page, "filter", "flipped")
    assert read(page, "document.querySelectorAll('.tile').length") == 3
    assert read(page, "document.querySelectorAll('.badge.flip').length") == 3
    press(page, "{", "{", "{")
    assert counts(page)["flipped"] == "0"
    press(page, "[")
    low, high = (float(read(page, f"{SLIDER}.{end}")) for end in ("min", "max"))
    assert counts(page) == expected(summary, start - 0.01 * (high - low), start)


def test_tiles_are_sorted_and_the_keyboard_walks_them(page, run):
    from selenium.webdriver.common.keys import Keys

    summary = run[1][0]
    order = np.argsort(-summary.scores, kind="stable").tolist()
    assert (
        read(page, "[...document.querySelectorAll('.tile')].map(tile => Number(tile.dataset.image))") == order
    )
    focused = "Number(document.activeElement.dataset.image)"
    opened, helped = (f"document.getElementById('{identity}').open" for identity in ("viewer", "help"))
    press(page, "j", "j", Keys.ARROW_RIGHT, "k")
    assert read(page, focused) == order[1]
    press(page, Keys.ENTER)
    wait_for(page, opened)
    assert read(page, "document.getElementById('viewer-title').textContent") in summary.image_paths[order[1]]
    press(page, "j")
    wait_for(page, "[...document.querySelectorAll('#panels img')].every(image => image.naturalWidth > 1000)")
    assert read(page, "document.querySelectorAll('#panels [role=img]').length") == 4
    assert summary.image_paths[order[2]] in read(page, "document.getElementById('viewer-facts').textContent")
    press(page, Keys.ESCAPE)
    wait_for(
        page, f"!{opened} && {focused} === {order[2]}"
    )  # a dialog's close event comes after it is closed
    press(page, "1")
    assert read(page, "getComputedStyle(document.getElementById('grid')).getPropertyValue('--mode')") == "0"
    press(page, "?")
    wait_for(page, helped)
    press(page, Keys.ESCAPE)
    wait_for(page, f"!{helped}")
    press(page, "n")
    wait_for(
        page, "document.querySelector('.tabs [aria-current]') === document.querySelectorAll('.tabs a')[1]"
    )
    assert read(page, "document.querySelector('.tabs [aria-current]').textContent") == ATTACK_NAME


def test_hostile_names_are_text(page, run):
    page.execute_script("location.hash = 'c1'")
    wait_for(page, "document.querySelectorAll('.tile').length === 11")
    page.execute_script("document.querySelector('.tile').click()")
    text = "".join(
        read(page, f"document.getElementById('{identity}').textContent") for identity in ("viewer", "grid")
    )
    assert ATTACK in text and "</script><b>&amp;" in text
    assert read(page, "document.querySelectorAll('img[onerror], b').length") == 0
    assert read(page, "document.title") == "Products in MVTec AD's layout, 1 shot · FDSL"


def test_a_missing_strip_falls_back_to_the_thumbnail(browser, run, tmp_path):
    summary = replace(run[1][0], files=[f"gone_{file}" for file in run[1][0].files])
    for new, old in zip(summary.files, run[1][0].files):
        summary.thumbnail(new).write_bytes(run[1][0].thumbnail(old).read_bytes())
    browser.get(write_report(tmp_path, [summary], CONFIG, {}).as_uri())
    press(browser, "j")
    browser.execute_script("document.activeElement.click()")
    wait_for(
        browser, "[...document.querySelectorAll('#panels img')].every(image => image.naturalWidth === 768)"
    )


def test_themes_and_a_narrow_screen(page):
    background = "getComputedStyle(document.body).backgroundColor"
    light = read(page, background)
    resize(page, 1280, 900, dark=True)
    dark = read(page, background)
    assert light != dark
    page.execute_script("document.getElementById('theme').click()")
    assert read(page, background) == light
    page.refresh()
    assert read(page, background) == light, "the choice is kept"
    page.execute_script("localStorage.clear()")
    for width in (360, 800, 1600):
        resize(page, width, 800)
        assert read(page, "document.documentElement.scrollWidth") <= width


def test_text_has_contrast_and_controls_have_names(page):
    for dark in (False, True):
        resize(page, 1280, 900, dark)
        style = "getComputedStyle(document.documentElement).getPropertyValue('--{}').trim()"
        paper = luminance(read(page, style.format("paper")))
        for name in ("ink", "soft", "muted", "normal", "defect", "accent"):
            light, deep = sorted((luminance(read(page, style.format(name))), paper), reverse=True)
            assert (light + 0.05) / (deep + 0.05) >= 4.5, (name, dark)
    named = "element.textContent.trim() || element.getAttribute('aria-label') || element.labels?.length"
    controls = "[...document.querySelectorAll('button, input, select, [role=img]')]"
    assert read(page, f"{controls}.filter(element => !({named})).length") == 0


def luminance(colour):
    parts = np.array([int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_five_thousand_images_stay_usable(browser, run, tmp_path):
    summaries = [many(run[1][0], "big", 4000, 1), many(run[1][0], "small", 1000, 2)]
    path = write_report(tmp_path, summaries, CONFIG, run_metrics(summaries))
    assert path.stat().st_size < 4_000_000
    resize(browser, 1280, 900)
    start = time.monotonic()
    browser.get(path.as_uri())
    wait_for(browser, "document.querySelector('.tile img').naturalWidth > 0")
    assert time.monotonic() - start < 8
    assert read(browser, "document.querySelectorAll('*').length") < 2500
    began = time.monotonic()
    for value in (0.3, 0.45, 0.55, 0.7):
        at = slide(browser, value)
        assert counts(browser) == expected(summaries[0], at, 0.5)
    assert time.monotonic() - began < 4
    for _ in range(3):
        browser.execute_script("document.getElementById('next').click()")
    assert read(browser, "document.getElementById('range').textContent") == "181–240 of 4,000"
    choose(browser, "find", "03999")
    assert read(browser, "document.querySelectorAll('.tile').length") == 1
