"""A saved detector that another program wrote, with a right checksum, is refused in one sentence when it is
loaded."""

import pytest
import torch

from fdsl.api import AnomalyDetector, ConfigError
from fdsl.detector_state import METADATA_KEY
from fdsl.store.tensor_file import read_tensor_file, write_tensor_file
from tests.support.photographs import draw
from tests.support.predictions import BACKBONE_OPTIONS

NUMBERS = torch.tensor([10**9, -1])


@pytest.fixture(scope="module")
def saved(tiny_configs, tmp_path_factory):
    """A detector with tiles and mutual scoring, as its metadata and tensors."""
    folder = tmp_path_factory.mktemp("saved")
    files = [folder / f"{number}.png" for number in (1, 2, 3)]
    for number, file in enumerate(files):
        draw(file, number)
    encoder = {**BACKBONE_OPTIONS, "model_config": tiny_configs, "device": "cpu", "precision": "fp32"}
    made = AnomalyDetector.from_backbone(tiles=2, with_batch=True, **encoder)
    made.fit(files[:2], test_images=files)
    made.save(folder / "part.safetensors")
    return read_tensor_file(folder / "part.safetensors", METADATA_KEY)


def written(saved, file, tensors=None, **changed):
    metadata, before = saved
    kept = {name: value for name, value in {**before, **(tensors or {})}.items() if value is not None}
    rest = {name: value for name, value in metadata.items() if name != "checksum"}
    write_tensor_file(file, kept, METADATA_KEY, {**rest, **changed})
    return file


def test_it_is_loaded_as_it_was_written(saved, tmp_path):
    AnomalyDetector.load(written(saved, tmp_path / "d.safetensors"))


@pytest.mark.parametrize(
    "name",
    ["bank.mean", "bank.centred", "bank.sizes", "bank.whitening", "tile_bank.centred", "test_images.tokens"]
    + ["test_images.digests", "normal.scores", "normal.peaks", "normal.kinds", "references.statistics"],
)
def test_a_tensor_of_another_shape_is_refused(saved, tmp_path, name):
    right = saved[1][name]
    for other in (right[None], right.flatten()[0], torch.cat([right, right]), right[:0]):
        if other.shape == right.shape:
            continue
        file = written(saved, tmp_path / "d.safetensors", {name: other.contiguous()})
        with pytest.raises(ConfigError, match="is not a complete detector") as raised:
            AnomalyDetector.load(file)
        assert name.split(".")[0] in str(raised.value)


@pytest.mark.parametrize(
    "tensors",
    [
        {"tiles.layout": NUMBERS},
        {"tiles.layout": torch.ones(2)},
        {"grey.range": torch.ones(4)},
        {"references.normalisation": torch.ones(2)},
        {"normal.prior": torch.ones(3)},
        {"references.sizes": torch.zeros(2, 2, dtype=torch.int64)},
        {"bank.sizes": torch.zeros(2, 1, dtype=torch.int64)},
        {"test_images.tiles": torch.tensor([7])},
        {"references.sizes": None},
        {"references.file.1": None},
    ],
    ids=lambda tensors: str(*tensors),
)
def test_other_values_are_refused(saved, tmp_path, tensors):
    with pytest.raises(ConfigError, match="is not a complete detector"):
        AnomalyDetector.load(written(saved, tmp_path / "d.safetensors", tensors))


@pytest.mark.parametrize(
    "changed",
    [
        {"reference_files": [["x"], ["y"]]},
        {"threshold": {"score": 10**400, "pixel_threshold": None, "source": "given", "rate": None}},
    ],
    ids=lambda changed: str(*changed),
)
def test_other_metadata_is_refused(saved, tmp_path, changed):
    with pytest.raises(ConfigError, match="is not a complete detector"):
        AnomalyDetector.load(written(saved, tmp_path / "d.safetensors", **changed))
