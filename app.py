"""A page to try a detector on your own photographs, for this machine alone, or for all who know a secret.

    pip install -r requirements-app.txt
    python app.py                                   # then open the address that it prints
    python app.py --detector part.safetensors       # what predict.py --save-detector wrote

    python app.py --host 0.0.0.0 --token SECRET     # in a container, or for other machines

It listens on 127.0.0.1 unless --host gives another address, which needs --token. Uploads lie in a temporary
folder and are gone when the page is closed (Ctrl-C).
"""

from __future__ import annotations

if __name__ in ("__main__", "fdsl_commands.app"):  # before torch is imported: Ctrl-C is answered at once
    from utils import signals

    signals.answer(at_once=True)

import argparse
import ipaddress
import logging
import socket
import threading
from dataclasses import replace
from typing import NoReturn

from fdsl.api import AnomalyDetector
from fdsl.flags.arguments import CommandLine, whole
from fdsl.flags.detector_from_flags import fit_from_flags, load_or_make
from fdsl.flags.predict_flags import add_detector_flags, saved_detector_problem
from fdsl.flags.preset_flag import take_preset
from fdsl.report.prediction_report import detector_facts
from utils.command import run_command
from utils.errors import ConfigError, DataError, ModelError
from utils.signals import before_leaving, how_to_continue

logger = logging.getLogger("fdsl")
HOST = "127.0.0.1"
SHORTEST_TOKEN = 16  # characters
PORT = 7860
THREADS = 24  # more than page.server.WAITING: those who wait for the detector leave some for the pages
IDLE_SECONDS = 15  # a connection on which nothing is asked for so long is closed
MOST_CONNECTIONS = 1000  # at once, fewer where the system opens fewer files
MEBIBYTE = 2**20


def main(argv: list[str] | None = None) -> NoReturn:
    args = parse(argv)
    try:
        import flask  # noqa: F401
        import waitress
    except ImportError as error:
        raise ConfigError(f"The page needs {error.name}: pip install -r requirements-app.txt") from error
    from page.server import make_server
    from page.session import MOST_COMPARED, Limits
    from page.uploads import remove, scratch_folder

    detector = load_or_make(args)
    detector.max_pixels = args.max_pixels
    compares = detector.scorer.detector.looks_at_inspected and not args.detector
    if args.references and compares:
        raise ConfigError(
            "The page compares the photographs that are dropped on it, and with --with-batch the references "
            "are dropped there too: leave --references out."
        )
    if args.references:
        fit_from_flags(detector, args)
    limits = Limits(args.max_upload * MEBIBYTE, args.max_pixels)
    if compares:
        limits = replace(limits, photographs=MOST_COMPARED)
    with scratch_folder() as folder:
        before_leaving(lambda: remove(folder))
        how_to_continue("the page is closed and what was uploaded is gone; the same command opens it again")
        try:
            server = waitress.create_server(
                make_server(
                    detector, folder, limits, shown_facts(detector), args.rotate_references, args.token
                ),
                host=args.address,
                port=args.port,
                threads=THREADS,
                connection_limit=_connections(),
                channel_timeout=IDLE_SECONDS,
                cleanup_interval=5,
                asyncore_use_poll=True,
                ident=None,
                max_request_body_size=limits.file_bytes + MEBIBYTE,
            )
        except OSError as error:
            raise ConfigError(
                f"--host {args.host} --port {args.port} cannot be had ({error.strerror}); name another, or "
                "port 0 for any."
            ) from error
        logger.info("open %s in your browser; Ctrl-C closes it", shown_address(args, server.effective_port))
        serving = threading.Thread(target=server.run, name="server", daemon=True)
        serving.start()
        while serving.is_alive():  # Ctrl-C reaches this thread, not the server's
            serving.join(1)
    raise ConfigError("The server stopped; the lines above say why.")


def shown_address(args: argparse.Namespace, port: int) -> str:
    """Where a browser finds the page; the secret is not repeated."""
    anywhere = ipaddress.ip_address(args.address).is_unspecified
    host = socket.gethostname() if anywhere else f"[{args.address}]" if ":" in args.address else args.address
    return f"http://{host}:{port}" + ("/?token=..., with your secret," if args.token else "")


def address_of(host: str) -> str:
    """A host's address, in digits; ConfigError for one that has none."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--host {host} is no address of this machine; give 0.0.0.0 for all.") from error


def _connections() -> int:
    """How many connections may be open at once, half of the files that this process may open."""
    try:
        import resource
    except ImportError:  # Windows
        return MOST_CONNECTIONS
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_CONNECTIONS if files == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, files // 2)


def shown_facts(detector: AnomalyDetector) -> list[tuple[str, str]]:
    """The detector's facts on the page, which do not change while it is open."""
    facts = detector_facts(detector.config)
    return [(name, value) for name, value in facts if name not in ("References", "Precision")]


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Reads and checks the command line."""
    parser = CommandLine(__doc__)
    page = parser.add_argument_group("page")
    page.add_argument(
        "--port", type=whole(0, 65535), default=PORT, help=f"default {PORT}; 0: any that is free"
    )
    page.add_argument(
        "--host",
        default=HOST,
        metavar="ADDRESS",
        help=f"where it listens, 0.0.0.0 for all addresses of this machine; needs --token (default {HOST})",
    )
    page.add_argument(
        "--token",
        metavar="SECRET",
        help="who opens the page has to know it: http://ADDRESS:PORT/?token=SECRET; "
        f"at least {SHORTEST_TOKEN} characters",
    )
    page.add_argument(
        "--max-upload", type=whole(1, 4096), default=64, metavar="MIB", help="largest file (default 64 MiB)"
    )
    add_detector_flags(parser)
    args = parser.parse_args(argv)
    if problem := saved_detector_problem(args):
        parser.error(problem)
    args.address = address_of(args.host)
    if args.token is None and not ipaddress.ip_address(args.address).is_loopback:
        parser.error(
            f"--host {args.host} lets other machines in: also give --token SECRET, or leave it out and "
            f"come by ssh -L {args.port}:{HOST}:{args.port} USER@{socket.gethostname()}"
        )
    if args.token is not None and (len(args.token) < SHORTEST_TOKEN or not args.token.isascii()):
        parser.error(f"--token needs at least {SHORTEST_TOKEN} letters, digits and signs of ASCII")
    take_preset(args)
    args.false_alarm_rate = args.threshold = args.threshold_from = None  # chosen on the page
    return args


def command() -> None:
    """The command line of app.py and of fdsl-app."""
    run_command(main, (DataError, ModelError, ConfigError))


if __name__ == "__main__":
    command()
