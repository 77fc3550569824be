"""app.py's flags."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from fdsl.config.contradictions import OF_PAGE
from fdsl.flags.detector_options import DetectorFlags, add_detector_flags
from fdsl.flags.groups import add_options, read, take_preset
from utils.command_line import SHORTEST_TOKEN, CommandLine, token
from utils.config import RuntimeOptions
from utils.errors import ConfigError
from utils.options import option

HOST = "127.0.0.1"
PORT = 7860

COMMON = (  # what --help shows
    *("detector", "references", "add-references", "preset", "port", "host", "token", "device"),
)


@dataclass(frozen=True, kw_only=True)
class PageFlags(DetectorFlags):
    """app.py's flags. The threshold is chosen on the page."""

    group: ClassVar[str] = "page"

    port: int = option(PORT, span=(0, 65535), help="default $default; 0: any that is free")
    host: str = option(
        HOST,
        metavar="ADDRESS",
        help="where it listens; 0.0.0.0: all addresses of this machine, which needs --token (default "
        "$default)",
    )
    token: str | None = option(
        None,
        reads=token,
        metavar="SECRET",
        help="secret that a visitor has to know; http://ADDRESS:PORT/?token=SECRET; at least "
        f"{SHORTEST_TOKEN} characters",
    )
    max_upload: int = option(64, span=(1, 4096), metavar="MIB", help="largest file (default $default MiB)")

    @cached_property
    def address(self) -> str:
        """The host's address, in digits; ConfigError for one that has none."""
        try:
            return str(socket.getaddrinfo(self.host, None, type=socket.SOCK_STREAM)[0][4][0])
        except (OSError, UnicodeError) as error:
            raise ConfigError(
                f"--host {self.host} is no address of this machine; give 0.0.0.0 for all."
            ) from error

    @property
    def is_private(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(self.address).is_loopback

    @property
    def tunnel(self) -> str:
        """The command by which another machine reaches a private page."""
        return f"ssh -L {self.port}:{HOST}:{self.port} USER@{socket.gethostname()}"


def parse(argv: list[str] | None, description: str | None) -> PageFlags:
    """Reads and checks the command line."""
    parser = CommandLine(description, common=COMMON)
    add_options(parser, PageFlags)
    add_detector_flags(parser)
    add_options(parser, RuntimeOptions, only=lambda one: one.name != "workers")
    args = parser.parse_args(argv)
    flags = read(PageFlags, args)
    if problem := flags.contradiction(*OF_PAGE):
        parser.error(problem)
    parser.save_settings(args)
    return replace(flags, given=take_preset(flags.preset, flags.given))
