"""The methods there are."""

from __future__ import annotations

METHODS = ("fdsl", "nearest", "both")
