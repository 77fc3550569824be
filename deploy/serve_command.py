"""The command line of deploy/serve.py."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.detector_flags import (
    MEMORY_CURE,
    alone_in,
    detector_command_line,
    facts_of,
    graph_of,
    require_packages,
)
from utils import signals
from utils.command import run_command
from utils.command_line import SHORTEST_TOKEN, token, whole
from utils.errors import ConfigError

if TYPE_CHECKING:
    from deploy.service import Service

logger = logging.getLogger("fdsl")
HOST, PORT = "127.0.0.1", 8000
TOKEN = "FDSL_TOKEN"  # the variable that may hold it, so that no list of processes shows it
QUEUE = 16  # photographs that are in work or wait at once
MOST_MIB = 64  # of a photograph's file
LAST_SECONDS = 10.0  # for the photographs in work, once it is asked to end
MADE_BY = "deploy/serve.py"
HELP = """Answers over HTTP what a detector of export.py predicts for photographs.

    python deploy/serve.py part.onnx --port 8000
    curl --data-binary @part.png 'http://127.0.0.1:8000/inspect?name=part.png'           # the row, as JSON
    curl --data-binary @part.png 'http://127.0.0.1:8000/inspect?map=png' -o map.png      # the heat map
    curl http://127.0.0.1:8000/health

A row is that of deploy/inspect.py. Ctrl-C (130) and SIGTERM (143) end it when the photographs in work have
their answers, after 10 seconds at most; 2 on an error."""


def command() -> None:
    """The command line of deploy/serve.py."""
    run_command(main, MEMORY_CURE)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    require_packages()
    from deploy.row_journal import Journal
    from deploy.service import Service

    graph = graph_of(args)
    with alone_in(args.output):
        journal = None if args.output is None else Journal(args.output, facts_of(graph), MADE_BY)
        serve(Service(graph, args.queue, journal), args.host, args.port, args.token, args.max_upload * 2**20)
    signals.leave_as_asked()
    return 0


def serve(service: Service, host: str, port: int, secret: str | None, most_bytes: int) -> None:
    """Answers until Ctrl-C or SIGTERM, and then what is in work. ConfigError where the address cannot be
    had."""
    from deploy.http_server import Server

    signals.how_to_continue("the same command goes on")
    try:
        server = Server((host, port), service, secret, most_bytes)
    except OSError as error:
        raise ConfigError(
            f"--host {host} --port {port} cannot be had ({error.strerror}); name another."
        ) from error
    threading.Thread(target=server.serve_forever, name="answers", daemon=True).start()
    address = f"[{host}]" if ":" in host else host
    logger.info("POST photographs to http://%s:%d/inspect; Ctrl-C ends it", address, server.server_address[1])
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


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads and checks the command line."""
    parser = detector_command_line(HELP, "deploy/serve.py")
    parser.add_argument(
        "--port", type=whole(0, 65535), default=PORT, metavar="N", help="0: any that is free (8000)"
    )
    parser.add_argument(
        "--host",
        default=HOST,
        metavar="ADDRESS",
        help=f"where it listens, in digits; another than this machine's own needs --token (default {HOST})",
    )
    parser.add_argument(
        "--token",
        type=token,
        default=os.environ.get(TOKEN),
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
        "--output", type=Path, metavar="DIR", help="store the rows too, as deploy/inspect.py --watch does"
    )
    args = parser.parse_args(argv)
    try:
        is_here = ipaddress.ip_address(args.host).is_loopback
    except ValueError:
        parser.error(f"--host {args.host} is no address in digits; 0.0.0.0 are all of this machine")
    if args.token is None and not is_here:
        parser.error(f"--host {args.host} lets other machines in: give --token SECRET too")
    parser.save_settings(args)
    return args
