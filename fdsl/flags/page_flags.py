"""app.py's flags."""

from __future__ import annotations

import argparse
import ipaddress
import socket

from fdsl.config.contradictions import OF_SAVED
from fdsl.flags.groups import take_preset
from fdsl.flags.predict_flags import add_detector_flags, contradiction
from utils.arguments import SHORTEST_TOKEN, token, whole
from utils.command_line import CommandLine
from utils.errors import ConfigError

HOST = "127.0.0.1"
PORT = 7860

COMMON = (  # what --help shows
    *("detector", "references", "add-references", "preset", "port", "host", "token", "device"),
)


def parse(argv: list[str] | None, description: str) -> argparse.Namespace:
    """Reads and checks the command line."""
    parser = CommandLine(description, common=COMMON)
    page = parser.add_argument_group("page")
    page.add_argument(
        "--port", type=whole(0, 65535), default=PORT, help=f"default {PORT}; 0: any that is free"
    )
    page.add_argument(
        "--host",
        default=HOST,
        metavar="ADDRESS",
        help="where it listens; 0.0.0.0: all addresses of this machine, which needs --token (default "
        f"{HOST})",
    )
    page.add_argument(
        "--token",
        type=token,
        metavar="SECRET",
        help="secret that a visitor has to know; http://ADDRESS:PORT/?token=SECRET; "
        f"at least {SHORTEST_TOKEN} characters",
    )
    page.add_argument(
        "--max-upload", type=whole(1, 4096), default=64, metavar="MIB", help="largest file (default 64 MiB)"
    )
    add_detector_flags(parser, reads_files=False)
    args = parser.parse_args(argv)
    if problem := contradiction(args, OF_SAVED):
        parser.error(problem)
    args.address = address_of(args.host)
    if args.token is None and not ipaddress.ip_address(args.address).is_loopback:
        parser.error(
            f"--host {args.host} lets other machines in: also give --token SECRET, or leave it out and "
            f"come by ssh -L {args.port}:{HOST}:{args.port} USER@{socket.gethostname()}"
        )
    parser.save_settings(args)
    take_preset(args)
    args.false_alarm_rate = args.threshold = args.labels = args.calibration = None  # chosen there
    return args


def address_of(host: str) -> str:
    """A host's address, in digits; ConfigError for one that has none."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--host {host} is no address of this machine; give 0.0.0.0 for all.") from error
