"""A headless Chromium for the tests: Debian's packages chromium and chromium-driver, and selenium for
Python."""

import contextlib
import shutil
import tempfile
import time

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-device-scale-factor=1",
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRIVERS = ("chromedriver", "chromium.chromedriver")


def _installed(names):
    return next((path for path in map(shutil.which, names) if path), None)


def missing_browser() -> str:
    """Why no browser test can run here; empty when one can."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed"
    return (
        "" if _installed(BROWSERS) and _installed(DRIVERS) else "there is no chromium with its chromedriver"
    )


@contextlib.contextmanager
def chromium(width=1280, height=900):
    """A selenium driver with an empty profile and its console log on."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = _installed(BROWSERS)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(_installed(DRIVERS)))
        try:
            driver.set_page_load_timeout(30)
            yield driver
        finally:
            driver.quit()


def resize(driver, width, height, dark=False):
    """Sets the viewport and the preferred colour scheme."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
    )
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]},
    )


def read(driver, expression):
    """The value of an expression in the page."""
    return driver.execute_script(f"return {expression}")


def wait_for(driver, expression, seconds=30):
    """Until the expression is true in the page."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if read(driver, expression):
            return
        time.sleep(0.05)
    reported = read(driver, "document.body.innerText")[-600:]
    raise AssertionError(f"not within {seconds} s: {expression}; the page says {reported}")
