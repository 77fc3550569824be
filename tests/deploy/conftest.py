"""Photographs, a detector as export.py writes it, and the service with it."""

import pytest

from tests.support.exported import exported_to
from tests.support.photographs import draw_parts
from tests.support.running_service import Running


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """good/ with references and parts/ with photographs; not to be written to."""
    return draw_parts(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="session")
def exported(place, tiny_configs, tmp_path_factory):
    """part.onnx of a detector of the whole image; not to be written to."""
    return exported_to(tmp_path_factory.mktemp("exported"), place / "good", tiny_configs)


@pytest.fixture(scope="session")
def programs(exported):
    """A folder with part.onnx and what export.py writes beside it."""
    return exported.parent


@pytest.fixture(scope="module")
def service(programs):
    """The service, which has no fault until its tests are done."""
    running = Running(programs)
    yield running
    code, reported = running.stop()
    assert code == 143 and "fault" not in reported
