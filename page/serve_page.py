"""The page's server: where it listens, how many it serves at once, and what it leaves behind."""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
from dataclasses import dataclass, replace
from typing import NoReturn

import waitress

from fdsl.api import AnomalyDetector
from page.collection import Limits
from page.fit import Fit
from page.scratch import remove, scratch_folder
from page.server import make_server
from utils.errors import ConfigError
from utils.signals import before_leaving, how_to_continue

logger = logging.getLogger("fdsl")
THREADS = 24  # more than page.server.WAITING: those who wait for the detector leave some for the pages
IDLE_SECONDS = 15  # a connection on which nothing is asked for so long is closed
MOST_CONNECTIONS = 1000  # at once, fewer where the system opens fewer files
MEBIBYTE = 2**20
MOST_COMPARED = 50  # with each other: their tokens lie on the disk, and each is compared with all others


@dataclass(frozen=True)
class Address:
    """Where the page listens: a host as it was named and in digits, a port, and the secret that it asks
    for."""

    host: str
    digits: str
    port: int
    token: str | None

    def url(self, port: int) -> str:
        """Where a browser finds the page on the port that was had; the secret is not repeated."""
        anywhere = ipaddress.ip_address(self.digits).is_unspecified
        host = socket.gethostname() if anywhere else f"[{self.digits}]" if ":" in self.digits else self.digits
        return f"http://{host}:{port}" + ("/?token=..., with your secret," if self.token else "")


def serve(detector: AnomalyDetector, address: Address, largest: int, rotations: int | str | None) -> NoReturn:
    """Opens the page until it is interrupted. `largest`: of an upload, in MiB. ConfigError where the address
    cannot be had."""
    limits = Limits(largest * MEBIBYTE)
    if Fit.of(detector, 1).compares:
        limits = replace(limits, photographs=MOST_COMPARED)
    with scratch_folder() as folder:
        before_leaving(lambda: remove(folder))
        how_to_continue("the page is closed and what was uploaded is gone; the same command opens it again")
        pages = make_server(detector, folder, limits, rotations, address.token)
        try:
            server = waitress.create_server(
                pages,
                host=address.digits,
                port=address.port,
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
                f"--host {address.host} --port {address.port} cannot be had ({error.strerror}); name "
                "another, or port 0 for any."
            ) from error
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # requests that wait are no error
        logger.info("open %s in your browser; Ctrl-C closes it", address.url(server.effective_port))
        serving = threading.Thread(target=server.run, name="server", daemon=True)
        serving.start()
        while serving.is_alive():  # Ctrl-C reaches this thread, not the server's
            serving.join(1)
    raise ConfigError("The server stopped; the lines above say why.")


def _connections() -> int:
    """How many connections may be open at once, half of the files that this process may open."""
    try:
        import resource
    except ImportError:  # Windows
        return MOST_CONNECTIONS
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_CONNECTIONS if files == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, files // 2)
