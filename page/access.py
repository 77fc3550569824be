"""Who may ask the page: this machine alone, or with a token those that bring it, and no other site's page."""

from __future__ import annotations

import hashlib
import secrets
import socket

from flask import Flask, abort, redirect, request
from werkzeug.wrappers import Response

from utils.text import is_own_host

COOKIE = "fdsl"  # holds the token's digest
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def guard(app: Flask, token: str | None) -> None:
    """From now on the application answers 403 to all others, and no browser runs, frames or stores what it
    should not."""
    digest = None if token is None else _digest(token)

    @app.before_request
    def admit() -> Response | None:
        site = request.headers.get("Sec-Fetch-Site", "none")
        origin = request.headers.get("Origin", request.host).rpartition("://")[2]  # a proxy may speak https
        is_foreign = site not in ("same-origin", "none") and request.path != "/"
        if origin != request.host or is_foreign:
            abort(403, "this page answers its own requests alone")
        if digest is not None:
            return _with_token(digest)
        if not is_own_host(request.host):
            abort(403, _from_elsewhere())
        return None

    @app.after_request
    def with_headers(response: Response) -> Response:
        response.headers.update(HEADERS)
        return response


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _with_token(digest: str) -> Response | None:
    """Lets in who brings the token: in the address, which is left out of it from then on, or as a bearer's.
    403 for everybody else."""
    bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
    given = request.args.get("token", "") if request.path == "/" else ""
    if secrets.compare_digest(_digest(given), digest):
        answer = redirect("/")
        answer.set_cookie(COOKIE, digest, httponly=True, samesite="Lax", secure=request.is_secure)
        return answer
    cookie = request.cookies.get(COOKIE, "").encode()
    has_cookie = secrets.compare_digest(cookie, digest.encode())
    if not (has_cookie or secrets.compare_digest(_digest(bearer), digest)):
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
