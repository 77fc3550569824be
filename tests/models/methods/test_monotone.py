"""No score and no map falls where the distances to the references rise, in methods without trained heads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fdsl.scoring import image_scores
from models.features import Features
from models.methods.batch import Batch
from models.methods.nearest import Nearest
from models.methods.plus import Plus
from models.methods.subspace import Subspace, SubspaceMemory
from utils.config import MethodConfig

GRID, WIDTH, LAYERS = 12, 8, 3
METHODS = [Nearest, Plus, Subspace, Batch]
ROUNDING = 1e-6
few = settings(max_examples=60, deadline=None)


@st.composite
def risen(draw, *size):
    """Distances in [0,1] and larger ones, of which many, some or none have risen; whole areas may be zero."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    low = torch.rand(size, generator=generator) ** draw(st.sampled_from([0.2, 1, 8]))
    low[torch.rand(size, generator=generator) < draw(st.sampled_from([0, 0.5, 1]))] = 0
    rise = torch.rand(size, generator=generator) * draw(st.sampled_from([1e-4, 0.1, 1]))
    rise[torch.rand(size, generator=generator) < draw(st.sampled_from([0, 0.9, 1]))] = 0
    return low, (low + rise).clamp(max=1)


def tokens_of(seed):
    """(L,1,n,C) of unit length; many of them alike."""
    tokens = torch.randn(LAYERS, 1, GRID**2, WIDTH, generator=torch.Generator().manual_seed(seed))
    tokens[:, :, : GRID**2 // 2] = tokens[:, :, :1] + 0.1 * tokens[:, :, : GRID**2 // 2]
    return torch.nn.functional.normalize(tokens, dim=-1)


def summarised(method, raw):
    """Map and score of raw maps (M,1,n)."""
    maps = raw.unflatten(-1, (GRID, GRID))
    return method.summarise(method.final(method.refine(maps)))


@pytest.mark.parametrize("kind", METHODS)
@few
@given(data=st.data())
def test_from_raw_maps_on_nothing_falls(kind, data):
    method = kind(WIDTH, LAYERS)
    if method.scales:
        method.set_scales([0.3] * len(method.scales))
    low, high = data.draw(risen(method.groups * LAYERS, 1, GRID**2))
    before, after = summarised(method, low), summarised(method, high)
    assert (after[0] >= before[0] - ROUNDING).all() and (after[1] >= before[1] - ROUNDING).all()
    for score in ("max", "top1"):
        first, second = (image_scores(maps.numpy(), raw.numpy(), score) for maps, raw in (before, after))
        assert (second >= first - ROUNDING).all()


@pytest.mark.parametrize("left_out", [(), *((part,) for part in Plus.components)])
@few
@given(distances=risen(2 * LAYERS, 1, GRID**2), seed=st.integers(0, 2**31))
def test_neither_map_nor_score_of_plus_falls(left_out, distances, seed):
    """Whatever the image's own patches have in common: its self-dissimilarity weighs distances, it does not
    lower them as they rise."""
    method, query = Plus(WIDTH, LAYERS, MethodConfig(leave_out=left_out)), Features(tokens_of(seed))

    def of(both: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        method._distances = lambda *_: tuple(both.chunk(2))
        return summarised(method, method.raw_maps(query, None))

    (map_before, score_before), (map_after, score_after) = map(of, distances)
    assert (map_after >= map_before - ROUNDING).all() and (score_after >= score_before - ROUNDING).all()


@few
@given(seed=st.integers(0, 2**31), share=st.floats(0, 3))
def test_the_distance_of_subspace_rises_with_that_from_the_subspace(seed, share):
    """Tokens moved along their residual."""
    tokens = tokens_of(seed)
    memory = SubspaceMemory.fitted(tokens[0, 0, : GRID**2 // 2])
    query = Features(tokens, raw_tokens=3 * tokens)
    centred = query.raw_tokens - memory.mean
    residual = centred - centred @ memory.directions @ memory.directions.T
    moved = query._replace(raw_tokens=query.raw_tokens + share * residual)
    before, after = (Subspace(WIDTH, LAYERS).raw_maps(one, memory) for one in (query, moved))
    assert torch.allclose(after, (1 + share) ** 2 * before, atol=1e-4)
