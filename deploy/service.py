"""The command line of deploy/serve.py, and the service's routes and limits."""

from __future__ import annotations

import argparse
import contextlib
import hmac
import http.client
import ipaddress
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from deploy.command import MEMORY_CURE, add_graph_flags, facts_of, graph_of, require_packages
from utils import signals
from utils.arguments import whole
from utils.command import run_command, unexpected
from utils.command_line import CommandLine
from utils.errors import ConfigError, DataError
from utils.log import warn
from utils.score_rows import row_of
from utils.text import as_key, one_line, printable

if TYPE_CHECKING:
    from deploy.graph import Graph
    from deploy.journal import Journal

logger = logging.getLogger("fdsl")
HOST, PORT = "127.0.0.1", 8000
HERE = ("127.0.0.1", "localhost", "[::1]")
SHORTEST_TOKEN = 16
TOKEN = "FDSL_TOKEN"  # the variable that may hold it, so that no list of processes shows it
QUEUE = 16  # photographs that are in work or wait at once
MOST_CONNECTIONS = 64
MOST_MIB = 64  # of a photograph's file
QUIET = 15.0  # seconds that a connection may be silent,
BODY_SECONDS = 60.0  # and that a body may take
PIECE = 2**16
MOST_DRAINED = 2**23  # bytes of a body that is refused, so that its sender reads the answer
LAST_SECONDS = 10.0  # for the photographs in work, once it is asked to end
LONGEST_NAME = 1000  # characters of ?name=
MADE_BY = "deploy/serve.py"
HELP = """Answers over HTTP what a detector of export.py finds in photographs.

    python deploy/serve.py part.onnx --port 8000
    curl --data-binary @part.png 'http://127.0.0.1:8000/inspect?name=part.png'           # the row, as JSON
    curl --data-binary @part.png 'http://127.0.0.1:8000/inspect?map=png' -o map.png      # the heat map
    curl http://127.0.0.1:8000/health

A row is that of deploy/inspect.py. Ctrl-C (130) and SIGTERM (143) end it when the photographs in work have
their answers, after 10 seconds at most; 2 on an error."""


BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Refusal(Exception):
    """An answer other than 200: its status and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Service:
    """A detector, one photograph at a time; others wait, `queue` in all. `journal` keeps the rows; None:
    nobody does. counts: of answers since the start.

    One thread looks at all photographs: an allocator keeps what each thread has freed for that thread, and
    every connection is one.
    """

    def __init__(self, graph: Graph, queue: int, journal: Journal | None = None) -> None:
        from utils.drift import Drift

        self.graph, self.journal = graph, journal
        self.drift = Drift(graph.statistics)
        for row in () if journal is None else journal.rows():
            self.drift.follow(row)
        self.queue = queue
        self._places = threading.BoundedSemaphore(queue)
        self._one_by_one, self._counting = ThreadPoolExecutor(1, "photographs"), threading.Lock()
        self.ending, self.inside, self.counts = (
            threading.Event(),
            0,
            {"inspected": 0, "anomalous": 0, "refused": 0, "busy": 0},
        )
        self._begun = time.monotonic()

    def count(self, what: str) -> None:
        with self._counting:
            self.counts[what] += 1

    @contextlib.contextmanager
    def place(self):
        """A place among those that wait; Refusal (503) where all are taken, or it ends."""
        if not self._places.acquire(blocking=False):
            self.count("busy")
            raise Refusal(503, f"{self.queue} photographs are in work or wait already; try again in a second")
        with self._counting:
            self.inside += 1
        try:
            if self.ending.is_set():
                raise Refusal(503, "it is ending; try again when it has started anew")
            yield
        finally:
            with self._counting:
                self.inside -= 1
            self._places.release()

    def inspect(self, content: bytes, name: str, with_map: bool) -> tuple[dict[str, Any], bytes]:
        """A photograph's file -> its row and, `with_map`, its heat map as a PNG file. DataError for what is
        no photograph, ConfigError where the row cannot be written."""
        return self._one_by_one.submit(self._inspect, content, name, with_map).result()

    def _inspect(self, content: bytes, name: str, with_map: bool) -> tuple[dict[str, Any], bytes]:
        from data.images import open_image
        from deploy.pictures import draw, encoded
        from utils.archives import held_in_memory

        with held_in_memory([("photograph", content)]) as (file,):
            try:
                photo = open_image(file, self.graph.grey)
            except DataError as error:
                raise DataError(str(error).removeprefix(f"{printable(file)}: ")) from error
            result = self.graph.look_at(photo, name)
            row = row_of(name, result)
            warn(self.drift.follow(row))
            if self.journal is not None:
                try:
                    self.journal.add(row)
                except OSError as error:
                    logger.error("error: %s: %s", self.journal.folder, error.strerror)
                    raise ConfigError(f"the row could not be written ({error.strerror})") from error
            picture = b""
            if with_map:
                drawn = draw(photo, result, self.graph.heat_scale, self.graph.pixel_threshold)
                picture = encoded(drawn, "PNG")
        self.count("inspected")
        if result.is_anomalous:
            self.count("anomalous")
        return row, picture

    def health(self) -> dict[str, Any]:
        return {
            "status": "ok",
            "detector": self.graph.file.name,
            "threshold": self.graph.threshold,
            "seconds": round(time.monotonic() - self._begun, 1),
            "waiting": self.inside,
            "queue": self.queue,
            "drift": sorted(self.drift.changes),
            **self.counts,
        }


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
        if isinstance(error, Exception) and not isinstance(
            error, OSError
        ):  # OSError: who asked has gone away
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

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Of requests that http.server does not understand."""
        self.close_connection = True
        self._send(code, {"error": printable(message or http.client.responses.get(code, "no request"))})

    def handle_expect_100(self) -> bool:
        """A body is asked for when there is a place for it."""
        return True

    def _answered(self, method: str) -> None:
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
        except DataError as error:
            self._refuse(422, str(error))
        except MemoryError:
            self._refuse(503, "there is not enough memory for it; try again, or send a smaller photograph")
        except ConfigError as error:
            self._refuse(500, str(error))
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
            host = self.headers.get("Host", HERE[0]).rsplit(":", 1)[0]
            if host not in HERE or "Origin" in self.headers:
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
            row, picture = service.inspect(self._body(length), name, bool(kind))
            if kind:
                self._send_bytes(200, picture, "image/png", {"X-Row": json.dumps(row)})
            else:
                self._send(200, row)

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

    def _send(self, status: int, value: dict[str, Any]) -> None:
        more = {"Retry-After": "1"} if status == 503 else {}
        self._send_bytes(status, (json.dumps(value) + "\n").encode(), "application/json", more)

    def _send_bytes(self, status: int, content: bytes, kind: str, more: dict[str, str]) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Cache-Control": "no-store",
            **more,
        }
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def command() -> None:
    """The command line of deploy/serve.py."""
    run_command(main, MEMORY_CURE)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    require_packages()
    from deploy.journal import Journal
    from utils.lock import locked

    graph = graph_of(args)
    if args.output is None:
        return serve(Service(graph, args.queue), args)
    with locked(args.output / ".lock", printable(args.output), "name another folder with --output"):
        journal = Journal(args.output, facts_of(graph), MADE_BY)
        return serve(Service(graph, args.queue, journal), args)


def serve(service: Service, args: argparse.Namespace) -> int:
    """Answers until Ctrl-C or SIGTERM, and then what is in work."""
    signals.how_to_continue("the same command goes on")
    try:
        server = Server((args.host, args.port), service, args.token, args.max_upload * 2**20)
    except OSError as error:
        raise ConfigError(
            f"--host {args.host} --port {args.port} cannot be had ({error.strerror}); name another."
        ) from error
    threading.Thread(target=server.serve_forever, name="answers", daemon=True).start()
    host = f"[{args.host}]" if ":" in args.host else args.host
    port = server.server_address[1]
    logger.info("POST photographs to http://%s:%d/inspect; Ctrl-C ends it", host, port)
    with signals.gently(service.ending, "Ending when the photographs in work have their answers"):
        service.ending.wait()
        end = time.monotonic() + LAST_SECONDS
        server.shutdown()
        server.server_close()
        while service.inside and time.monotonic() < end:
            time.sleep(0.05)
    if service.inside:
        logger.warning("%d photograph(s) had no answer within %g s", service.inside, LAST_SECONDS)
    elif service.journal is not None:
        service.journal.close()
    signals.leave_as_asked()
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads and checks the command line."""
    parser = CommandLine(HELP, "deploy/serve.py", settings=True)
    parser.add_argument("detector", type=Path, metavar="FILE.onnx", help="what export.py wrote")
    parser.add_argument(
        "--port", type=int, choices=range(65536), default=PORT, metavar="N", help="0: any that is free (8000)"
    )
    parser.add_argument(
        "--host",
        default=HOST,
        metavar="ADDRESS",
        help=f"where it listens, in digits; another than this machine's own needs --token (default {HOST})",
    )
    parser.add_argument(
        "--token",
        metavar="SECRET",
        help=f"who asks has to send Authorization: Bearer SECRET; {SHORTEST_TOKEN} characters or more, also "
        f"from the variable {TOKEN}",
    )
    parser.add_argument(
        "--queue",
        type=whole(1),
        default=QUEUE,
        metavar="N",
        help=f"photographs in work or waiting at once; 503 beyond it (default {QUEUE})",
    )
    parser.add_argument(
        "--max-upload",
        type=whole(1),
        default=MOST_MIB,
        metavar="MIB",
        help=f"largest photograph's file (default {MOST_MIB})",
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="keep the rows too, as deploy/inspect.py --watch does"
    )
    add_graph_flags(parser)
    args = parser.parse_args(argv)
    args.token = os.environ.get(TOKEN) if args.token is None else args.token
    try:
        is_here = ipaddress.ip_address(args.host).is_loopback
    except ValueError:
        parser.error(f"--host {args.host} is no address in digits; 0.0.0.0 are all of this machine")
    if args.token is None and not is_here:
        parser.error(f"--host {args.host} lets other machines in: give --token SECRET too")
    if args.token is not None and (len(args.token) < SHORTEST_TOKEN or not args.token.isascii()):
        parser.error(f"--token needs at least {SHORTEST_TOKEN} letters, digits and signs of ASCII")
    parser.save_settings(args)
    return args
