"""app.py's flags."""

from fdsl.flags.detector_from_flags import target_rate
from fdsl.flags.page_flags import parse


def test_references_of_the_command_line_get_the_usual_target():
    """The flags of decisions are chosen on the page, and the code that reads predict.py's finds them empty."""
    assert target_rate(parse(["--references", "normal"], "")) == 0.01
