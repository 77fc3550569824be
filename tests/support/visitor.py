"""Who uses the page, by its requests."""

import io
import json
import zipfile

from PIL import Image

from fdsl.api import AnomalyDetector
from page.collection import Limits
from tests.support.photographs import png

LIMITS = Limits(file_bytes=200_000, references=3, photographs=4)


class Visitor:
    def __init__(self, client):
        self.client = client
        self.base = f"/sessions/{client.post('/sessions').json['name']}"

    def ask(self, method, path, expected=200, **more):
        answer = self.client.open(self.base + path, method=method, **more)
        assert answer.status_code == expected, answer.text
        return answer

    def upload(self, kind, content, name="part.png", expected=200):
        return self.ask("POST", f"/{kind}", expected, query_string={"name": name}, data=content).json

    def fitted(self, *seeds, **more):
        for seed in seeds:
            self.upload("references", png(seed))
        return self.ask("POST", "/learn", json=more).json

    def scored(self, content, name="part.png"):
        number = self.upload("photographs", content, name)["number"]
        return self.ask("POST", f"/photographs/{number}/score").json

    def results(self):
        """The archive of results, and its rows."""
        archive = zipfile.ZipFile(io.BytesIO(self.ask("GET", "/results.zip").data))
        return archive, [json.loads(line) for line in archive.read("scores.jsonl").splitlines()]

    def saved_detector(self, file):
        """The detector that it downloads to `file`."""
        file.write_bytes(self.ask("GET", "/detector.safetensors").data)
        return AnomalyDetector.load(file, device="cpu")


def visiting(detector, folder, limits=LIMITS, rotations=None):
    """The only visitor of a page of its own."""
    from page.server import make_server  # flask may be missing

    folder.mkdir(exist_ok=True)
    return Visitor(make_server(detector, folder, limits, rotations).test_client())


def fitted_visitor(detector, folder):
    """A visitor whose page is fitted to two references."""
    visitor = visiting(detector, folder)
    visitor.fitted(1, 2)
    return visitor


def image(seed, spot=False):
    """What `png` holds."""
    return Image.open(io.BytesIO(png(seed, spot)))


def images(*seeds):
    return [image(seed) for seed in seeds]
