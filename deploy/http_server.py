"""The service over HTTP: its connections, its routes, and what of a request is refused."""

from __future__ import annotations

import contextlib
import hmac
import http.client
import ipaddress
import json
import logging
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from deploy.service import Refusal, Service
from utils.command import unexpected
from utils.errors import ConfigError, DataError
from utils.text import as_key, is_own_host, one_line, printable

logger = logging.getLogger("fdsl")
MOST_CONNECTIONS = 64
QUIET = 15.0  # seconds that a connection may be silent,
HEAD_SECONDS, BODY_SECONDS = 30.0, 60.0  # and that the head of a request and a body may take
PIECE = 2**16
MOST_DRAINED = 2**23  # bytes of a body that is refused, so that its sender reads the answer
LONGEST_NAME = 1000  # characters of ?name=
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Server(ThreadingHTTPServer):
    """Connections in a thread each, MOST_CONNECTIONS at once; a further one is refused. `token`: who
    asks has to know it; None: this machine alone is answered."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], service: Service, token: str | None, most_bytes: int
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.service, self.token, self.most_bytes = service, token, most_bytes
        self._connections = threading.BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__(address, Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._connections.acquire(blocking=False):
            self.service.count("busy")
            with contextlib.suppress(OSError):
                request.settimeout(1)
                request.sendall(BUSY)
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        is_gone = isinstance(error, OSError)  # who asked
        if isinstance(error, Exception) and not is_gone:
            logger.error("error: %s", unexpected(error))


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "fdsl", ""
    timeout = QUIET

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: rows are the log."""

    def do_GET(self) -> None:
        self._answered("GET")

    def do_POST(self) -> None:
        self._answered("POST")

    def handle_one_request(self) -> None:
        """As http.server's, but the connection ends where the head takes too long, however it trickles in."""
        self._head = threading.Timer(HEAD_SECONDS, self._end)
        self._head.daemon = True
        self._head.start()
        try:
            super().handle_one_request()
        finally:
            self._head.cancel()

    def _end(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Of requests that http.server does not understand."""
        self.close_connection = True
        self._send(code, {"error": printable(message or http.client.responses.get(code, "no request"))})

    def handle_expect_100(self) -> bool:
        """A body is asked for when there is a place for it."""
        return True

    def _answered(self, method: str) -> None:
        self._head.cancel()
        try:
            self._admit()
            try:
                place = urlsplit(self.path)
            except ValueError as error:
                raise Refusal(400, f"the address is none ({one_line(error)})") from error
            route = {"/health": ("GET", self._health), "/inspect": ("POST", self._inspect)}.get(place.path)
            if route is None or route[0] != method:
                status = 404 if route is None else 405
                raise Refusal(status, "ask GET /health, or POST a photograph to /inspect")
            route[1](parse_qs(place.query))
        except Refusal as refused:
            self._refuse(refused.status, str(refused))
        except (DataError, ConfigError) as error:
            self._refuse(422 if isinstance(error, DataError) else 500, str(error))
        except MemoryError:
            self._refuse(503, "there is not enough memory for it; try again, or send a smaller photograph")
        except TimeoutError:
            self.server.service.count("refused")
            self.close_connection = True

    def _refuse(self, status: int, sentence: str) -> None:
        """Answers, and then reads on for a moment: who still sends would lose the answer with the
        connection."""
        if status != 503:
            self.server.service.count("refused")
        self.close_connection = True  # its body may not have been read
        self._send(status, {"error": sentence})
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(1)
            for _ in range(MOST_DRAINED // PIECE):
                if not self.rfile.read1(PIECE):
                    break

    def _admit(self) -> None:
        """Refusal for who does not bring the token, or without one comes by another name of this machine, as
        pages of other sites do."""
        token = self.server.token
        if token is None:
            if not is_own_host(self.headers.get("Host", "localhost")) or "Origin" in self.headers:
                raise Refusal(403, "this answers programs of this machine alone; start it with --token")
            return
        if self.path == "/health" and ipaddress.ip_address(self.client_address[0]).is_loopback:
            return  # a container's own check
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode()):
            raise Refusal(401, "send the header Authorization: Bearer TOKEN")

    def _health(self, _asked: dict[str, list[str]]) -> None:
        self._send(200, self.server.service.health())

    def _inspect(self, asked: dict[str, list[str]]) -> None:
        """?name=: what the row calls the photograph; ?map=png: its heat map, with the row in a header."""
        service, name = self.server.service, as_key(asked.get("name", ["photograph"])[0][:LONGEST_NAME])
        kind = asked.get("map", [""])[0]
        if kind not in ("", "png"):
            raise Refusal(400, "map is png, or is left out")
        length = self._length()
        with service.place():
            self._send(200, *service.inspect(self._body(length), name, with_map=bool(kind)))

    def _length(self) -> int:
        """Of the body in bytes; Refusal where it is not given, or too much."""
        kind = self.headers.get_content_type()
        if kind.startswith("multipart/"):
            raise Refusal(415, "send the photograph's file as the body: curl --data-binary @FILE")
        (given, *more) = self.headers.get_all("Content-Length", [""])
        if more or "Transfer-Encoding" in self.headers or not (given.isascii() and given.isdigit()):
            raise Refusal(411, "send the header Content-Length once, and no Transfer-Encoding")
        if len(given) > 15 or int(given) > self.server.most_bytes:
            raise Refusal(413, f"a photograph's file may have {self.server.most_bytes} bytes (--max-upload)")
        if int(given) == 0:
            raise Refusal(400, "the body is empty; send the photograph's file: curl --data-binary @FILE")
        return int(given)

    def _body(self, length: int) -> bytes:
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        pieces, left, end = [], length, time.monotonic() + BODY_SECONDS
        while left:
            piece = self.rfile.read1(min(PIECE, left))
            if not piece:
                raise Refusal(400, f"the body ended {left} bytes early")
            if time.monotonic() > end:
                raise Refusal(408, f"the body took longer than {BODY_SECONDS:g} s")
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def _send(self, status: int, value: dict[str, Any], picture: bytes = b"") -> None:
        """Answers a value as JSON, or a picture with the value in a header."""
        content = picture or (json.dumps(value) + "\n").encode()
        headers = {
            "Content-Type": "image/png" if picture else "application/json",
            "Content-Length": str(len(content)),
            "Cache-Control": "no-store",
            **({"X-Row": json.dumps(value)} if picture else {}),
            **({"Retry-After": "1"} if status == 503 else {}),
            **({"Connection": "close"} if self.close_connection else {}),
        }
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(content)
