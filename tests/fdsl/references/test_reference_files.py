"""What --references may name: normal images alone, and what is left out is reported."""

import pytest

from fdsl.references.reference_files import reference_files
from tests.support.photographs import draw
from utils.errors import DataError
from utils.image_statistics import other_shape


@pytest.mark.parametrize("inner", ["ground_truth", "masks", "Test", "mask", "test_public"])
def test_a_whole_dataset_is_refused_and_the_right_folder_named(tmp_path, inner):
    draw(tmp_path / "part/train/good/1.png", 1)
    draw(tmp_path / "part" / inner / "scratch/1.png", 2)
    for given in (tmp_path, tmp_path / "part"):
        with pytest.raises(DataError, match=f"{inner}/ lies inside.*train/good"):
            reference_files([str(given)])
    assert len(reference_files([str(tmp_path / "part/train/good")])) == 1
    assert len(reference_files([str(tmp_path / "part/train")])) == 1


def test_what_is_not_read_is_named(tmp_path, logged):
    draw(tmp_path / "1.png", 1)
    (tmp_path / "2.HEIC").write_bytes(b"x")
    assert reference_files([str(tmp_path)]) == [tmp_path / "1.png"]
    assert "2.HEIC: .heic photographs are not read" in logged()


@pytest.mark.parametrize(
    "size, references, reported",
    [
        ((900, 900), [(300, 300)], False),
        ((900, 300), [(300, 300)], True),
        ((300, 900), [(300, 300)], True),
        ((300, 900), [(300, 300), (100, 310)], False),
        ((300, 280), [(300, 300)], False),
        ((300, 280), [], False),
    ],
)
def test_another_shape_is_said(size, references, reported):
    assert (other_shape(size, references) is not None) == reported
