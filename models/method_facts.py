"""The facts of a method that flags, help and checks need before it is loaded, without PyTorch."""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar


class MethodFacts:
    """The facts of a method; its class inherits them (models/methods/registry.py has all of them).

    home: MODULE.CLASS below models/methods/. name: as `--method` takes it. words: a description for help and
    reports. needs_heads: it needs a checkpoint's trained heads. needs_discrepancy: it does not work with
    `--fd none`. matches: it searches for nearest normal patches. transductive: its memory is of the test
    images. added_by: of a method without references, the flag that adds it to one with references.
    takes_text: `--with-text` is defined for it. reads_text: it needs `directions`
    (models/backbones/text/prompts.py). length_of_discrepancy: its map is the length of the discrepancy that
    trained heads judge. of_distances: its map values are distances to the nearest normal patch: twice as much
    is twice as far. components: those that `--leave-out` switches off. own_score: its image score in words,
    where it has its own `summarise`. image_score, rotations: the default score, and the default copies of
    each reference.
    """

    home: ClassVar[str]
    name: str
    words: ClassVar[str]
    needs_heads: ClassVar[bool] = False
    needs_discrepancy: ClassVar[bool] = True
    matches: ClassVar[bool] = True
    transductive: ClassVar[bool] = False
    added_by: ClassVar[str] = ""
    takes_text: ClassVar[bool] = False
    reads_text: bool = False
    length_of_discrepancy: ClassVar[bool] = False
    of_distances: ClassVar[bool] = False
    components: ClassVar[tuple[str, ...]] = ()
    own_score: ClassVar[str] = ""
    image_score: ClassVar[str] = "max"
    rotations: int | str = 1

    @classmethod
    def load(cls) -> Any:
        """The method itself, a class of `Method` (models/method.py), imported now."""
        module, _, name = cls.home.rpartition(".")
        return getattr(import_module(f"models.methods.{module}"), name)
