"""The finished blocks of a prediction run that several processes do: each is a folder with its rows, maps and
pictures, whole or not there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.manifest import Manifest
from fdsl.store.journal import NOTES, ROWS, Journal
from fdsl.store.taken_up import parsed, same_file
from utils.files import sync_folder

PICTURES = "pictures"


class Block:
    """A block that is being written: `add` and `skip` as those of PredictionFolder; pictures lie below
    `folder`. `note`: what there is to warn of, said where the blocks are joined."""

    def __init__(self, folder: Path, keep_maps: bool) -> None:
        self.folder = folder
        self._journal = Journal(folder, keep_maps)
        self._notes = open(folder / NOTES, "w", encoding="utf-8")

    def add(self, row: dict, base: np.ndarray, window: np.ndarray | None) -> None:
        self._journal.add(row, base, window)

    def skip(self, name: str, reason: str) -> None:
        self._journal.skip(name, reason)

    def note(self, kind: str, sentence: str) -> None:
        self._notes.write(json.dumps([kind, sentence]) + "\n")

    def close(self) -> None:
        self._journal.close()
        self._notes.close()


class Blocks:
    """The blocks of a `manifest` in FOLDER/blocks."""

    def __init__(self, manifest: Manifest, keep_maps: bool) -> None:
        self.manifest, self.keep_maps = manifest, keep_maps
        self.folder = manifest.folder / "blocks"
        self.folder.mkdir(exist_ok=True)

    def place(self, number: int) -> Path:
        return self.folder / f"{number:06}"

    def holds(self, number: int) -> bool:
        """Whether a block is finished, of the files as they are now."""
        if not self.place(number).is_dir():
            return False
        rows = {row["image"]: row for row in self._rows(number)}
        for item in self.manifest.block(number):
            row = rows.get(item.name)
            if item.path is not None and row is not None and not same_file(row, item.path):
                self._throw_away(number)
                return False
        return True

    def _rows(self, number: int) -> Iterator[dict]:
        with open(self.place(number) / ROWS, "rb") as lines:
            yield from filter(None, map(parsed, lines))

    def _throw_away(self, number: int) -> None:
        """A block's pictures may lie in their place already, where joining was interrupted."""
        for row in self._rows(number):
            if row.get("picture"):
                (self.manifest.folder.parent / row["picture"]).unlink(missing_ok=True)
        doomed = self._temporary(number)
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(self.place(number), doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def _temporary(self, number: int) -> Path:
        return self.folder / f".{number:06}.{socket.gethostname()}-{os.getpid()}.tmp"

    @contextlib.contextmanager
    def writing(self, number: int) -> Iterator[Block]:
        """A block that has its name once all went well; where another process was sooner, its is kept."""
        temporary = self._temporary(number)
        shutil.rmtree(temporary, ignore_errors=True)
        (temporary / PICTURES).mkdir(parents=True)
        block = Block(temporary, self.keep_maps)
        try:
            yield block
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        block.close()
        sync_folder(temporary / PICTURES)
        with contextlib.suppress(OSError):
            os.rename(temporary, self.place(number))
        shutil.rmtree(temporary, ignore_errors=True)

    def join(self, journal: Journal, output: Path) -> None:
        """Adds all blocks to a journal in their order; then their pictures take their places."""
        for number in range(len(self.manifest)):
            journal.append(self.place(number))
        for number in range(len(self.manifest)):
            with os.scandir(self.place(number) / PICTURES) as pictures:
                for picture in pictures:
                    (output / PICTURES).mkdir(exist_ok=True)
                    os.replace(picture.path, output / PICTURES / picture.name)

    def notes(self, most: dict[str, int]) -> Iterator[str]:
        """What the blocks have to warn of, in their order, so many of each kind."""
        told: Counter[str] = Counter()
        for number in range(len(self.manifest)):
            for line in (self.place(number) / NOTES).read_text(encoding="utf-8").splitlines():
                kind, sentence = json.loads(line)
                told[kind] += 1
                if told[kind] <= most[kind]:
                    yield sentence
