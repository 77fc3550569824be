"""app.py's flags."""

from fdsl.flags.page_flags import parse


def test_references_of_the_command_line_get_the_usual_target():
    """The threshold is chosen on the page, so its flags are not given."""
    assert parse(["--references", "normal"], "").rate_of_references == 0.01
