"""A look's windows matched with windows of a memory bank, each pair once, however many banks hold it.

In bf16 a pair's products are rows of a larger one: some of the bank's windows are gathered, always as many,
and multiplied with the query window at once. As each row is summed up alike, what a pair gets is the same to
the last bit whichever pairs stand beside it. In float32 that does not hold with every processor, and a pair
is a product of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

PAIRED_WIDTH = 384  # of tokens: from here on windows are matched in pairs, on a CPU
IN_A_PRODUCT = 13  # of the bank's windows, in bf16
LINE_BYTES = 64  # a product's rows are filled up to a multiple: less takes as long
MARK_BITS = 2**16 - 1


def pairs_windows(device: torch.device, width: int) -> bool:
    """Whether windows with tokens of this width are matched in pairs, which are remembered."""
    return device.type == "cpu" and width >= PAIRED_WIDTH


def bytes_of_a_pair(device: torch.device, width: int, patches: int) -> int:
    """What a pair of windows of so many patches is remembered by at most: a float32 and a place for each."""
    return patches * (4 + 2) if pairs_windows(device, width) else 0


class PairedWindows:
    """What is known of the pairs of a look's windows and a bank's."""

    def __init__(self) -> None:
        self.found: dict[tuple[int, int], _Pairs] = {}  # of each block and window

    def nearest(
        self, query: Tensor, bank: Tensor, picked: Tensor, align: str, soon: Sequence[Tensor] = ()
    ) -> Tensor:
        """Windows (L,W,n,C) and the bank's (L,V,n,C), of which each one may match those that it `picked`
        (W,P) -> the place (L,W,n) in the bank of each token's nearest one; of equally near ones that of the
        window picked first.

        `soon`: more that are going to be picked (W,...), by shorter banks; they are matched along.
        """
        product = _Product(query, bank)
        own = picked.tolist()
        following = [list(chain(*rows)) for rows in zip(*(part.tolist() for part in soon))]
        places = torch.empty(query.shape[:3], dtype=torch.long)
        for block, windows in enumerate(bank):
            for number, tokens in enumerate(query[block]):
                pairs = self.found.setdefault((block, number), _Pairs())
                wanted = own[number] + (following[number] if following else [])
                new = [window for window in dict.fromkeys(wanted) if window not in pairs.row]
                if new:
                    pairs.add(new, *product.nearest_in_each(tokens, windows, new, align))
                places[block, number] = pairs.nearest(own[number])
        return places


class _Pairs:
    """One window's tokens and the nearest ones in each of some windows of a bank."""

    def __init__(self) -> None:
        self.row: dict[int, int] = {}  # of each window of the bank
        self.likeness = self.place = torch.empty(0)

    def add(self, windows: Sequence[int], likeness: Tensor, place: Tensor) -> None:
        """What _Product found for windows that are new."""
        place = place.short()  # as little as can be: there are many pairs
        self.likeness = torch.cat([self.likeness, likeness]) if self.row else likeness
        self.place = torch.cat([self.place, place]) if self.row else place
        self.row.update(zip(windows, range(len(self.row), len(self.likeness))))

    def nearest(self, own: Sequence[int]) -> Tensor:
        """The places (n,) in the bank of the nearest tokens in the bank's `own` windows."""
        rows = torch.tensor([self.row[window] for window in own])
        best = self.likeness[rows].max(0).indices
        within = self.place[rows].gather(0, best[None])[0].long()
        return torch.tensor(own)[best] * self.likeness.shape[1] + within


class _Product:
    """Multiplies a window of a query with some of a bank's; its memory is used again and again."""

    def __init__(self, query: Tensor, bank: Tensor) -> None:
        self.patches, width = query.shape[2:]
        line = LINE_BYTES // query.element_size()
        columns = -(-self.patches // line) * line
        self.windows = IN_A_PRODUCT if query.dtype == torch.bfloat16 else 1
        self.gathered = bank.new_empty(self.windows, self.patches, width)
        self.query = query.new_zeros(width, columns)
        self.likeness = query.new_empty(self.windows, self.patches, columns)
        self.greatest = GreatestOfColumns(self.likeness, self.patches)

    def nearest_in_each(
        self, query: Tensor, bank: Tensor, windows: Sequence[int], align: str
    ) -> tuple[Tensor, Tensor]:
        """Tokens (n,C), the bank's windows (V,n,C) and the numbers of P of these -> how alike each token and
        the nearest one in each window are, and which token of the window that is: both (P,n). See
        memory_bank.nearest_of."""
        self.query[:, : self.patches] = query.t()
        products = (self._with_some(bank, part) for part in torch.tensor(windows).split(self.windows))
        if align == "mulmax" and query.dtype == torch.bfloat16:
            marked = [self.greatest.marked_of(product) for product in products]
            likeness, place = self.greatest.unmarked(torch.cat(marked)[: len(windows)])
            return likeness, place
        found = [self._nearest(product[..., : self.patches], align) for product in products]
        likeness, place = (torch.cat(parts)[: len(windows)] for parts in zip(*found))
        return likeness, place

    def _with_some(self, bank: Tensor, windows: Tensor) -> Tensor:
        """The products (windows,n,columns) of a bank's windows, of which the last stands in for those that
        lack."""
        lacking = windows[-1:].expand(self.windows - len(windows))
        torch.index_select(bank, 0, torch.cat([windows, lacking]), out=self.gathered)
        torch.mm(self.gathered.flatten(0, 1), self.query, out=self.likeness.flatten(0, 1))
        return self.likeness

    def _nearest(self, product: Tensor, align: str) -> tuple[Tensor, Tensor]:
        """How alike each token and the nearest one of each gathered window are, and which one that is."""
        if align == "diff2":
            product = product.float() - (self.gathered.float().square().sum(-1) / 2)[..., None]
        values, places = product.max(1)
        return values, places


class GreatestOfColumns:
    """The greatest bf16 number of each column and its place, the first of equal ones: as max(1), but in half
    the time.

    A bf16 number fills the upper half of a float32. Its place is marked in the lower half, so that of equal
    numbers above zero the first one is the greatest, and one maximum finds both. Where no number is above
    zero, or one is none, the plain way is taken. `like` (P,m,n'): of the size and device of what will come,
    of which the first `columns` count.
    """

    def __init__(self, like: Tensor, columns: int) -> None:
        self.rows, self.columns = like.shape[1], columns
        self.work = torch.empty_like(like, dtype=torch.float32)
        self.marks = torch.arange(self.rows - 1, -1, -1, dtype=torch.int32, device=like.device)[:, None]

    def marked_of(self, values: Tensor) -> Tensor:
        """bf16 values (P,m,n') -> the greatest of each column that counts, with its mark: (P,n) float32."""
        self.work.copy_(values)
        self.work.view(torch.int32).bitwise_or_(self.marks)
        found = self.work.amax(1)[:, : self.columns]
        least = torch.finfo(torch.float32).tiny
        if not found.amin() >= least:  # neither does what is no number
            part, column = (~(found >= least)).nonzero(as_tuple=True)
            greatest, place = values[part, :, column].max(1)
            marks = (self.rows - 1 - place).int()
            found[part, column] = greatest.float().view(torch.int32).bitwise_or_(marks).view(torch.float32)
        return found

    def unmarked(self, marked: Tensor) -> tuple[Tensor, Tensor]:
        """What `marked_of` gave -> the greatest numbers, and their places."""
        bits = marked.contiguous().view(torch.int32)
        values = (bits & ~MARK_BITS).view(torch.float32).to(torch.bfloat16)
        return values, self.rows - 1 - (bits & MARK_BITS)
