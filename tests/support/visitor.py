"""Who uses the page, by its requests."""

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


def fitted_visitor(detector, folder):
    """A visitor whose page is fitted to two references."""
    from page.server import make_server  # flask may be missing

    folder.mkdir()
    visitor = Visitor(make_server(detector, folder, LIMITS, []).test_client())
    visitor.fitted(1, 2)
    return visitor
