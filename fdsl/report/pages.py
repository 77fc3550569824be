"""The templates of reports and of the page, filled in strictly: a name that is not given is an error."""

from __future__ import annotations

from pathlib import Path

import jinja2

TEMPLATES = Path(__file__).parent / "templates"


def templates(*folders: Path) -> jinja2.Environment:
    """The templates in these folders and in TEMPLATES; what is filled in is escaped."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
