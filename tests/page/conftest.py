"""A small detector, the page that serves it, and one visitor of that page."""

import pytest

from tests.support.detectors import small_detector
from tests.support.visitor import LIMITS, Visitor


@pytest.fixture(scope="module")
def detector(tiny_configs):
    return small_detector(tiny_configs)


@pytest.fixture
def client(detector, tmp_path):
    from page.server import make_server  # flask may be missing

    return make_server(detector, tmp_path, LIMITS, [("Method", "nearest <b>")]).test_client()


@pytest.fixture
def visitor(client):
    return Visitor(client)
