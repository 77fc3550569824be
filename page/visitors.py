"""The visitors of the page: how many there may be at once, and who gives way to a new one."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from page.session import Session
from utils.errors import ConfigError

MOST_SESSIONS = 32
IDLE_SECONDS = 600  # a visitor who was quiet for so long makes room when there are too many
LEFT_SECONDS = 4 * 3600  # and after this time in any case when another one comes


class Visitors:
    """Sessions by their secret names. Where there are too many, one without uploads gives way, else the one
    that was quiet longest."""

    def __init__(self, make: Callable[[Path], Session], folder: Path) -> None:
        self._make, self._folder = make, folder
        self._sessions: OrderedDict[str, tuple[Session, float]] = OrderedDict()
        self._lock = threading.Lock()

    def new(self) -> str:
        """A new visitor's name; ConfigError where all places are taken by busy ones."""
        name, now = secrets.token_urlsafe(16), time.monotonic()
        with self._lock:
            gone = [one for one, (_, used) in self._sessions.items() if now - used >= LEFT_SECONDS]
            if len(self._sessions) - len(gone) >= MOST_SESSIONS:
                gone.append(self._giving_way(now))
            closed = [self._sessions.pop(one)[0] for one in gone]
            self._sessions[name] = self._make(self._folder / name), now
        for session in closed:
            session.close()
        return name

    def _giving_way(self, now: float) -> str:
        for name, (session, _) in self._sessions.items():
            if session.uploads.is_empty:
                return name
        oldest, (_, used) = next(iter(self._sessions.items()))
        if now - used < IDLE_SECONDS:
            raise ConfigError(f"{MOST_SESSIONS} visitors are here already; try again later")
        return oldest

    def __getitem__(self, name: str) -> Session:
        """Raises KeyError for a name that is not here, or no longer."""
        with self._lock:
            session, _ = self._sessions[name]
            self._sessions[name] = session, time.monotonic()
            self._sessions.move_to_end(name)
            return session

    def __contains__(self, name: str) -> bool:
        with self._lock:
            return name in self._sessions

    def close(self, name: str) -> None:
        with self._lock:
            session, _ = self._sessions.pop(name)
        session.close()
