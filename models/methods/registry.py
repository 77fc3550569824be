"""All methods and their facts, without heavy imports: `METHODS[name].load()` gives the method itself. Method
names are compared nowhere else."""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar

from utils.config import AUTO


class MethodFacts:
    """The facts of a method; its class inherits them.

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
    of_distances: bool = False
    components: ClassVar[tuple[str, ...]] = ()
    own_score: ClassVar[str] = ""
    image_score: ClassVar[str] = "max"
    rotations: int | str = 1

    @classmethod
    def load(cls) -> Any:
        """The method itself, a class of `Method` (models/method.py), imported now."""
        module, _, name = cls.home.rpartition(".")
        return getattr(import_module(f"models.methods.{module}"), name)


class FdslFacts(MethodFacts):
    home = "fdsl.Fdsl"
    name = "fdsl"
    words = "trained heads"
    needs_heads = True
    needs_discrepancy = False
    takes_text = True
    image_score = "paper"


class NearestFacts(MethodFacts):
    home = "nearest.Nearest"
    name = "nearest"
    words = "nearest normal patch, no training"
    takes_text = True
    length_of_discrepancy = True
    of_distances = True


class BothFacts(MethodFacts):
    home = "both.Both"
    name = "both"
    words = "trained heads and nearest"
    needs_heads = True


class SubspaceFacts(MethodFacts):
    home = "subspace.Subspace"
    name = "subspace"
    words = "residual outside the references' subspace, no training"
    matches = False


class PlusFacts(MethodFacts):
    home = "plus.Plus"
    name = "plus"
    words = "whitened distance to the nearest normal patch, with an image score of its own; no training"
    own_score = "mean of the highest 0.5 % of patches of a map of its own, no test-set scaling"
    takes_text = True
    of_distances = True
    rotations = AUTO
    components = ("common-mode", "whitening", "bilateral", "self-dissimilarity", "top-k")


class BatchFacts(MethodFacts):
    home = "batch.Batch"
    name = "batch"
    words = "the test images compared with each other; no references, sees the test set"
    own_score = "mean of the highest 0.5 % of patches of its map, no test-set scaling"
    transductive = True
    added_by = "--with-batch"
    matches = False


class TextFacts(MethodFacts):
    home = "zero_shot_text.ByText"
    name = "text"
    words = "CLIP's words for normal and damaged; no references, no training"
    own_score = "that similarity of the whole image, of local windows the highest, no test-set scaling"
    added_by = "--with-text"
    reads_text = True
    matches = False


METHODS: dict[str, type[MethodFacts]] = {
    facts.name: facts
    for facts in (FdslFacts, NearestFacts, BothFacts, SubspaceFacts, PlusFacts, BatchFacts, TextFacts)
}
METHODS_IN_WORDS = "; ".join(f"{name}: {facts.words}" for name, facts in METHODS.items())
WITH_HEADS = FdslFacts.name  # the default where trained heads are given
DEFAULT = PlusFacts.name  # and where none are
