"""The page in a real browser, served by app.py, with the demo's gears."""

import io
import json
import time
import zipfile

import pytest
from PIL import Image

from data import demo
from tests.support.chromium import chromium, missing_browser, read, resize, wait_for
from tests.support.constants import ROOT
from tests.support.served import served

no_browser = missing_browser()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(no_browser), reason=no_browser)]
pytest.importorskip("flask", reason="flask is not installed (requirements-app.txt)")

BACKBONE = (
    "--model",
    "ViT-demo",
    "--model-config",
    str(ROOT / "configs"),
    "--pretrained",
    "none",
    "--layers",
    "1",
    "2",
    "--image-size",
    "192",
    "--device",
    "cpu",
    "--precision",
    "fp32",
)
ATTACK = "<img src=x onerror=alert(1)>.png"
DEFECTS = (1, 3, 17)  # of the demo's gears: large ones


@pytest.fixture(scope="module")
def gears(tmp_path_factory):
    """Two normal images to fit to, one normal and three defective ones to inspect, and one with a hostile
    name."""
    folder = tmp_path_factory.mktemp("gears")
    for number in range(3):
        demo.save(folder / f"good{number}.png", demo.normal_image("gear", "train", 1, number))
    for number, chosen in enumerate(DEFECTS):
        name = ATTACK if number == 2 else f"bad{number}.png"
        demo.save(folder / name, demo.defective_image("gear", 0, chosen)[0])
    return folder


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with served(*BACKBONE) as page:
        yield page.address


@pytest.fixture(scope="module")
def browser():
    with chromium() as driver:
        yield driver


@pytest.fixture
def page(browser, address):
    """An empty page; whatever it does, it complains about nothing on the console."""
    browser.get(address)
    browser.execute_script("sessionStorage.clear()")
    browser.get_log("browser")
    resize(browser, 1280, 900)
    browser.get(address)
    wait_for(
        browser, "performance.getEntriesByType('resource').some(entry => entry.name.includes('/sessions/'))"
    )
    yield browser
    problems = [
        entry
        for entry in browser.get_log("browser")
        if entry["level"] in ("SEVERE", "WARNING") and "status of 422" not in entry["message"]
    ]
    assert not problems, problems


def give(driver, kind, *files):
    field = driver.find_element("css selector", f".drop[data-kind={kind}] input")
    field.send_keys("\n".join(map(str, files)))


def click(driver, selector):
    """By script: a real click misses while the page scrolls smoothly."""
    driver.execute_script("document.querySelector(arguments[0]).click()", selector)


def learn_and_score(driver, gears, parts):
    give(driver, "references", gears / "good0.png", gears / "good1.png")
    wait_for(driver, "document.getElementById('fitted').textContent.startsWith('Fitted to 2 references')")
    give(driver, "photographs", *(gears / name for name in parts))
    wait_for(driver, f"document.querySelectorAll('.card:not(.waiting)').length === {len(parts)}")


def shown(driver):
    """{name: (score, verdict)} of the cards, in their order."""
    rows = read(
        driver,
        """[...document.querySelectorAll('.card')].map(card => ['.name', '.score', '.badge']
        .map(part => card.querySelector(part).textContent))""",
    )
    return {name: (float(score), verdict) for name, score, verdict in rows}


PARTS = ("good2.png", "bad0.png", "bad1.png", ATTACK)


def test_from_photographs_to_a_decision(page, gears):
    learn_and_score(page, gears, PARTS)
    found = shown(page)
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
    assert [verdict for _, verdict in shown(page).values()] == ["anomalous"] * 3 + ["normal"]
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


def test_the_buttons_of_the_large_view_stay_visible(page, gears):
    """On a screen of 1400 x 900 px and on a phone, however tall the pictures and long the table."""
    learn_and_score(page, gears, PARTS[:3])
    click(page, ".card .open")
    wait_for(page, "document.querySelectorAll('#viewer-regions tbody tr').length > 0")
    for width, height in ((1400, 900), (390, 844)):
        resize(page, width, height)
        for button in ("previous", "next", "normal"):
            place = read(page, f"document.getElementById('viewer-{button}').getBoundingClientRect().toJSON()")
            inside = read(page, "[innerWidth, innerHeight]")
            assert 0 <= place["left"] and place["right"] <= inside[0] and 0 <= place["top"], (width, button)
            assert place["bottom"] <= inside[1] and place["height"] > 10, (width, button)
    assert not read(page, "document.querySelector('details.how').open")


def test_the_large_view_and_its_keys(page, gears):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    learn_and_score(page, gears, PARTS[:3])
    names = list(shown(page))
    page.execute_script("document.querySelector('.card .open').focus()")
    ActionChains(page).send_keys(Keys.ENTER).perform()
    title = "document.getElementById('viewer-title').textContent"
    wait_for(page, f"{title} === '{names[0]}'")
    wait_for(
        page,
        """[...document.querySelectorAll('#viewer-pictures img')].filter(
        image => image.naturalWidth).length === 2""",
    )
    ActionChains(page).send_keys(Keys.ARROW_RIGHT).perform()
    wait_for(page, f"{title} === '{names[1]}'")
    ActionChains(page).send_keys(Keys.ESCAPE).perform()
    wait_for(page, "!document.getElementById('viewer').open")
    click(page, "input[name=mode][value=photo]")
    wait_for(page, "document.querySelector('.card img').src.includes('photo.jpg')")


def test_tall_and_wide_photographs_are_shown_whole_and_in_shape(page, gears, tmp_path):
    gear = Image.open(gears / "bad0.png").convert("RGB")
    for name, size in (("tall.png", (300, 400)), ("strip.png", (60, 480)), ("wide.png", (480, 120))):
        gear.resize(size).save(tmp_path / name)
    learn_and_score(page, gears, PARTS[:1])
    give(page, "photographs", *(tmp_path / f"{name}.png" for name in ("tall", "strip", "wide")))
    wait_for(page, "document.querySelectorAll('.card:not(.waiting)').length === 4")
    inside = """[...document.querySelectorAll('.card .frame')].every(frame => {
        const [outer, inner] = [frame, frame.firstChild].map(element => element.getBoundingClientRect());
        return inner.height > 20 && inner.top >= outer.top - 1 && inner.bottom <= outer.bottom + 1
          && inner.left >= outer.left - 1 && inner.right <= outer.right + 1; })"""
    shape = """[...document.querySelectorAll('#viewer-pictures .picture')].map(element => {
        const box = element.getBoundingClientRect(); return box.width / box.height; })"""
    for width, height in ((1280, 900), (1366, 650), (360, 700)):
        resize(page, width, height)
        assert read(page, inside), (width, height)
        for number, (across, down) in enumerate(((320, 320), (300, 400), (60, 480), (480, 120))):
            page.execute_script(
                """[...document.querySelectorAll('.card')].find(
                card => card.querySelector('.name').textContent.startsWith(arguments[0])
                ).querySelector('.open').click()""",
                ("good2", "tall", "strip", "wide")[number],
            )
            assert read(page, shape) == pytest.approx([across / down] * 2, rel=0.03), (width, number)
            page.execute_script("document.getElementById('viewer').close()")


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
    names = list(shown(page))
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
        name: score for name, (score, _) in shown(page).items()
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


def test_what_is_no_photograph_is_said_and_the_rest_goes_on(page, gears, tmp_path):
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
    before = shown(page)
    page.refresh()
    wait_for(page, "document.querySelectorAll('.card:not(.waiting)').length === 2")
    assert shown(page) == before and "dropped.jpg" in before
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


def test_a_finding_becomes_a_reference(page, gears):
    """The button beside it adds it, fits anew and scores everything again."""
    learn_and_score(page, gears, PARTS[:3])
    before = {name: score for name, (score, _) in shown(page).items()}
    worst, known = (
        max(before, key=before.get),
        read(page, "document.querySelectorAll('#references li').length"),
    )
    click(page, ".card .open")
    wait_for(page, "document.getElementById('viewer').open")
    click(page, "#viewer-normal")
    wait_for(
        page, f"document.getElementById('fitted').textContent.startsWith('Fitted to {known + 1} references')"
    )
    wait_for(page, "document.querySelectorAll('.card.waiting').length === 0")
    assert shown(page)[worst][0] < before[worst]


def test_photographs_are_compared_with_each_other(browser, gears, tmp_path):
    with served(*BACKBONE, "--method", "batch") as page:
        browser.get(page.address)
        wait_for(browser, "document.querySelector('#progress') !== null")
        assert not browser.find_element("id", "references").is_displayed()
        give(browser, "photographs", gears / "good0.png")
        wait_for(browser, "document.getElementById('progress').textContent.startsWith('Waits for 2')")
        give(browser, "photographs", gears / "good1.png", gears / "good2.png", gears / "bad0.png")
        wait_for(browser, "document.querySelectorAll('.card:not(.waiting)').length === 4")
        found = shown(browser)
        assert max(found, key=lambda name: found[name][0]) == "bad0.png"
        reported = browser.find_element("id", "sees").text
        assert "see the test images" in reported and "From 8 on they give a threshold" in reported
        click(browser, ".card[data-number] .forget")
        wait_for(browser, "!document.getElementById('compare').hidden")
        click(browser, "#compare")
        wait_for(browser, "document.getElementById('compare').hidden")
        wait_for(browser, "document.querySelectorAll('.card:not(.waiting)').length === 3")
        assert set(shown(browser)) == {"good0.png", "good1.png", "good2.png"}


def test_the_large_view_follows_the_pixel_threshold_of_the_bulk(browser, gears, tmp_path):
    """Another rate is another pixel threshold: heat and contours are drawn anew."""
    with served(*BACKBONE, "--method", "batch") as page:
        browser.get(page.address)
        wait_for(browser, "document.querySelector('#progress') !== null")
        give(browser, "photographs", *(gears / name for name in (*PARTS[:4], "good1.png", "good2.png") * 2))
        wait_for(browser, "!document.getElementById('decision').hidden", 120)
        click(browser, ".card .open")
        contours = (
            "[...document.querySelectorAll('{} polygon')].map(shape => shape.getAttribute('points')).join()"
        )
        heat = "document.querySelector('#viewer-pictures .picture:last-child img').src"
        before = read(browser, heat), read(browser, contours.format("#viewer-pictures"))
        browser.execute_script("""const field = document.getElementById('rate');
            field.value = '0.2'; field.dispatchEvent(new Event('change'))""")
        wait_for(browser, "document.getElementById('source').textContent.includes('rate 0.2')")
        after = read(browser, heat), read(browser, contours.format("#viewer-pictures"))
        assert after[0] != before[0] and after[1] != before[1]


def test_a_region_of_interest_is_drawn_over_a_reference(page, gears):
    """A rectangle that is dragged, and a triangle of four clicks."""
    learn_and_score(page, gears, PARTS[:2])
    before = shown(page)
    click(page, "#draw-roi")
    wait_for(page, "document.getElementById('roi').open")
    wait_for(page, "document.querySelector('#roi img').complete")

    def at(kind, x, y):
        page.execute_script(
            """const [kind, x, y] = arguments, frame = document.querySelector('#roi .picture');
            const box = frame.getBoundingClientRect();
            frame.setPointerCapture = () => {};
            frame.dispatchEvent(new PointerEvent(kind,
              { pointerId: 1, clientX: box.left + x * box.width, clientY: box.top + y * box.height }))""",
            kind,
            x,
            y,
        )

    at("pointerdown", 0, 0)
    at("pointermove", 0.5, 0.9)
    assert read(page, "document.querySelectorAll('#roi polygon').length") == 1, "it is seen while it is drawn"
    at("pointerup", 0.5, 0.9)
    click(page, "input[name=roi-kind][value=ignored]")
    for x, y in ((0.1, 0.1), (0.3, 0.1), (0.1, 0.3)):
        at("pointerdown", x, y)
        at("pointerup", x, y)
    assert read(page, "document.getElementById('roi-apply').disabled"), "the triangle is open"
    at("pointerdown", 0.11, 0.1)
    at("pointerup", 0.11, 0.1)
    assert read(page, "document.querySelectorAll('#roi polygon.ignored').length") == 1
    click(page, "#roi-apply")
    wait_for(page, "document.getElementById('draw-roi').textContent === 'Region of interest (2 shapes)'")
    wait_for(page, "document.querySelectorAll('.card.waiting').length === 0")
    assert shown(page) != before
    click(page, "#draw-roi")
    click(page, "#roi-undo")
    click(page, "#roi-undo")
    assert read(page, "document.getElementById('roi-undo').disabled")
    click(page, "#roi-apply")
    wait_for(page, "document.getElementById('draw-roi').textContent === 'Region of interest'")
    wait_for(page, "document.querySelectorAll('.card.waiting').length === 0")
    assert shown(page) == before
