"""The finished blocks of a prediction run of several processes: each is a folder with its rows, maps and
pictures, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.manifest import Manifest
from data.region_of_interest import MaskFolders
from fdsl.store.journal import NOTES, ROWS, SKIPPED, Journal
from fdsl.store.resume_index import PARTS, files_of, maps_digest, parsed, parsed_skipped, same_file
from utils.drift import Seen, as_seen
from utils.files import sync_folder

FOLDERS = ("pictures", "masks")
SEEN = "seen"  # among the notes of a block: a photograph, as one that follows them takes it


class Block(Journal):
    """A block that is being written; its pictures lie below `folder`. `note` stores a warning, which is
    logged when the blocks are joined, and `follow` the statistics of each photograph."""

    baseline = None

    def __init__(self, folder: Path, keep_maps: bool) -> None:
        super().__init__(folder, keep_maps)
        self.folder = folder
        self._notes = open(folder / NOTES, "w", encoding="utf-8")

    def give_way(self) -> None:
        """Does nothing: a block holds no files of an earlier run."""

    def note(self, kind: str, sentence: str) -> None:
        self._notes.write(json.dumps([kind, sentence]) + "\n")

    def follow(self, seen: Seen) -> None:
        self._notes.write(json.dumps([SEEN, seen.to_json()]) + "\n")

    def close(self) -> None:
        super().close()
        self._notes.close()


class Blocks:
    """The blocks of a `manifest` in FOLDER/blocks."""

    def __init__(self, manifest: Manifest, keep_maps: bool) -> None:
        self.manifest, self.keep_maps = manifest, keep_maps
        self.folder = manifest.folder / "blocks"
        self.folder.mkdir(exist_ok=True)

    def place(self, number: int) -> Path:
        return self.folder / f"{number:06}"

    def holds(self, number: int, masks: MaskFolders | None = None) -> bool:
        """Whether a block is complete and its photographs, with their `masks`, are unchanged; removes it
        otherwise."""
        if not self.place(number).is_dir():
            return False
        if self.is_whole(number) and not self._has_changed(number, masks):
            return True
        self.remove(number)
        return False

    def is_whole(self, number: int) -> bool:
        """Whether a block has a row, or a reason, for each photograph of the manifest, and the rows' maps and
        pictures."""
        try:
            rows, skipped = list(self._rows(number)), list(self._skipped(number))
            names = Counter([*(row["image"] for row in rows), *(name for name, *_ in skipped)])
            if names != Counter(item.name for item in self.manifest.block(number)):
                return False
            for kind, note in self._notes(number):
                if kind == SEEN:
                    as_seen(note)  # a broken line is a ValueError
            return self._has_maps(number, rows) and all(self._has_pictures(number, row) for row in rows)
        except (OSError, ValueError, TypeError):
            return False

    def _has_maps(self, number: int, rows: Sequence[dict]) -> bool:
        """Whether the files of maps hold exactly the maps of these rows."""
        if not self.keep_maps:
            return True
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(open(self.place(number) / f"{part}.f32", "rb")) for part in PARTS]
            for row in rows:
                length = 4 * row["grid"] ** 2
                own = files[:1] if row["window_score"] is None else files
                if row.get("maps") != maps_digest([file.read(length) for file in own]):
                    return False
            return not any(file.read(1) for file in files)

    def _has_pictures(self, number: int, row: Mapping[str, Any]) -> bool:
        """Whether a row's picture and mask exist, here or, after an interrupted joining, in the output."""
        places = (self.place(number), *self._output())
        return all(any((place / file).is_file() for place in places) for file in files_of(row))

    def _output(self) -> tuple[Path, ...]:
        """The output folder, once an earlier run's pictures are removed from it."""
        return () if (self.manifest.folder / "config.json").exists() else (self.manifest.folder.parent,)

    def _has_changed(self, number: int, masks: MaskFolders | None) -> bool:
        """Whether a photograph's file has changed, also one that could not be scored."""
        then = {row["image"]: row["file"] for row in self._rows(number)}
        then |= {name: stamp for name, _, stamp in self._skipped(number)}
        items = self.manifest.block(number)
        return any(
            item.path is not None and not same_file(then[item.name], item.path, masks) for item in items
        )

    def _rows(self, number: int) -> Iterator[dict]:
        return self._read(number, ROWS, parsed)

    def _skipped(self, number: int) -> Iterator[tuple[str, str, dict | None]]:
        return self._read(number, SKIPPED, parsed_skipped)

    def _read(self, number: int, name: str, read: Callable[[bytes], Any]) -> Iterator[Any]:
        """The parsed lines of a block's file; ValueError for a broken one."""
        with open(self.place(number) / name, "rb") as lines:
            for line in lines:
                entry = read(line)
                if entry is None:
                    raise ValueError(f"{name} holds a broken line")
                yield entry

    def _notes(self, number: int) -> Iterator[tuple[str, Any]]:
        with open(self.place(number) / NOTES, encoding="utf-8") as lines:
            for line in lines:
                kind, note = json.loads(line)
                yield kind, note

    def remove(self, number: int) -> None:
        """Removes a block, if it exists, and those of its pictures that an interrupted joining has moved."""
        with contextlib.suppress(OSError), open(self.place(number) / ROWS, "rb") as lines:
            for row in filter(None, map(parsed, lines)):
                for output in self._output():
                    for file in files_of(row):
                        (output / file).unlink(missing_ok=True)
        doomed = self._temporary(number)
        shutil.rmtree(doomed, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.replace(self.place(number), doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def _temporary(self, number: int) -> Path:
        return self.folder / f".{number:06}.{socket.gethostname()}-{os.getpid()}.tmp"

    @contextlib.contextmanager
    def writing(self, number: int) -> Iterator[Block]:
        """A block to write, which gets its name after the `with` ended without an error; where another
        process was faster, that one's block stays."""
        temporary = self._temporary(number)
        shutil.rmtree(temporary, ignore_errors=True)
        for name in FOLDERS:
            (temporary / name).mkdir(parents=True)
        block = Block(temporary, self.keep_maps)
        try:
            yield block
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        block.close()
        for name in FOLDERS:
            sync_folder(temporary / name)
        with contextlib.suppress(OSError):
            os.rename(temporary, self.place(number))
        shutil.rmtree(temporary, ignore_errors=True)

    def join(self, journal: Journal) -> bool:
        """Appends all blocks to a journal in their order; returns whether there is any row."""
        has_rows = False
        for number in range(len(self.manifest)):
            journal.append(self.place(number))
            has_rows = has_rows or (self.place(number) / ROWS).stat().st_size > 0
        return has_rows

    def place_pictures(self, output: Path) -> None:
        """Moves the blocks' pictures and masks to the output folder."""
        for number in range(len(self.manifest)):
            for name in FOLDERS:
                with os.scandir(self.place(number) / name) as pictures:
                    for picture in pictures:
                        (output / name).mkdir(exist_ok=True)
                        os.replace(picture.path, output / name / picture.name)

    def notes(self, most: dict[str, int]) -> Iterator[str]:
        """The blocks' warnings in their order, at most `most` of each kind."""
        warned: Counter[str] = Counter()
        for number in range(len(self.manifest)):
            for kind, note in self._notes(number):
                warned[kind] += 1
                if kind != SEEN and warned[kind] <= most[kind]:
                    yield note

    def seen(self) -> Iterator[Seen]:
        """What was seen of the photographs that can be judged, in their order."""
        for number in range(len(self.manifest)):
            yield from (as_seen(note) for kind, note in self._notes(number) if kind == SEEN)
