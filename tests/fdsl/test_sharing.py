"""How categories are dealt to processes."""

from itertools import product

import pytest

from fdsl.sharing import dealt


@pytest.mark.parametrize("hands, seed", list(product((1, 2, 3, 8), (0, 1))))
def test_each_category_goes_to_one_hand(hands, seed):
    sizes = {f"category {number}": (number * 7 + seed) % 5 + 1 for number in range(13)}
    found = dealt(sizes, hands)
    assert sorted(name for part in found for name in part) == sorted(sizes)
    held = [sum(sizes[name] for name in part) for part in found]
    assert max(held) <= sum(sizes.values()) / hands + max(sizes.values())


def test_the_largest_go_first_and_nothing_depends_on_the_order():
    sizes = {"a": 10, "b": 9, "c": 8, "d": 3, "e": 3, "f": 3}
    assert dealt(sizes, 2) == [{"a", "d", "e", "f"}, {"b", "c"}]
    assert dealt(sizes, 2) == dealt(dict(reversed(sizes.items())), 2)
    assert dealt({"a": 1}, 3) == [{"a"}, set(), set()]
