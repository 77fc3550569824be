"""Float tensors that were normalised for a network, brought back by the normalisation of the references."""

import numpy as np
import pytest
import torch
from open_clip.constants import IMAGENET_MEAN, IMAGENET_STD, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from data.normalised import Normalisation, find_normalisation
from data.photographs import as_photograph
from utils.errors import DataError

USUAL = [
    ((0.5,) * 3, (0.5,) * 3),
    ((0.5,) * 3, (1.0,) * 3),
    (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD),
    (IMAGENET_MEAN, IMAGENET_STD),
]


def pixels(seed, low=60, high=200):
    """(3,16,16) uint8, of a narrow band of grey levels, which suit several normalisations."""
    return torch.from_numpy(np.random.default_rng(seed).integers(low, high, (3, 16, 16), np.uint8))


def normalised(image, mean, std):
    return (image.float() / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


@pytest.mark.parametrize("mean, std", USUAL)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_the_eight_bits_come_back_to_the_bit(mean, std, kind):
    found = find_normalisation([normalised(pixels(seed), mean, std).to(kind) for seed in range(2)])
    assert found == Normalisation(mean, std)
    other = pixels(7, 0, 256)
    again = as_photograph(found.plain(normalised(other, mean, std).to(kind)))
    assert np.array_equal(np.asarray(again), other.permute(1, 2, 0).numpy())


def test_where_no_levels_tell_the_narrowest_that_holds_the_values_is_taken():
    generator = torch.Generator().manual_seed(0)
    images = [normalised(255 * torch.rand((3, 16, 16), generator=generator), *USUAL[3]) for _ in range(2)]
    assert find_normalisation(images) == Normalisation(*USUAL[3])
    assert find_normalisation([0.1 * one for one in images]) == Normalisation(*USUAL[1])


def test_what_is_not_normalised_is_as_it_was():
    plain = pixels(1).float() / 255
    assert find_normalisation([plain, pixels(2), "a.png", np.zeros((4, 4, 3), np.uint8)]) is None
    assert find_normalisation([255 * plain]) is None
    found = Normalisation(*USUAL[3])
    for image in ("a.png", pixels(1), None):
        assert found.plain(image) is image


def test_another_normalisation_than_the_references_is_refused():
    found = Normalisation(*USUAL[0])
    with pytest.raises(DataError, match="^images\\[3\\] has values that the references' normalisation does"):
        found.plain(normalised(pixels(1, 0, 255), *USUAL[3]), "images[3]")
    assert torch.equal(found.plain(torch.full((3, 4, 4), -1.0001)), torch.zeros(3, 4, 4))
