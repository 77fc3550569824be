"""How categories are sharded among processes."""

from itertools import product

import pytest

from fdsl.commands.evaluate_runs import shards_of


@pytest.mark.parametrize("count, seed", list(product((1, 2, 3, 8), (0, 1))))
def test_each_category_goes_to_one_shard(count, seed):
    sizes = {f"category {number}": (number * 7 + seed) % 5 + 1 for number in range(13)}
    found = shards_of(sizes, count)
    assert sorted(name for part in found for name in part) == sorted(sizes)
    held = [sum(sizes[name] for name in part) for part in found]
    assert max(held) <= sum(sizes.values()) / count + max(sizes.values())


def test_the_largest_go_first_and_nothing_depends_on_the_order():
    sizes = {"a": 10, "b": 9, "c": 8, "d": 3, "e": 3, "f": 3}
    assert shards_of(sizes, 2) == [{"a", "d", "e", "f"}, {"b", "c"}]
    assert shards_of(sizes, 2) == shards_of(dict(reversed(sizes.items())), 2)
    assert shards_of({"a": 1}, 3) == [{"a"}, set(), set()]
