"""The page's routes: Flask in front of `Session`, for visitors on this machine alone."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import secrets
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    current_app,
    g,
    redirect,
    request,
    send_file,
    send_from_directory,
)
from werkzeug.exceptions import HTTPException

from data.region_of_interest import Shape
from fdsl.api import AnomalyDetector
from fdsl.report.pages import templates
from page.session import KINDS, Limits, Session
from utils.config import AUTO
from utils.errors import MEMORY_CURE, ConfigError, DataError, ModelError, is_out_of_memory
from utils.files import parsed_json

logger = logging.getLogger("fdsl")
MOST_SESSIONS = 32
WAITING = 16  # requests that wait for the detector at once; app.py has more threads than that
IDLE_SECONDS = 600  # a visitor who was quiet for so long makes room when there are too many
LEFT_SECONDS = 4 * 3600  # and after this time in any case when another one comes
MOST_SHAPES, MOST_CORNERS = 100, 1000  # of a region of interest, and of one of its shapes
LARGEST = 1e300  # JSON holds larger whole numbers, which are no float
BUSY = "many photographs wait for the detector; try again in a moment"
HOSTS = ("127.0.0.1", "localhost", "[::1]")
COOKIE = "fdsl"  # holds the token's digest
PAGE = Path(__file__).parent
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Visitors:
    """Sessions by their secret names. Where there are too many, one without uploads gives way, else the one
    that was quiet longest."""

    def __init__(self, make: Callable[[Path], Session], folder: Path) -> None:
        self._make, self._folder = make, folder
        self._sessions: OrderedDict[str, tuple[Session, float]] = OrderedDict()
        self._lock = threading.Lock()

    def new(self) -> str:
        """A new visitor's name; ConfigError where all places are taken by busy ones."""
        name, closed = secrets.token_urlsafe(16), []
        with self._lock:
            while self._sessions:
                oldest = next(iter(self._sessions))
                crowded = len(self._sessions) >= MOST_SESSIONS
                if crowded:
                    empty = (name for name, (session, _) in self._sessions.items() if session.is_empty)
                    oldest = next(empty, oldest)
                session, used = self._sessions[oldest]
                quiet = time.monotonic() - used
                if crowded and not session.is_empty and quiet < IDLE_SECONDS:
                    raise ConfigError(f"{MOST_SESSIONS} visitors are here already; try again later")
                if not crowded and quiet < LEFT_SECONDS:
                    break
                closed.append(session)
                del self._sessions[oldest]
            self._sessions[name] = self._make(self._folder / name), time.monotonic()
        for session in closed:
            session.close()
        return name

    def __getitem__(self, name: str) -> Session:
        """Raises KeyError for a name that is not here, or no longer."""
        with self._lock:
            session, _ = self._sessions[name]
            self._sessions[name] = session, time.monotonic()
            self._sessions.move_to_end(name)
            return session

    def __contains__(self, name: str) -> bool:
        with self._lock:
            return name in self._sessions

    def close(self, name: str) -> None:
        with self._lock:
            session, _ = self._sessions.pop(name)
        session.close()


sessions = Blueprint("sessions", __name__, url_prefix="/sessions/<name>")


def make_server(
    detector: AnomalyDetector,
    folder: Path,
    limits: Limits,
    facts: list[tuple[str, str]],
    rotations: int | str | None = None,
    token: str | None = None,
) -> Flask:
    """The WSGI application. Visitors get copies of `detector`; uploads go to `folder` and nowhere else.

    `facts` are on the page, `rotations` chosen on it at first (see Session). It answers requests that
    name this machine alone, or with a `token` those that bring it, and none that another site's page makes.
    """
    app = Flask("fdsl", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = limits.file_bytes
    visitors = Visitors(lambda place: Session(detector, place, limits, rotations), folder)
    app.extensions |= {"visitors": visitors, "turns": threading.BoundedSemaphore(WAITING)}
    page, style = _page(detector, limits, facts)
    proof = None if token is None else hashlib.sha256(token.encode()).hexdigest()

    @app.before_request
    def only_from_here() -> Response | None:
        site = request.headers.get("Sec-Fetch-Site", "none")
        origin = request.headers.get("Origin", request.host).rpartition("://")[2]  # a proxy may speak https
        elsewhere = site not in ("same-origin", "none") and request.path != "/"
        if origin != request.host or elsewhere:
            abort(403, "this page answers its own requests alone")
        if proof is not None:
            return _admitted(proof)
        if request.host.rsplit(":", 1)[0] not in HOSTS:
            abort(403, _from_elsewhere())
        return None

    @app.after_request
    def with_headers(response: Response) -> Response:
        response.headers.update(HEADERS)
        return response

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
    asked = _asked()
    rotations = asked.get("rotations", 1)
    if rotations != AUTO and not (type(rotations) is int and 1 <= rotations <= 36):
        raise ConfigError(f"rotations are 1 to 36 or {AUTO}")
    g.session.learn(rotations, _rate_in(asked), _shapes_in(asked))
    return g.session.state()


@sessions.post("/calibrate")
@in_turn
def calibrate() -> dict[str, Any]:
    g.session.calibrate(_rate_in(_asked()))
    return g.session.state()


@sessions.post("/photographs/<int:number>/score")
@in_turn
def score(number: int) -> dict[str, Any]:
    return g.session.score(number)


@sessions.post("/photographs/<int:number>/reference")
def take_as_reference(number: int) -> dict[str, Any]:
    return g.session.take_as_reference(number)


@sessions.put("/threshold")
@in_turn
def decide() -> dict[str, Any]:
    asked = _asked()
    given = {name: asked.get(name) for name in ("score", "rate")}
    if any(value is not None and not _is_number(value) for value in given.values()):
        raise ConfigError("a threshold is a number")
    return g.session.decide(**given)


@sessions.get("/results.zip")
@in_turn
def results() -> Response:
    return _file(g.session.results(), "fdsl-results.zip")


@sessions.get("/detector.safetensors")
@in_turn
def saved_detector() -> Response:
    return _file(g.session.saved_detector(), "detector.safetensors")


def _admitted(proof: str) -> Response | None:
    """Lets in who brings the token: in the address, which is left out of it from then on, or as a bearer's.
    403 for everybody else."""
    bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
    given = request.args.get("token", "") if request.path == "/" else ""
    proven = [hashlib.sha256(text.encode()).hexdigest() for text in (given, bearer)]
    if secrets.compare_digest(proven[0], proof):
        answer = redirect("/")
        answer.set_cookie(COOKIE, proof, httponly=True, samesite="Lax", secure=request.is_secure)
        return answer
    cookie = request.cookies.get(COOKIE, "").encode()
    if not (secrets.compare_digest(proven[1], proof) or secrets.compare_digest(cookie, proof.encode())):
        abort(403, "who opens this page has to know its secret: http://ADDRESS:PORT/?token=SECRET")
    return None


def _from_elsewhere() -> str:
    """The answer to somebody who comes from another machine, as a container's ports and proxies let him."""
    port = request.environ.get("SERVER_PORT", "PORT")
    here = f"127.0.0.1:{port}"
    return (
        f"this page answers this machine alone; come by ssh -L {port}:{here} USER@{socket.gethostname()} and "
        f"open http://{here}, or start app.py with --host ADDRESS --token SECRET"
    )


def _page(detector: AnomalyDetector, limits: Limits, facts: list[tuple[str, str]]) -> tuple[str, str]:
    environment = templates(PAGE)
    made = detector.scorer.detector
    values = {
        "untrained": detector.config.detector.backbone.untrained,
        "takes_references": not made.method.added_by,
        "compares": made.is_transductive and made.memories.whole is None,
        "mebibytes": math.ceil(limits.photographs * made.bytes_of_test_image / 2**20),
        "tiles": made.settings.tiles != 1,
    }
    page = environment.get_template("page.html.j2").render(facts=facts, limits=limits, **values)
    return page, environment.get_template("report.css.j2").render() + (PAGE / "page.css").read_text(
        encoding="utf-8"
    )


def _script(name: str) -> Response:
    return send_from_directory(PAGE / "scripts", name, mimetype="text/javascript")


def _rate_in(asked: dict[str, Any]) -> float:
    rate = asked.get("rate", 0.01)
    if not _is_number(rate) or not 0 < rate < 1:
        raise ConfigError("a target false-positive rate lies between 0 and 1")
    return float(rate)


def _shapes_in(asked: dict[str, Any]) -> tuple[Shape, ...]:
    """The shapes of the region of interest, as `Session.state` gives them; ConfigError for others."""
    given = asked.get("shapes", [])
    if not isinstance(given, list) or len(given) > MOST_SHAPES or not all(map(_is_shape, given)):
        raise ConfigError("a region of interest is a list of polygons with 3 or more corners from 0 to 1")
    return tuple(Shape(tuple((x, y) for x, y in one["points"]), one["ignored"]) for one in given)


def _is_shape(given: Any) -> bool:
    points = given.get("points") if isinstance(given, dict) else None
    if not isinstance(points, list) or not 3 <= len(points) <= MOST_CORNERS:
        return False
    numbers = all(
        isinstance(point, list) and len(point) == 2 and all(_is_number(x) and 0 <= x <= 1 for x in point)
        for point in points
    )
    return numbers and isinstance(given.get("ignored"), bool)


def _file(path: Path, name: str) -> Response:
    """The file as a download; it is gone when it has been sent."""
    file = open(path, "rb")
    with contextlib.suppress(OSError):  # Windows keeps it until the visitor leaves
        path.unlink()
    return send_file(file, mimetype="application/octet-stream", as_attachment=True, download_name=name)


def _asked() -> dict[str, Any]:
    try:
        asked = parsed_json(request.get_data())
    except ValueError:
        asked = None
    if not isinstance(asked, dict):
        raise ConfigError("the request is not a JSON object")
    return asked


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST


def _refusal(error: Exception) -> tuple[dict[str, str], int]:
    """One sentence with the cause; what nobody expected goes to the log."""
    if isinstance(error, HTTPException):
        sentences = {413: "the file is larger than this page takes", 404: "there is nothing here"}
        return {"error": sentences.get(error.code, error.description)}, error.code
    left = isinstance(error, OSError) and "name" in g and g.name not in current_app.extensions["visitors"]
    if isinstance(error, KeyError) or left:  # a visitor's files are gone when he has left meanwhile
        return {"error": "it is not here any more; load the page again"}, 404
    if isinstance(error, (DataError, ModelError, ConfigError)):
        return {"error": str(error)}, 422
    if is_out_of_memory(error):
        return {"error": f"there is not enough memory; {MEMORY_CURE}"}, 507
    logger.error("the page could not answer %s %s", request.method, request.path, exc_info=error)
    sentence = f"that failed ({type(error).__name__}); the window that runs app.py has the details"
    return {"error": sentence}, 500
