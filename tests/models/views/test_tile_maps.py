"""Tiles beside the whole image: how a photograph is cut, and the detector against plain arithmetic."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from data.photographs import image_to_pixels, views_of
from data.variants import rotated_places
from fdsl.references.rotation import fit_references
from fdsl.scoring import Scorer, upsample_maps
from fdsl.thresholds.leave_one_out import held_out_batches
from models.detector import Detector
from models.methods.fdsl import Fdsl
from models.methods.nearest import Nearest
from models.methods.plus import TILE_WEIGHT, Plus
from models.methods.subspace import Subspace
from models.views.tile_maps import join_tiles, smoothed
from tests.support.detectors import final_tile_maps
from utils.config import WindowConfig
from utils.limits import AUTO_TILES
from utils.tile_layout import TileLayout, tiles_for
from utils.views import Views

SIDE, PATCH, GRID = 64, 8, 8
TWO = WindowConfig(winmode="nan", tiles=2)
AUTO = WindowConfig(winmode="nan", tiles=AUTO_TILES)


def photo(seed, size=(100, 100)):
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    )


def scorer_of(backbone, method=Nearest, windows=TWO):
    return Scorer(Detector(backbone, method(backbone.width, len(backbone.layers)), SIDE, windows))


@pytest.mark.parametrize(
    "size, count, expected",
    [
        ((900, 900), 2, (2, 2)),
        ((400, 100), 2, (1, 4)),
        ((100, 400), 2, (4, 1)),
        ((2000, 100), 2, (1, 9)),
        ((300, 400), 3, (3, 3)),
        ((50, 60), AUTO_TILES, None),
        ((70, 70), AUTO_TILES, (2, 2)),
        ((200, 200), AUTO_TILES, (3, 3)),
        ((5000, 5000), AUTO_TILES, (4, 4)),
        ((900, 900), 1, None),
    ],
)
def test_tiles_follow_the_size_and_the_shape(size, count, expected):
    layout = tiles_for([size], count, GRID, PATCH)
    assert (None if layout is None else (layout.rows, layout.columns)) == expected


def test_tiles_cover_every_patch_and_are_put_together_where_they_lie():
    layout = TileLayout(2, 3, GRID, PATCH)
    whole = torch.rand(layout.height, layout.width, generator=torch.Generator().manual_seed(1))
    tiles = [whole[row : row + GRID, column : column + GRID].flatten() for row, column in layout.origins]
    assert torch.allclose(join_tiles(torch.cat(tiles)[None], layout)[0], whole)


def test_a_photograph_is_cut_from_its_larger_picture():
    layout, picture = TileLayout(1, 2, GRID, PATCH), photo(1, (130, 60))
    views = views_of(picture, SIDE, layout)
    assert torch.equal(views.whole[0], image_to_pixels(picture, SIDE))
    large = picture.resize((layout.width * PATCH, SIDE), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.array(large)).permute(2, 0, 1)
    assert torch.equal(views.tiles[0, 0], expected[:, :, :SIDE])
    assert torch.equal(views.tiles[0, 1], expected[:, :, -SIDE:])


def test_the_filter_is_a_gauss_filter():
    maps = torch.rand(2, 3, 9, 12, generator=torch.Generator().manual_seed(2))
    for sigma in (0.5, 1.0):
        expected = gaussian_filter(maps.numpy(), (0, 0, sigma, sigma), mode="nearest")
        assert smoothed(maps, sigma).numpy() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(smoothed(maps, 0), maps)


def distances(query, normal):
    """Half the cosine distance of each token (N,C) to its nearest of (M,C)."""
    return (1 - (query @ normal.T).max(1)) / 2


def encoded(backbone, views):
    """A photograph's whole image and its T tiles -> tokens (1+T,L,N,C)."""
    found = [backbone.encode(view[None]).tokens[:, 0] for view in (views.whole[0], *views.tiles[0])]
    return torch.stack(found).double().numpy()


def plain_tile_maps(backbone, layout, references, query):
    """Each block's whole map (L,G,G) and its map of tiles (L,H,W), tile by tile."""
    known, asked = [encoded(backbone, views) for views in references], encoded(backbone, query)
    whole, fine = [], []
    for block in range(asked.shape[1]):
        normal = np.concatenate([one[0, block] for one in known])
        whole.append(distances(asked[0, block], normal).reshape(GRID, GRID))
        normal = np.concatenate([tile[block] for one in known for tile in one[1:]])
        total, count = np.zeros((layout.height, layout.width)), np.zeros((layout.height, layout.width))
        for tile, (row, column) in zip(asked[1:], layout.origins):
            part = slice(row, row + GRID), slice(column, column + GRID)
            total[part] += distances(tile[block], normal).reshape(GRID, GRID)
            count[part] += 1
        fine.append(total / count)
    return np.stack(whole), np.stack(fine)


def enlarged(maps, side):
    return upsample_maps(np.float32(maps), side).astype(float)


@pytest.mark.parametrize("size", [(100, 100), (300, 80)])
def test_nearest_with_tiles_is_half_of_each(tiny_backbone, size):
    scorer = scorer_of(tiny_backbone)
    photographs = [photo(seed, size) for seed in range(3)]
    fit_references(scorer, photographs[:2], 1)
    layout = scorer.detector.layout
    views = [views_of(picture, SIDE, layout) for picture in photographs]
    whole, fine = plain_tile_maps(tiny_backbone, layout, views[:2], views[2])
    smooth = gaussian_filter(enlarged(fine, 2 * GRID), (0, 1, 1), mode="nearest")
    both = (enlarged(whole, 2 * GRID) + smooth) / 2
    found = scorer(views[2], ["x"])
    assert found.base[0] == pytest.approx(both.mean(0), rel=1e-4, abs=1e-6)
    assert found.base_score[0] == pytest.approx(both.max((1, 2)).mean(), rel=1e-4)


def test_plus_with_tiles(tiny_backbone):
    scorer, alone = scorer_of(tiny_backbone, Plus), scorer_of(tiny_backbone, Plus, WindowConfig("nan"))
    photographs = [photo(seed) for seed in range(3)]
    for one in (scorer, alone):
        fit_references(one, photographs[:2], 1)
    views = views_of(photographs[2], SIDE, scorer.detector.layout)
    of_layers = final_tile_maps(scorer.detector, views).numpy()
    fine = gaussian_filter(enlarged(of_layers.mean(0), 2 * GRID), (0, 0.7, 0.7), mode="nearest")
    whole = alone(Views(views.whole), ["x"])
    expected = (1 - TILE_WEIGHT) * enlarged(whole.base, 2 * GRID) + TILE_WEIGHT * fine
    found = scorer(views, ["x"])
    assert found.base == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert found.base_score == pytest.approx(whole.base_score, rel=1e-5)


@pytest.mark.parametrize("method", [Nearest, Plus, Subspace, Fdsl])
def test_small_photographs_have_no_tiles_and_maps_of_the_same_size(tiny_backbone, method):
    scorer = scorer_of(tiny_backbone, method, AUTO)
    small, large = [photo(seed, (60, 60)) for seed in range(2)], [photo(seed) for seed in range(2)]
    fit_references(scorer, small, 1)
    assert scorer.detector.layout is None
    assert scorer(scorer.to_batch(small), ["x", "y"]).base.shape == (2, 2 * GRID, 2 * GRID)
    fit_references(scorer, large, 1)
    assert len(scorer.detector.layout) == 4
    assert scorer(scorer.to_batch(large), ["x", "y"]).base.shape == (2, 2 * GRID, 2 * GRID)


@pytest.mark.parametrize("method", [Nearest, Plus, Subspace])
@pytest.mark.parametrize("count", [1, 2])
def test_a_reference_is_unknown_to_tiles_too(tiny_backbone, method, count):
    scorer = scorer_of(tiny_backbone, method)
    photographs = [photo(seed) for seed in range(count)]
    turns = fit_references(scorer, photographs, 2)
    known = scorer(scorer.to_batch(photographs[:1]), ["x"]).base.mean()
    batches = list(held_out_batches(scorer, photographs, turns))
    unknown = [batch.score().base.mean() for batch in (batches[-1:] if count == 1 else batches[:1])]
    assert min(unknown) > 1.2 * known


def test_places_of_tiles_are_those_of_the_whole_image_but_finer():
    layout = TileLayout(2, 2, GRID, PATCH)
    coarse = rotated_places((90, 120), 4, GRID, None)
    fine = rotated_places((90, 120), 4, GRID, layout)
    assert fine.shape == (4, 4 * GRID**2, 2)
    assert fine[0].min() >= -0.5 and fine[0].max() <= GRID - 0.5
    assert fine.mean((0, 1)) == pytest.approx(coarse.mean((0, 1)), abs=0.05)
