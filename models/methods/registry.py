"""The methods there are: the only place where a method's name is compared with anything."""

from __future__ import annotations

from models.method import Method
from models.methods.batch import Batch
from models.methods.both import Both
from models.methods.fdsl import Fdsl
from models.methods.nearest import Nearest
from models.methods.plus import Plus
from models.methods.subspace import Subspace
from models.methods.zero_shot_text import ByText

METHODS: dict[str, type[Method]] = {
    method.name: method for method in (Fdsl, Nearest, Both, Subspace, Plus, Batch, ByText)
}
METHODS_IN_WORDS = "; ".join(f"{name}: {method.words}" for name, method in METHODS.items())
WITH_HEADS = Fdsl.name  # what is taken where heads, and no method, were asked for
DEFAULT = Plus.name  # and where neither was
