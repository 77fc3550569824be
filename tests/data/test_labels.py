"""Labels of photographs: every usual word and number in any case, and questions instead of guesses."""

import pytest

from data.labels import anomalous, read_labels
from utils.errors import DataError


@pytest.mark.parametrize(
    "good, bad",
    [
        ("0", "1"),
        ("0.0", "1.0"),
        ("good", "Defect"),
        ("OK", "NOK"),
        ("ok", "NG"),
        ("Pass", "FAIL"),
        ("i.O.", "n.i.O."),
        ("Negative", "positive"),
        ("1", "-1"),
        ("1.0", "-1.0"),
        ("False", "TRUE"),
        (" normal ", "Anomaly"),
        ("0", "3"),
    ],
)
def test_both_sides_of_every_usual_pair(good, bad, logged):
    assert anomalous([good, bad, good]) == [False, True, False]
    assert f"{good.strip().casefold()} (2)" in logged() and f"{bad.strip().casefold()} (1)" in logged()


@pytest.mark.parametrize("unknown", ["perhaps", "scratch", "nan", "inf", "?"])
def test_an_unknown_word_is_a_question(unknown):
    with pytest.raises(DataError, match="normal or anomalous"):
        anomalous(["good", unknown])


def test_a_minus_beside_other_numbers_is_refused():
    with pytest.raises(DataError, match="-1 and other numbers"):
        anomalous(["-1", "0", "1"])


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_table_of_any_spreadsheet(tmp_path, mark):
    file = tmp_path / "labels.csv"
    file.write_text(f"image{mark}label\nline\\a.png{mark}0.0\nb.png{mark}1.0\n")
    assert read_labels(file) == ([tmp_path / "line/a.png", tmp_path / "b.png"], [False, True])
    file.write_text(f"image{mark}label\na.png{mark}maybe\n")
    with pytest.raises(DataError, match="labels.csv: is maybe normal or anomalous"):
        read_labels(file)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_a_table_in_the_encodings_of_spreadsheets(tmp_path, encoding):
    file = tmp_path / "labels.csv"
    file.write_text("image,label\nPrüfteil.png,good\n螺丝.png,bad\n", encoding=encoding)
    assert read_labels(file) == ([tmp_path / "Prüfteil.png", tmp_path / "螺丝.png"], [False, True])
