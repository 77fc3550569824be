"""A newcomer's first hour and an engineer's second day, in a fresh clone of what is committed.

    python tests/drivers/journey.py                      # with the packages of this environment
    python tests/drivers/journey.py --install            # installs them anew, as README says (about 5 GB)
    python tests/drivers/journey.py --screenshots DIR    # keeps pictures of the report and of the page

Clone, install, first command, report, saved detector, a false alarm that becomes a reference, ONNX in an
environment without PyTorch, the page. Each step checks what its user would look at; a failure ends it.
Parts and backbone are the demo's, gears and an untrained one, so nothing but packages is fetched. Without
--install the environment without PyTorch is made of links to the packages of this one. Where there is no
Chromium, report and page are not opened, and a line says so. Takes 75 to 85 s of a processor.
"""

import argparse
import csv
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

if __name__ == "__main__":  # run as a script, also from inside this folder: import from the project's root
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tests.support.chromium import chromium, missing_browser, read, resize, wait_for
from tests.support.constants import ROOT
from tests.support.served import served

BACKBONE = "--model ViT-demo --model-config configs --pretrained none --layers 1 2 --image-size 256".split()
SCREENS = ((1400, 900), (390, 844))
GEAR = Path("data/demo/mvtec/gear")
LOADED = "image => image.naturalWidth"
IN_VIEW = """
    const found = [...document.querySelectorAll(arguments[0])].map(one => one.getBoundingClientRect());
    return found.length > 0 && found.every(box => box.top >= 0 && box.bottom <= innerHeight);"""
TALLEST = 3000  # pixels of a screenshot: below it, a page is shown whole


class Journey:
    """One user's folder: the clone in it, the photographs and what the commands leave."""

    def __init__(self, place: Path, screenshots: Path | None) -> None:
        self.place, self.clone, self.screenshots = place, place / "fdsl", screenshots
        self.python = sys.executable

    def ask(self, *command: str | Path, code: int = 0) -> str:
        """What a command prints, given in the clone; AssertionError where it ends with another exit code."""
        done = subprocess.run(
            list(map(str, command)),
            cwd=self.clone if self.clone.exists() else self.place,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        printed = done.stdout + done.stderr
        assert done.returncode == code, (
            f"{' '.join(map(str, command))} ended with {done.returncode}: {printed}"
        )
        assert "Traceback" not in printed, printed
        return printed

    def predict(self, output: str, *flags: str | Path) -> dict[str, dict[str, str]]:
        """The rows of predict.py for the new photographs, by name."""
        flags = "--input", "../new_photos", "--output", f"../{output}", *flags
        self.ask(self.python, "predict.py", *flags)
        return rows_of(self.place / output)

    def install(self, anew: bool) -> None:
        self.ask("git", "clone", "--quiet", ROOT, self.clone)
        if anew:
            venv.create(self.place / "all", with_pip=True)
            self.python = str(self.place / "all/bin/python")
            files = ("-r", "requirements-app.txt", "-r", "requirements-export.txt")
            self.ask(self.python, "-m", "pip", "install", "--quiet", *files)

    def photograph(self) -> None:
        """normal/ with two normal images; new_photos/ with four more and four defective ones."""
        self.ask(self.python, "data/demo.py")
        gear = self.clone / GEAR
        for number, source in enumerate(sorted((gear / "train/good").iterdir())[:6]):
            copy(source, self.place / ("normal" if number < 2 else "new_photos") / f"good{number}.png")
        for number in (1, 3, 15, 17):  # large defects
            copy(gear / f"test/defect/{number:03d}.png", self.place / "new_photos" / f"defect{number}.png")

    def first_command(self) -> dict[str, dict[str, str]]:
        saved = "--precision", "fp32", "--save-detector", "../part.safetensors"
        found = self.predict("inspected", "--references", "../normal", *saved, *BACKBONE)
        assert len(found) == 8, found
        assert not max(found, key=lambda name: float(found[name]["score"])).startswith("good"), found
        left = {path.name for path in (self.place / "inspected").iterdir()}
        assert {"report.html", "contact_sheet.jpg", "scores.csv", "scores.jsonl", "pictures"} <= left, left
        return found

    def report(self, driver) -> None:
        driver.get((self.place / "inspected/report.html").as_uri())
        wait_for(driver, f"[...document.images].some({LOADED})")
        self.look(driver, "report")

    def look(self, driver, name: str, whole: bool = True, visible: str = "") -> None:
        """At both sizes nothing sticks out to the right, what `visible` selects is in view, and nothing is
        complained about."""
        for width, height in SCREENS:
            resize(driver, width, height)
            assert read(driver, "document.documentElement.scrollWidth") <= width, f"{name} at {width} px"
            if visible:
                assert driver.execute_script(IN_VIEW, visible), f"{name} at {width} px: not all in view"
            if self.screenshots:
                if whole:
                    tall = read(driver, "document.documentElement.scrollHeight")
                    resize(driver, width, min(max(tall, height), TALLEST))
                driver.save_screenshot(str(self.screenshots / f"{name}-{width}.png"))
        problems = [entry for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
        assert not problems, problems

    def second_day(self, before: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        """The saved detector scores alike; the highest normal image becomes a reference and scores less."""
        again = self.predict("again", "--detector", "../part.safetensors")
        assert scores(again) == scores(before)
        alarm = max(
            (name for name in before if name.startswith("good")), key=lambda name: scores(before)[name]
        )
        copy(self.place / "new_photos" / alarm, self.place / "false_alarms" / alarm)
        grown = "--detector", "../part.safetensors", "--add-references", "../false_alarms"
        self.ask(self.python, "predict.py", *grown, "--save-detector", "../part2.safetensors")
        assert alarm in self.ask(self.python, "predict.py", "--detector", "../part2.safetensors", "--show")
        after = self.predict("grown", "--detector", "../part2.safetensors")
        assert scores(after)[alarm] < scores(before)[alarm], (alarm, scores(before), scores(after))
        return after

    def without_torch(self, wanted: dict[str, dict[str, str]], anew: bool) -> None:
        """export.py here; what it wrote, in an environment of three packages, says the same."""
        line = self.place / "line"
        self.ask(
            self.python, "export.py", "--detector", "../part2.safetensors", "--output", line / "part.onnx"
        )
        needs = self.clone / "deploy/requirements.txt"
        venv.create(line / "bare", with_pip=anew)
        python = line / "bare/bin/python"
        if anew:
            self.ask(python, "-m", "pip", "install", "--quiet", "-r", needs)
        else:
            link_packages(needs, next((line / "bare").glob("lib/python*/site-packages")))
        self.ask(python, "-c", "import importlib.util as u, sys; sys.exit(u.find_spec('torch') is not None)")
        given = line / "part.onnx", self.place / "new_photos", "--output", line / "results"
        self.ask(python, line / "inspect.pyz", *given)
        found = rows_of(line / "results")
        assert found.keys() == wanted.keys()
        for name, row in found.items():
            assert row["anomalous"] == wanted[name]["anomalous"], (row, wanted[name])
            assert abs(scores(found)[name] - scores(wanted)[name]) < 1e-4, (row, wanted[name])

    def page(self, driver) -> None:
        """References and photographs are given to app.py, and a finding is opened."""
        with served(*BACKBONE, root=self.clone, python=self.python) as page:
            driver.get(page.address)
            give(driver, "references", self.place / "normal")
            wait_for(driver, "document.getElementById('fitted').textContent.startsWith('Fitted to 2')", 120)
            give(driver, "photographs", self.place / "new_photos")
            wait_for(driver, "document.querySelectorAll('.card:not(.waiting)').length === 8", 120)
            cards = "[...document.querySelectorAll('.card img')]"
            driver.execute_script(f"{cards}.forEach(image => image.loading = 'eager')")  # also out of view
            wait_for(driver, f"{cards}.every({LOADED})")
            self.look(driver, "page")
            resize(driver, *SCREENS[0])
            driver.execute_script("document.querySelector('.card .open').click()")
            wait_for(driver, f"[...document.querySelectorAll('#viewer-pictures img')].every({LOADED})")
            self.look(driver, "viewer", whole=False, visible="#viewer .buttons button")


def give(driver, kind: str, folder: Path) -> None:
    """Chooses all files of a folder, as a user would drop them."""
    field = driver.find_element("css selector", f".drop[data-kind={kind}] input")
    field.send_keys("\n".join(map(str, sorted(folder.iterdir()))))


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    shutil.copy(source, target)


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    """scores.csv of a folder: name of a photograph -> its row."""
    with open(folder / "scores.csv", newline="", encoding="utf-8-sig") as table:
        return {Path(row["image"]).name: row for row in csv.DictReader(table)}


def scores(rows: dict[str, dict[str, str]]) -> dict[str, float]:
    return {name: float(row["score"]) for name, row in rows.items()}


def link_packages(requirements: Path, into: Path) -> None:
    """Links what a requirements file lists, and what that needs, from this environment into another one."""
    wanted = [line for line in requirements.read_text().splitlines() if line and not line.startswith("#")]
    linked: set[str] = set()
    while wanted:
        name = re.split(r"[=<>!~\[; (]", wanted.pop())[0].lower()
        if name in linked:
            continue
        linked.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:  # needed elsewhere alone, on another system for instance
            continue
        wanted += [need for need in found.requires or [] if "extra ==" not in need]
        for top in {Path(file).parts[0] for file in found.files or []} - {"..", "__pycache__"}:
            if not (into / top).exists():
                (into / top).symlink_to(found.locate_file(top))


def walk(place: Path, screenshots: Path | None = None, anew: bool = False) -> None:
    """The whole way, a line for each step."""
    journey, why_not = Journey(place, screenshots), missing_browser()
    print("clone and install", flush=True)
    journey.install(anew)
    journey.photograph()
    print("first command", flush=True)
    found = journey.first_command()
    print("second day: saved detector, a false alarm becomes a reference", flush=True)
    after = journey.second_day(found)
    print("ONNX without PyTorch", flush=True)
    journey.without_torch(after, anew)
    if why_not:
        print(f"report and page: not opened: {why_not}", flush=True)
        return
    with chromium(*SCREENS[0]) as driver:
        print("report", flush=True)
        journey.report(driver)
        print("page", flush=True)
        journey.page(driver)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--install", action="store_true", help="make both environments anew with pip")
    parser.add_argument("--screenshots", type=Path, help="folder for PNG files")
    args = parser.parse_args()
    if args.screenshots:
        args.screenshots.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        walk(Path(folder), args.screenshots and args.screenshots.resolve(), args.install)


if __name__ == "__main__":
    main()
