"""Errors that the user can mend: each message is one sentence with the cure."""

from __future__ import annotations


class ConfigError(Exception):
    """Settings or files that cannot be used as given; the message is one sentence with the cure."""


class DataError(Exception):
    """What is wrong with the user's data, in one sentence that names the file and the cure.

    A DataLoader re-raises a worker's error with the worker's traceback as its message: the sentence is taken
    out again.
    """

    def __init__(self, sentence: str):
        marker = f"\n{type(self).__module__}.{type(self).__qualname__}: "
        if sentence.startswith("Caught ") and marker in sentence:
            sentence = sentence.rsplit(marker, 1)[1].strip()
        super().__init__(sentence)


class ModelError(Exception):
    """A model that cannot be built as asked; the message is one sentence with the cure."""
