"""HEIC photographs: read where pillow-heif is installed, named with the cure where it is not."""

import subprocess
import sys

import pytest
from PIL import Image

from data.images import HEIF, open_image
from data.inputs import find_images
from tests.support.constants import ROOT
from utils.errors import DataError

# Stands in for the package: takes a PNG behind eight bytes that HEIC files begin with.
STAND_IN = """
import io
from PIL import Image, PngImagePlugin

def opened(stream, name=None):
    return PngImagePlugin.PngImageFile(io.BytesIO(stream.read()[8:]))

def register_heif_opener():
    Image.register_open("HEIF", opened, lambda start: start.startswith(b"HEIFtest"))
"""
READ = """
import sys
from data.images import IMAGE_SUFFIXES, open_image
from data.inputs import list_images
assert ".heic" in IMAGE_SUFFIXES
print([path.name for path in list_images(sys.argv[1])], open_image(sys.argv[1] + "/a.HEIC").getpixel((0, 0)))
"""


@pytest.mark.slow
def test_where_the_package_is_installed_they_are_photographs(tmp_path):
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages/pillow_heif.py").write_text(STAND_IN)
    (tmp_path / "in").mkdir()
    Image.new("RGB", (4, 4), (1, 2, 3)).save(tmp_path / "a.png")
    (tmp_path / "in/a.HEIC").write_bytes(b"HEIFtest" + (tmp_path / "a.png").read_bytes())
    command = [sys.executable, "-c", READ, str(tmp_path / "in")]
    path = {"PYTHONPATH": str(tmp_path / "packages")}
    found = subprocess.run(command, cwd=ROOT, env=path, check=True, capture_output=True, text=True)
    assert found.stdout == "['a.HEIC'] (1, 2, 3)\n"


@pytest.mark.skipif(HEIF, reason="pillow-heif is installed here")
def test_where_it_is_not_the_cure_is_named(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"....ftypheic" + bytes(64))
    assert [one.reason for one in find_images([tmp_path])] == [
        ".heic photographs are not read; install pillow-heif (pip install pillow-heif), or convert it to PNG "
        "or JPEG"
    ]
    with pytest.raises(DataError, match="install pillow-heif"):
        open_image(tmp_path / "a.heic")
