"""The templates of reports and of the page, filled in strictly: a name that is not given is an error."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from fdsl.report import charts, drawing
from utils.files import write_bytes
from utils.hot_regions import STOPS

TEMPLATES = Path(__file__).parent / "templates"


def templates(*folders: Path) -> jinja2.Environment:
    """The templates in these folders and in TEMPLATES; what is filled in is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    colours = ["rgb({} {} {})".format(*colour) for colour in STOPS]
    environment.globals["heat_colours"] = colours
    return environment


def write_page(file: Path, template: str, data: Mapping[str, Any], **values: Any) -> Path:
    """Writes a report, whole or not at all, and returns its path. `data`: what its script works with, whose
    digest is in the Content-Security-Policy; `values`: what its template is filled with."""
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    curve = [charts.LEFT, charts.RIGHT, charts.TOP, charts.BOTTOM, *charts.CURVE_SIZE]
    histogram = [charts.LEFT, charts.RIGHT, *charts.HISTOGRAM_SIZE]
    data = {**data, "gap": drawing.PANEL_GAP, "curve": curve, "histogram": histogram}
    page = templates().get_template(template)
    text = page.render(
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=Markup(script_json(data)),
        chart_style=Markup(charts.STYLE),
        **values,
    )
    write_bytes(file, text.encode("utf-8", "replace"))
    return file


def script_json(value: Any) -> str:
    """JSON that may stand inside a <script> element: no `<`, `>`, `&` or line separator is left in it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def url_of(path: Path, folder: Path) -> str:
    """The relative address of a file beside the report; an absolute file address where there is no relative
    one."""
    try:
        return quote(Path(os.path.relpath(path, folder)).as_posix())
    except ValueError:
        return path.resolve().as_uri()
