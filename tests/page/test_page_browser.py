"""The page in a real browser, served by app.py: from photographs to a decision and its files."""

import io
import json
import time
import zipfile

import pytest

from tests.support.chromium import read, resize, wait_for
from tests.support.page_in_browser import BACKBONE, IN_BROWSER, PARTS, cards, click, give, learn_and_score
from tests.support.served import served

pytestmark = IN_BROWSER
pytest.importorskip("flask", reason="flask is not installed (requirements-app.txt)")


def test_from_photographs_to_a_decision(page, gears):
    learn_and_score(page, gears, PARTS)
    found = cards(page)
    assert sorted(found) == sorted(PARTS), "names are text"
    assert read(page, "document.querySelectorAll('img[onerror]').length") == 0
    scores = [score for score, _ in found.values()]
    assert (
        scores == sorted(scores, reverse=True) and min(found, key=lambda name: found[name][0]) == "good2.png"
    )
    wait_for(
        page,
        """[...document.querySelectorAll('.card img, #references img')].every(
        image => image.naturalWidth === 320)""",
    )

    low, high = sorted(set(scores))[:2]
    page.execute_script(
        """const slider = document.getElementById('slider');
        slider.value = arguments[0]; slider.dispatchEvent(new Event('input'))""",
        (low + high) / 2,
    )
    assert read(page, "document.getElementById('anomalous').textContent") == "3 of 4 anomalous"
    assert [verdict for _, verdict in cards(page).values()] == ["anomalous"] * 3 + ["normal"]
    boxes = """[...document.querySelectorAll('.card .contours')].map(
        one => one.hasAttribute('hidden') ? 0 : one.children.length)"""
    counts = read(page, boxes)
    assert all(counts[:3]) and counts[3] == 0
    click(page, "#show-contours")
    assert not any(read(page, boxes))
    assert read(page, "document.getElementById('rate').value") == ""
    page.execute_script("""const rate = document.getElementById('rate');
        rate.value = '0.05'; rate.dispatchEvent(new Event('change'))""")
    wait_for(
        page, "document.getElementById('source').textContent.startsWith('target false-positive rate 0.05')"
    )


def test_a_threshold_set_by_hand_stays_within_the_plot(page, gears):
    learn_and_score(page, gears, PARTS[:3])
    ends = "[document.getElementById('slider').min, document.getElementById('slider').max].join()"
    before = read(page, ends)
    field = "document.getElementById('threshold')"
    for value in ("5", "-3"):
        page.execute_script(
            f"{field}.value = arguments[0]; {field}.dispatchEvent(new Event('change'))", value
        )
        low, high = (read(page, f"Number(document.getElementById('slider').{end})") for end in ("min", "max"))
        assert read(page, ends) == before and read(page, f"Number({field}.value)") == float(value)
        line = read(page, "Number(document.querySelector('#scores .cut').getAttribute('x1'))")
        assert 9 <= line <= read(page, "document.getElementById('scores').clientWidth") and low < high
    page.execute_script(f"{field}.value = ''; {field}.dispatchEvent(new Event('change'))")
    assert read(page, f"{field}.value") == "-3"


def test_the_keyboard_goes_on_where_a_card_was_removed(page, gears):
    learn_and_score(page, gears, PARTS[:3])
    page.execute_script("document.querySelector('.card .forget').focus()")
    names = list(cards(page))
    click(page, ".card .forget")
    wait_for(page, "document.querySelectorAll('.card').length === 2")
    wait_for(page, f"document.activeElement.getAttribute('aria-label') === 'Remove {names[1]}'")


def test_downloads(page, gears, tmp_path):
    learn_and_score(page, gears, PARTS[:2])
    page.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    for identity, name in (("save-results", "fdsl-results.zip"), ("save-detector", "detector.safetensors")):
        click(page, f"#{identity}")
        end = time.monotonic() + 20
        while not (tmp_path / name).exists() and time.monotonic() < end:
            time.sleep(0.1)
        assert (tmp_path / name).stat().st_size > 1000
    archive = zipfile.ZipFile(io.BytesIO((tmp_path / "fdsl-results.zip").read_bytes()))
    rows = [json.loads(line) for line in archive.read("scores.jsonl").splitlines()]
    assert {row["image"]: float(f"{row['score']:.4g}") for row in rows} == {
        name: score for name, (score, _) in cards(page).items()
    }


def test_the_download_has_the_threshold_of_the_page(page, gears, tmp_path):
    """Typed and not yet settled when the download is clicked."""
    learn_and_score(page, gears, PARTS[:2])
    page.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    page.execute_script("""const field = document.getElementById('threshold');
        field.value = '0.0123'; field.dispatchEvent(new Event('change'));
        document.getElementById('save-results').click()""")
    end = time.monotonic() + 20
    while not (tmp_path / "fdsl-results.zip").exists() and time.monotonic() < end:
        time.sleep(0.1)
    archive = zipfile.ZipFile(io.BytesIO((tmp_path / "fdsl-results.zip").read_bytes()))
    assert {json.loads(line)["threshold"] for line in archive.read("scores.jsonl").splitlines()} == {0.0123}


@pytest.mark.parametrize("identity", ["save-results", "save-detector"])
def test_a_download_that_is_not_to_be_had_is_a_sentence_on_the_page(page, gears, identity):
    """The visitor's place is given up while the page asks."""
    learn_and_score(page, gears, PARTS[:1])
    page.execute_script("""const base = `sessions/${sessionStorage.getItem('fdsl-visitor')}`;
        const plain = window.fetch;
        window.fetch = async (path, how) => {
          const answer = path === base ? await plain(path, how) : null;
          await plain(base, { method: 'DELETE' });
          return answer ?? plain(path, how);
        };""")
    before = page.current_url
    click(page, f"#{identity}")
    wait_for(page, "document.getElementById('problem').textContent.startsWith('it is not here any more')")
    assert page.current_url == before and read(page, "document.querySelectorAll('.card').length") == 1
    assert "404" in page.get_log("browser")[-1]["message"]


def test_what_is_no_photograph_is_reported_and_the_rest_goes_on(page, gears, tmp_path):
    (tmp_path / "notes.png").write_text("no picture")
    give(page, "references", tmp_path / "notes.png", gears / "good0.png")
    wait_for(page, "document.getElementById('fitted').textContent.startsWith('Fitted to 1 reference')")
    problem = "document.getElementById('problem').textContent"
    assert "notes.png: is not an image of a known format" in read(page, problem)
    assert read(page, "document.querySelectorAll('#references li').length") == 1


def test_dropped_files_a_reload_and_starting_over(page, gears, address):
    learn_and_score(page, gears, PARTS[:1])
    page.execute_script("""const transfer = new DataTransfer();
        const picture = document.querySelector('#references img');
        const drop = document.querySelector('[data-kind=photographs]');
        fetch(picture.src).then(answer => answer.blob()).then(blob => {
          transfer.items.add(new File([blob], 'dropped.jpg'));
          const how = { dataTransfer: transfer, bubbles: true, cancelable: true };
          drop.dispatchEvent(new DragEvent('drop', how));
        });""")
    wait_for(page, "document.querySelectorAll('.card:not(.waiting)').length === 2")
    before = cards(page)
    page.refresh()
    wait_for(page, "document.querySelectorAll('.card:not(.waiting)').length === 2")
    assert cards(page) == before and "dropped.jpg" in before
    click(page, "#references .forget")
    wait_for(page, "document.getElementById('fitted').textContent.startsWith('Fitted to 1 reference')")
    wait_for(page, "document.querySelectorAll('.card:not(.waiting)').length === 2")
    wait_for(
        page, "[...document.querySelectorAll('.card img')].every(image => image.complete)"
    )  # none is asked for after it is gone
    click(page, "#leave")
    wait_for(page, "document.querySelectorAll('#references li, .card').length === 0")


def test_narrow_screens_and_names_of_controls(page, gears):
    learn_and_score(page, gears, PARTS[:2])
    for width in (360, 800, 1600):
        for dark in (False, True):
            resize(page, width, 800, dark)
            assert read(page, "document.documentElement.scrollWidth") <= width
    named = "element.textContent.trim() || element.getAttribute('aria-label') || element.labels?.length"
    controls = "[...document.querySelectorAll('button, input, select, [role=img]')]"
    assert read(page, f"{controls}.filter(element => !({named})).length") == 0


def test_photographs_are_compared_with_each_other(browser, gears, tmp_path):
    with served(*BACKBONE, "--method", "batch") as page:
        browser.get(page.address)
        wait_for(browser, "document.querySelector('#progress') !== null")
        assert not browser.find_element("id", "references").is_displayed()
        give(browser, "photographs", gears / "good0.png")
        wait_for(browser, "document.getElementById('progress').textContent.startsWith('Waits for 2')")
        give(browser, "photographs", gears / "good1.png", gears / "good2.png", gears / "bad0.png")
        wait_for(browser, "document.querySelectorAll('.card:not(.waiting)').length === 4")
        found = cards(browser)
        assert max(found, key=lambda name: found[name][0]) == "bad0.png"
        reported = browser.find_element("id", "sees").text
        assert "see the test images" in reported and "From 8 on they give a threshold" in reported
        click(browser, ".card[data-number] .forget")
        wait_for(browser, "!document.getElementById('compare').hidden")
        click(browser, "#compare")
        wait_for(browser, "document.getElementById('compare').hidden")
        wait_for(browser, "document.querySelectorAll('.card:not(.waiting)').length === 3")
        assert set(cards(browser)) == {"good0.png", "good1.png", "good2.png"}
