"""The page in a real browser: the large view of a photograph, and the region of interest that is drawn."""

import pytest
from PIL import Image

from tests.support.chromium import read, resize, wait_for
from tests.support.page_in_browser import BACKBONE, IN_BROWSER, PARTS, cards, click, give, learn_and_score
from tests.support.served import served

pytestmark = IN_BROWSER
pytest.importorskip("flask", reason="flask is not installed (requirements-app.txt)")


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
    names = list(cards(page))
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


def test_tall_and_wide_photographs_are_displayed_whole_and_in_shape(page, gears, tmp_path):
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


def test_a_finding_becomes_a_reference(page, gears):
    """The button beside it adds it, fits anew and scores everything again."""
    learn_and_score(page, gears, PARTS[:3])
    before = {name: score for name, (score, _) in cards(page).items()}
    worst, count = (
        max(before, key=before.get),
        read(page, "document.querySelectorAll('#references li').length"),
    )
    click(page, ".card .open")
    wait_for(page, "document.getElementById('viewer').open")
    click(page, "#viewer-normal")
    wait_for(
        page, f"document.getElementById('fitted').textContent.startsWith('Fitted to {count + 1} references')"
    )
    wait_for(page, "document.querySelectorAll('.card.waiting').length === 0")
    assert cards(page)[worst][0] < before[worst]


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
    before = cards(page)
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
    assert cards(page) != before
    click(page, "#draw-roi")
    click(page, "#roi-undo")
    click(page, "#roi-undo")
    assert read(page, "document.getElementById('roi-undo').disabled")
    click(page, "#roi-apply")
    wait_for(page, "document.getElementById('draw-roi').textContent === 'Region of interest'")
    wait_for(page, "document.querySelectorAll('.card.waiting').length === 0")
    assert cards(page) == before
