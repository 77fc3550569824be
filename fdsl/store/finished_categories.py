"""The finished categories of a test run that was interrupted."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fdsl.store.maps import RunMaps, load_maps, save_maps
from utils.errors import ConfigError
from utils.files import remove_folder, sync_folder

logger = logging.getLogger("fdsl")


class FinishedCategories:
    """The maps of a run's finished categories, a file each in FOLDER/.parts until the run has ended.

    A file's name is a digest of all that its maps depend on, so maps of other settings are never taken.
    """

    NAME = ".parts"

    def __init__(self, folder: Path) -> None:
        """Makes FOLDER/.parts."""
        self.folder = Path(folder) / self.NAME
        self.folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def left_in(cls, folder: Path) -> bool:
        """Whether `folder` holds a run that has begun and not ended."""
        return (Path(folder) / cls.NAME).is_dir()

    def load(self, depends_on: Mapping[str, Any], names: list[str]) -> RunMaps | None:
        """The finished maps of the images `names`, or None."""
        file = self._file(depends_on)
        if not file.is_file():
            return None
        try:
            maps = load_maps(file)
        except ConfigError as error:
            logger.warning("%s It is computed again.", error)
            return None
        return maps if maps.names == names else None

    def save(self, depends_on: Mapping[str, Any], maps: RunMaps) -> None:
        save_maps(self._file(depends_on), maps)

    def clear(self) -> None:
        """Removes the files before a run."""
        remove_folder(self.folder)
        self.folder.mkdir()

    def discard(self) -> None:
        """Removes the files and their folder after a run, whose results are brought to the disk first."""
        sync_folder(self.folder.parent)
        remove_folder(self.folder)

    def _file(self, depends_on: Mapping[str, Any]) -> Path:
        text = json.dumps(depends_on, sort_keys=True, default=str)
        return self.folder / f"{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:24]}.npz"
