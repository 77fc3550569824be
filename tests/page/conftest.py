"""A small detector, the page that serves it, and one visitor of that page, by requests or in a browser."""

import pytest

from data import demo
from tests.support.chromium import chromium, resize, wait_for
from tests.support.detectors import small_detector
from tests.support.page_in_browser import ATTACK, BACKBONE, DEFECTS
from tests.support.served import served
from tests.support.visitor import LIMITS, Visitor


@pytest.fixture(scope="module")
def detector(tiny_configs):
    return small_detector(tiny_configs)


@pytest.fixture
def client(detector, tmp_path):
    from page.server import make_server  # flask may be missing

    return make_server(detector, tmp_path, LIMITS).test_client()


@pytest.fixture
def visitor(client):
    return Visitor(client)


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def address(tmp_path_factory):
    with served(*BACKBONE) as page:
        yield page.address


@pytest.fixture(scope="session")
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
