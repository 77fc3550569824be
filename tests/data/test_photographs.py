"""Photographs are read ahead, in order and few at a time."""

from data.inputs import Listed
from data.photographs import read_ahead
from tests.support.photographs import draw_parts


def test_reading_ahead_keeps_the_order_and_holds_few(tmp_path):
    place, asked = draw_parts(tmp_path), []

    def files():
        for number in range(40):
            asked.append(number)
            yield Listed(str(number), place / ("parts/2.png" if number % 3 else "parts/line b/broken.png"))

    reader = read_ahead(files(), 32, threads=3, ahead=4)
    first = next(reader)
    assert first.name == "0" and first.reason and len(asked) <= 6
    rest = list(reader)
    assert [item.name for item in rest] == [str(number) for number in range(1, 40)]
    assert all(bool(item.reason) == (int(item.name) % 3 == 0) for item in rest)
