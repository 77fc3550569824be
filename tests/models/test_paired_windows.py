"""Windows matched pair by pair: what a pair gets hangs on nothing else, and is found once."""

import dataclasses

import pytest
import torch

from models import paired_windows
from models.features import Features
from models.matching import OwnPicks
from models.memory_bank import MemoryBank
from tests.support.tokens import unit_tokens
from utils.config import ALIGNMENTS


@pytest.mark.parametrize("align", ALIGNMENTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_pair_of_windows_is_matched_once(monkeypatch, dtype, align):
    """For banks that begin alike; what is found is what each bank finds by itself, pair by pair or all at
    once."""
    tokens, query = unit_tokens(4 * 6 * 9)[None].to(dtype), unit_tokens(2 * 9, 1).view(1, 2, 9, 64).to(dtype)
    bank = dataclasses.replace(MemoryBank.of_tokens(tokens, 4), known={})
    picks = ((4, [[23, 3, 8], [0, 1, 2]]), (2, [[3, 8, 11], [2, 1, 0]]), (1, [[5, 3, 0], [1, 4, 2]]))
    matched, plain_add = [], paired_windows._Pairs.add
    with monkeypatch.context() as patched:
        patched.setattr(paired_windows, "PAIRED_WIDTH", 0)
        patched.setattr(
            *(paired_windows._Pairs, "add"),
            lambda pairs, windows, *found: matched.append(len(windows)) or plain_add(pairs, windows, *found),
        )
        found = [bank.beginning(n).index_within(query, torch.tensor(one), align) for n, one in picks]
    assert matched == [3, 3, 1, 2, 1]
    for width in (0, paired_windows.PAIRED_WIDTH):
        monkeypatch.setattr(paired_windows, "PAIRED_WIDTH", width)
        for (photographs, picked), one in zip(picks, found):
            alone = MemoryBank.of_tokens(tokens[:, : 54 * photographs], photographs)
            assert torch.equal(one, alone.index_within(query, torch.tensor(picked), align))


def test_what_pairs_of_windows_are_remembered_by_is_bounded(monkeypatch):
    monkeypatch.setattr(paired_windows, "PAIRED_WIDTH", 0)
    pairs = paired_windows.PairedWindows()
    for own in ([0, 3], [3, 4], [0, 4]):
        pairs.nearest(torch.randn(1, 1, 9, 8), torch.randn(1, 5, 9, 8), torch.tensor([own]), "mulmax")
    held = [part for one in pairs.found.values() for part in (one.likeness, one.place)]
    size = sum(part.numel() * part.element_size() for part in held)
    assert size == 3 * paired_windows.bytes_of_a_pair(torch.device("cpu"), 8, 9)
    assert paired_windows.bytes_of_a_pair(torch.device("cuda"), 8, 9) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_pair_gets_depends_on_no_other_pair(dtype):
    """To the last bit: whether one pair is matched, a product's worth of them in any order, or more."""
    bank, query = unit_tokens(16 * 169).view(1, 16, 169, 64).to(dtype), unit_tokens(169, 1).to(dtype)
    product = paired_windows._Product(query[None, None], bank)
    for align in ALIGNMENTS:
        alone = [product.nearest_in_each(query, bank[0], [number], align) for number in range(16)]
        for order in (range(16), range(15, -1, -1), range(3, 16)):
            found = product.nearest_in_each(query, bank[0], list(order), align)
            for part, expected in zip(found, zip(*(alone[number] for number in order))):
                assert torch.equal(part, torch.cat(expected))


def test_the_first_greatest_number_of_each_column_is_found():
    numbers = torch.randn(5, 30, 8, generator=torch.Generator().manual_seed(0)).mul(4).round()
    numbers[1] -= 100
    numbers[2, :, 3] = 0
    numbers[2, 4:, 4], numbers[2, :4, 4] = 0, -0.0
    numbers[3, 7, 2] = float("nan")
    numbers[4] *= 1e-39
    values = numbers.bfloat16()
    greatest = paired_windows.GreatestOfColumns(values, 7)
    found, places = greatest.unmarked(greatest.marked_of(values))
    plain = values[..., :7].max(1)
    assert torch.equal(found.nan_to_num(9), plain.values.nan_to_num(9)) and found.isnan().sum() == 1
    assert torch.equal(places.long(), plain.indices)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_seeds_banks_pick_the_same_windows_alone(monkeypatch, dtype):
    """What shorter banks are going to pick is matched along with the longest one's, and changes nothing."""
    monkeypatch.setattr(paired_windows, "PAIRED_WIDTH", 0)
    tokens, query = unit_tokens(4 * 6 * 9)[None].to(dtype), unit_tokens(2 * 9, 1).view(1, 2, 9, 64).to(dtype)
    match, looked = OwnPicks(3), Features(query)

    def keyed(photographs):
        bank = MemoryBank.of_tokens(tokens[:, : 54 * photographs], photographs)
        return dataclasses.replace(bank, keys=bank.keys_of_own(9))

    longest = dataclasses.replace(keyed(4), known={})
    banks = [longest, longest.beginning(2), longest.beginning(1)]
    matched, found = [], []
    for bank in banks:
        found.append(match.index(bank, looked, "mulmax"))
        pairs = longest.known[next(key for key in longest.known if "pairs" in key)][0]
        matched.append([len(one.row) for one in pairs.found.values()])
    assert min(matched[0]) > 3 and matched[1] == matched[2] == matched[0]
    for photographs, one in zip((4, 2, 1), found):
        assert torch.equal(one, match.index(keyed(photographs), looked, "mulmax"))
