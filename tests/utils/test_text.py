"""Names in their natural order, and on one printable line."""

from utils.text import natural_key, printable


def test_natural_order():
    ordered = ["9", "10", "a09", "a9", "a10b2", "a10b11", "b"]
    mixed = list(reversed(ordered))
    assert sorted(mixed, key=natural_key) == ordered
    assert natural_key("a9") != natural_key("a09")
    assert natural_key("9" * 5000) > natural_key("1" * 5000)


def test_printable_names_are_one_printable_line():
    assert printable("caf\u00e9 'x'.png") == "caf\u00e9 'x'.png"
    assert printable("a\nb\udcff\x1b[31m.png") == "a\\nb\\udcff\\x1b[31m.png"
