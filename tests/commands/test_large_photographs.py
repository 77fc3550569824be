"""--max-pixels holds for every photograph that is opened: references, labelled and inspected ones."""

import pytest

from data.images import image_size
from tests.support.photographs import draw
from tests.support.predictions import RUNTIME
from tests.support.small_runs import command
from utils.errors import DataError

pytestmark = pytest.mark.usefixtures("one_thread")
predict = command("predict")


@pytest.fixture
def parts(tmp_path):
    for place in ("good/1", "good/2", "new/1", "labelled/good/1", "labelled/bad/1"):
        draw(tmp_path / f"{place}.png", 1 + len(place))
    return tmp_path


def limit_of(file):
    """One pixel less than a photograph has."""
    width, height = image_size(file)
    return str(width * height - 1)


def test_references_that_are_too_large_are_refused(parts, tiny_configs):
    arguments = ["--method", "nearest", "--references", str(parts / "good"), "--input", str(parts / "new")]
    arguments += ["--output", str(parts / "out")]
    encoder = ["--model", "ViT-tiny-test", "--pretrained", "none", "--layers", "1", "3", "--image-size", "32"]
    places = ["--model-config", tiny_configs]
    limit = ["--max-pixels", limit_of(parts / "good/1.png")]
    with pytest.raises(DataError, match="good/1.png.*above the limit"):
        predict.main([*arguments, *encoder, *places, *RUNTIME[:2], *limit])


def test_labelled_photographs_that_are_too_large_are_refused(detector, parts):
    arguments = ["--detector", str(detector), "--input", str(parts / "new"), *RUNTIME]
    arguments += ["--output", str(parts / "out")]
    labelled = ["--labels", str(parts / "labelled")]
    with pytest.raises(DataError, match="labelled/.*above the limit"):
        predict.main([*arguments, *labelled, "--max-pixels", limit_of(parts / "good/1.png")])
