"""What is known of a method before it is loaded: flags, help and checks need no PyTorch."""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar


class MethodFacts:
    """The facts of a method; its class inherits them (models/methods/registry.py has all of them).

    home: MODULE.CLASS below models/methods/. name: as `--method` takes it. words: what it is, for reports.
    sentence: the same under a table, after the trained heads' own words where there are some. unlike_paper:
    why its row is not the paper's. needs_heads: it needs a checkpoint's trained ones. needs_discrepancy:
    `--fd none` leaves it nothing. matches: it searches for nearest normal patches. transductive: its memory
    is of the test images. added_by: of a method that takes no references, the flag that adds it to
    one that does. takes_text: `--with-text` is defined for it. reads_text: it needs `directions`
    (models/backbones/text/prompts.py). length_of_discrepancy: its map is how long the discrepancy is that
    trained heads judge. parts: components that `--leave-out` switches off. own_score: what its image score is
    where `summarise` is its own. image_score, rotations: the score, and the copies of each reference, where
    nobody asks for others.
    """

    home: ClassVar[str]
    name: str
    words: ClassVar[str]
    sentence: ClassVar[str] = ""
    unlike_paper: ClassVar[str] = ""
    needs_heads: ClassVar[bool] = False
    needs_discrepancy: ClassVar[bool] = True
    matches: ClassVar[bool] = True
    transductive: ClassVar[bool] = False
    added_by: ClassVar[str] = ""
    takes_text: ClassVar[bool] = False
    reads_text: bool = False
    length_of_discrepancy: ClassVar[bool] = False
    parts: ClassVar[tuple[str, ...]] = ()
    own_score: ClassVar[str] = ""
    image_score: ClassVar[str] = "max"
    rotations: int | str = 1

    @classmethod
    def load(cls) -> Any:
        """The method itself, a class of `Method` (models/method.py), imported now."""
        module, _, name = cls.home.rpartition(".")
        return getattr(import_module(f"models.methods.{module}"), name)
