"""The page's routes: Flask in front of `Session`, for visitors on this machine alone."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from flask import Blueprint, Flask, Response, current_app, g, request, send_file, send_from_directory
from werkzeug.exceptions import HTTPException

from fdsl.api import AnomalyDetector
from fdsl.config.describe import detector_facts
from fdsl.report.pages import templates
from page.access import guard
from page.asked import asked, rate_in, rotations_in, score_in, shapes_in
from page.collection import KINDS, Limits
from page.fit import Fit
from page.session import Session
from page.visitors import Visitors
from utils.errors import MEMORY_CURE, ConfigError, DataError, ModelError, is_out_of_memory

logger = logging.getLogger("fdsl")
WAITING = 16  # requests that wait for the detector at once; app.py has more threads than that
BUSY = "many photographs wait for the detector; try again in a moment"
SENTENCES = {413: "the file is larger than this page takes", 404: "there is nothing here"}
PAGE = Path(__file__).parent

sessions = Blueprint("sessions", __name__, url_prefix="/sessions/<name>")


def make_server(
    detector: AnomalyDetector,
    folder: Path,
    limits: Limits,
    rotations: int | str | None = None,
    token: str | None = None,
) -> Flask:
    """The WSGI application. Visitors get copies of `detector`; uploads go to `folder` and nowhere else.

    `rotations`: chosen at first (see Session). It answers requests that name this machine alone, or with a
    `token` those that bring it, and none that another site's page makes.
    """
    app = Flask("fdsl", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = limits.file_bytes
    visitors = Visitors(lambda place: Session(detector, place, limits, rotations), folder)
    app.extensions |= {"visitors": visitors, "turns": threading.BoundedSemaphore(WAITING)}
    page, style = _page(detector, limits)
    guard(app, token)
    app.get("/")(lambda: Response(page, mimetype="text/html"))
    app.get("/scripts/<name>", endpoint="script")(_script)
    app.get("/page.css", endpoint="css")(lambda: Response(style, mimetype="text/css"))
    app.post("/sessions", endpoint="new")(lambda: {"name": visitors.new()})
    app.register_error_handler(Exception, _refusal)
    app.register_blueprint(sessions)
    return app


def in_turn(view: Callable[..., Any]) -> Callable[..., Any]:
    """The view where few others wait for the detector: those who wait leave threads for the pages."""

    @wraps(view)
    def waiting(**given: Any) -> Any:
        turns = current_app.extensions["turns"]
        if not turns.acquire(blocking=False):
            return {"error": BUSY}, 503, {"Retry-After": "1"}
        try:
            return view(**given)
        finally:
            turns.release()

    return waiting


@sessions.before_request
def find_session() -> None:
    assert request.view_args is not None
    g.name = request.view_args.pop("name")
    g.session = current_app.extensions["visitors"][g.name]


@sessions.teardown_request
def leave_nothing(_: BaseException | None) -> None:
    """Removes what was written for a visitor after they had left."""
    if _has_left():
        g.session.close()


@sessions.get("/progress")
def show_progress() -> dict[str, str]:
    return {"progress": g.session.progress}


@sessions.get("")
def state() -> dict[str, Any]:
    return g.session.state()


@sessions.delete("")
def leave() -> dict[str, Any]:
    current_app.extensions["visitors"].close(g.name)
    return {"done": True}


@sessions.post(f"/<any({', '.join(KINDS)}):kind>")
def upload(kind: str) -> dict[str, Any]:
    return g.session.add(kind, request.get_data(cache=False), request.args.get("name", ""))


@sessions.delete("/uploads/<int:number>")
@in_turn
def remove(number: int) -> dict[str, Any]:
    g.session.remove(number)
    return g.session.state()


@sessions.get("/uploads/<int:number>/<any(photo, heat):kind>.jpg")
def picture(number: int, kind: str) -> Response:
    return Response(g.session.picture(number, kind), mimetype="image/jpeg")


@sessions.post("/learn")
@in_turn
def learn() -> dict[str, Any]:
    values = asked()
    g.session.learn(rotations_in(values), rate_in(values), shapes_in(values))
    return g.session.state()


@sessions.post("/calibrate")
@in_turn
def calibrate() -> dict[str, Any]:
    g.session.calibrate(rate_in(asked()))
    return g.session.state()


@sessions.post("/photographs/<int:number>/score")
@in_turn
def score(number: int) -> dict[str, Any]:
    return g.session.score(number)


@sessions.post("/photographs/<int:number>/reference")
def take_as_reference(number: int) -> dict[str, Any]:
    g.session.uploads.take_as_reference(number)
    return g.session.state()


@sessions.put("/threshold")
@in_turn
def decide() -> dict[str, Any]:
    values = asked()
    if "rate" in values:
        g.session.set_rate(rate_in(values))
    else:
        g.session.set_threshold(score_in(values))
    return g.session.state()


@sessions.get("/results.zip")
@in_turn
def results() -> Response:
    return _file(g.session.results(), "fdsl-results.zip")


@sessions.get("/detector.safetensors")
@in_turn
def saved_detector() -> Response:
    return _file(g.session.saved_detector(), "detector.safetensors")


def _page(detector: AnomalyDetector, limits: Limits) -> tuple[str, str]:
    """The page, with the detector's facts that do not change while it is open, and its style."""
    environment = templates(PAGE)
    made, fit = detector.scorer.detector, Fit.of(detector, 1)
    facts = [fact for fact in detector_facts(detector.config) if fact[0] not in ("References", "Precision")]
    values = {
        "untrained": detector.config.detector.backbone.untrained,
        "takes_references": fit.takes_references,
        "compares": fit.compares,
        "mebibytes": math.ceil(limits.photographs * made.bytes_of_test_image / 2**20),
        "tiles": made.settings.tiles != 1,
    }
    page = environment.get_template("page.html.j2").render(facts=facts, limits=limits, **values)
    return page, environment.get_template("report.css.j2").render() + (PAGE / "page.css").read_text(
        encoding="utf-8"
    )


def _script(name: str) -> Response:
    return send_from_directory(PAGE / "scripts", name, mimetype="text/javascript")


def _file(path: Path, name: str) -> Response:
    """The file as a download; it is gone when it has been sent."""
    file = open(path, "rb")
    with contextlib.suppress(OSError):  # Windows keeps it until the visitor leaves
        path.unlink()
    return send_file(file, mimetype="application/octet-stream", as_attachment=True, download_name=name)


def _has_left() -> bool:
    """Whether the visitor whose request this is has left meanwhile."""
    return "session" in g and g.name not in current_app.extensions["visitors"]


def _refusal(error: Exception) -> tuple[dict[str, str], int]:
    """One sentence with the cause; what nobody expected goes to the log."""
    if isinstance(error, HTTPException):
        code = error.code or 500
        return {"error": SENTENCES.get(code) or error.description or error.name}, code
    gone = isinstance(error, (OSError, DataError)) and _has_left()  # the files are gone too
    if isinstance(error, KeyError) or gone:
        return {"error": "it is not here any more; load the page again"}, 404
    if isinstance(error, (DataError, ModelError, ConfigError)):
        return {"error": str(error)}, 422
    if is_out_of_memory(error):
        return {"error": f"there is not enough memory; {MEMORY_CURE}"}, 507
    logger.error("the page could not answer %s %s", request.method, request.path, exc_info=error)
    sentence = f"that failed ({type(error).__name__}); the window that runs app.py has the details"
    return {"error": sentence}, 500
