"""The page in a real browser: what its tests do there and read from it."""

import pytest

from tests.support.chromium import missing_browser, read, wait_for
from tests.support.constants import ROOT

no_browser = missing_browser()
IN_BROWSER = [pytest.mark.slow, pytest.mark.skipif(bool(no_browser), reason=no_browser)]
BACKBONE = (
    *("--model", "ViT-demo", "--model-config", str(ROOT / "configs"), "--pretrained", "none"),
    *"--layers 1 2 --image-size 192 --device cpu --precision fp32".split(),
)
ATTACK = "<img src=x onerror=alert(1)>.png"
DEFECTS = (1, 3, 17)  # of the demo's gears: large ones
PARTS = ("good2.png", "bad0.png", "bad1.png", ATTACK)


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


def cards(driver):
    """{name: (score, verdict)} of the cards, in their order."""
    rows = read(
        driver,
        """[...document.querySelectorAll('.card')].map(card => ['.name', '.score', '.badge']
        .map(part => card.querySelector(part).textContent))""",
    )
    return {name: (float(score), verdict) for name, score, verdict in rows}
