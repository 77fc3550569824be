"""Errors carry their one sentence from other processes."""

from utils.errors import DataError


def test_worker_message_gives_the_sentence_back():
    wrapped = (
        "Caught DataError in DataLoader worker process 0.\n"
        "Original Traceback (most recent call last):\n  File\n"
        "utils.errors.DataError: a DataError: b.png: is missing\n"
    )
    assert str(DataError(wrapped)) == "a DataError: b.png: is missing"
    assert str(DataError("Caught napping.png: is missing")) == "Caught napping.png: is missing"
