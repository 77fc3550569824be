"""app.py's flags."""

from fdsl.flags.detector_from_flags import target_rate
from fdsl.flags.page_flags import parse


def test_references_of_the_command_line_get_the_usual_target():
    """Decisions are made on the page: what reads predict.py's flags finds those of them empty."""
    assert target_rate(parse(["--references", "normal"], "")) == 0.01
