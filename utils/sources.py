"""What inputs are besides files: members of tar archives, named ARCHIVE/MEMBER, as webdataset arranges them,
read without unpacking; what is in memory only; and by their names cameras, streams and clips."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import stat
import tarfile
import uuid
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

from utils.errors import DataError
from utils.text import one_line, printable

SUFFIX = ".tar"
MEMORY = "in memory"
RECORD = 2**20  # bytes that are read at once
MOST_LINKS = 16  # from a link to a link
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".zip", ".7z", ".rar")
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # rtsp://, http://, udp://
CLIPS = frozenset(".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv".split())
SAVE_PICTURES = "save pictures, as ffmpeg -i SOURCE -vf fps=1 frames/%06d.png, and give their folder"
OF_CLIP = f"give a clip to predict.py --input alone, or let another program {SAVE_PICTURES}"

# FFmpeg's errors, or it writes to standard error by itself; OpenCV reads this when it is first imported.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class Member(NamedTuple):
    """Where a file lies in its archive, in bytes."""

    offset: int
    size: int


Contents = tuple[dict[str, Member], dict[str, str]]  # by names: the files, and why others cannot be read


class Facts(NamedTuple):
    """A file's bytes and the time of its last change (ns); a member's time is its archive's."""

    size: int
    modified: int


def is_archive(path: str | Path) -> bool:
    return os.fspath(path).lower().endswith(SUFFIX) and os.path.isfile(path)


def refuse_compressed(path: str | Path) -> None:
    """DataError for a compressed archive, whose members cannot be read one by one."""
    if os.fspath(path).lower().endswith(COMPRESSED):
        raise DataError(
            f"{printable(path)}: is a compressed archive, whose files cannot be read one by one; unpack it, "
            "or make it a plain .tar (photographs are compressed themselves)"
        )


def contents_of(archive: str | Path) -> Contents:
    """The contents of an archive, in its order (of two of one name the last). Names are relative to it and
    never lead out of it; links are followed within it. DataError for an incomplete one."""
    facts = os.stat(archive)
    return _contents(os.path.abspath(archive), facts.st_size, facts.st_mtime_ns)


def _inside(name: str) -> str:
    """A member's name as a path below its archive, without a leading / or `..`."""
    return os.path.normpath(f"/{name}").lstrip(os.sep)


@lru_cache(maxsize=8)
def _contents(archive: str, _size: int, _modified: int) -> Contents:
    entries: dict[str, Member | str] = {}  # of a link the name of its target
    unread: dict[str, str] = {}
    try:
        with open(archive, "rb") as content, tarfile.open(fileobj=content, mode="r:") as tar:
            while (member := tar.next()) is not None:
                name = _inside(member.name)
                if member.issparse():
                    unread[name] = "is stored with gaps; make the archive without --sparse"
                elif member.isreg():
                    entries[name] = Member(member.offset_data, member.size)
                    if member.offset_data + member.size > _size:
                        raise tarfile.ReadError("its end is missing")
                elif member.islnk():
                    entries[name] = _inside(member.linkname)
                elif member.issym():
                    entries[name] = _inside(os.path.join(os.path.dirname(f"/{name}"), member.linkname))
                elif not member.isdir():
                    unread[name] = "is a device or a pipe; put a file there"
                tar.members.clear()  # type: ignore[attr-defined] # it would keep them all
            content.seek(tar.offset)
            while piece := content.read(RECORD):
                if piece.strip(b"\0"):
                    raise tarfile.ReadError("it goes on after its end, joined to another or damaged")
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise DataError(
            f"{printable(archive)}: is no whole tar archive ({one_line(error)}); make it again"
        ) from error
    members: dict[str, Member] = {}
    for name in entries:
        target = _followed(name, entries)
        if isinstance(target, Member):
            members[name] = target
        else:
            unread[name] = f"is a link to {printable(target)}, which is no file in the archive; put it there"
    return members, unread


def _followed(name: str, entries: dict[str, Member | str]) -> Member | str:
    """The file that a name stands for; for a link to no file, or in a circle, its target's name."""
    target = entries[name]
    for _ in range(MOST_LINKS):
        if isinstance(target, Member) or target not in entries:
            break
        target = entries[target]
    return target


def _split(path: str | Path) -> tuple[str, str] | None:
    """The archive and the member that a path names; None for the path of an ordinary file."""
    archives = (one for one in Path(path).parents if is_archive(one))
    archive = next(archives, None)
    return None if archive is None else (str(archive), str(Path(path).relative_to(archive)))


def _member(archive: str, name: str) -> Member:
    try:
        return contents_of(archive)[0][name]
    except (KeyError, DataError) as error:
        raise FileNotFoundError(2, "is not in the archive", f"{archive}/{name}") from error


_held: dict[str, bytes] = {}


@contextlib.contextmanager
def held_in_memory(files: Sequence[tuple[str, bytes]]) -> Iterator[list[Path]]:
    """Paths under which (name, content) can be read for the length of the block, in their order: nothing is
    written that a killed process would leave."""
    root = f"{MEMORY}-{uuid.uuid4().hex}"
    paths = [Path(root, str(number), Path(name).name) for number, (name, _) in enumerate(files)]
    _held.update((os.fspath(path), content) for path, (_, content) in zip(paths, files))
    try:
        yield paths
    finally:
        for path in paths:
            del _held[os.fspath(path)]


def facts_of(path: str | Path) -> Facts:
    """The facts of a file or a member; OSError where it does not exist."""
    if os.fspath(path) in _held:
        return Facts(len(_held[os.fspath(path)]), 0)
    place = _split(path)
    facts = os.stat(path if place is None else place[0])
    return Facts(facts.st_size if place is None else _member(*place).size, facts.st_mtime_ns)


def is_file(path: str | Path) -> bool:
    """Whether the path is that of a regular file or a member."""
    return os.fspath(path) in _held or _split(path) is not None or os.path.isfile(path)


def opened(path: str | Path) -> BinaryIO:
    """A file's bytes, or a member's, as a stream; OSError."""
    if os.fspath(path) in _held:
        return io.BytesIO(_held[os.fspath(path)])
    place = _split(path)
    if place is None:
        if os.path.exists(path) and not os.path.isfile(path):  # a pipe would block
            raise OSError(errno.EINVAL, "it is not a file", os.fspath(path))
        return open(path, "rb")
    member = _member(*place)
    with open(place[0], "rb") as archive:
        archive.seek(member.offset)
        return io.BytesIO(archive.read(member.size))


def is_camera(given: str) -> bool:
    """Whether an input names a camera or a stream: an address, a number, or a device."""
    named = ADDRESS.match(given) or given.isdecimal()
    return is_device(given) or bool(named) and not os.path.lexists(given)


def is_device(path: str) -> bool:
    try:
        return stat.S_ISCHR(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def is_clip(given: str) -> bool:
    """Whether an input is a video file."""
    return Path(given).suffix.lower() in CLIPS and os.path.isfile(given)


def live_source(inputs: Sequence[str]) -> str | None:
    """The first camera, stream or clip among the inputs; None where there is none."""
    return next((given for given in inputs if is_camera(given) or is_clip(given)), None)
