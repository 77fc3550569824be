"""A page to try a detector on your own photographs.

    pip install -r requirements-app.txt
    python app.py                                # then open the printed address
    python app.py --detector part.safetensors    # of predict.py --save-detector

    python app.py --host 0.0.0.0 --token SECRET  # in a container, or for other machines

It listens on 127.0.0.1 unless --host gives another address, which needs --token. Uploads lie in a temporary
folder and are gone when the page is closed (Ctrl-C).
"""

from __future__ import annotations

if __name__ in ("__main__", "fdsl_commands.app"):  # before torch is imported: Ctrl-C is answered at once
    from utils import signals

    signals.answer()

import logging
from typing import NoReturn

from fdsl.flags.page_flags import parse
from utils.command import run_command

logger = logging.getLogger("fdsl")


def main(argv: list[str] | None = None) -> NoReturn:
    flags = parse(argv, __doc__)
    logger.info("loading the image model ...")
    from fdsl.flags.detector_from_flags import page_detector
    from page.serve_page import Address, serve

    detector = page_detector(flags)
    address = Address(flags.host, flags.address, flags.port, flags.token)
    rotations = flags.given.get("rotate_references")
    serve(detector, address, flags.max_upload, rotations)


def command() -> None:
    """The command line of app.py and of fdsl-app."""
    run_command(main)


if __name__ == "__main__":
    command()
