"""The faults that tests/models/test_device_paths.py plants still stand in the product: a function or a name
that was changed is seen here, within seconds."""

import pytest

from tests.drivers.device_paths import FAULTS, PATHS


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_replaces_what_stands_once_in_its_function(fault):
    before = getattr(fault.place, fault.name)
    with fault.planted():
        assert getattr(fault.place, fault.name) is not before
    assert getattr(fault.place, fault.name) == before and fault.path in PATHS
