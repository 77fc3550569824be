"""Helpers and constants of the tests, imported as `from tests.support.small_runs import Place`; fixtures
stand in conftest.py."""
