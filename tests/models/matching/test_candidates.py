"""References scored as if they were unknown, against the same written down patch by patch."""

import pytest
import torch

from models.detector import Detector
from models.matching.candidates import NEAR, Masked
from models.matching.memory_bank import ALIGNMENTS
from models.methods.fdsl import Fdsl
from tests.support import plain
from tests.support.tokens import noise
from utils.config import MethodConfig, WindowConfig

SIDE, PATCH, GRID = 64, 8, 8


def elsewhere(query, bank, at, places, align):
    """For each query token the index of the nearest bank token that does not lie near its own place."""
    found = []
    for token, (row, column) in zip(query, at.tolist()):
        allowed = [
            index for index, (r, c) in enumerate(places.tolist()) if max(abs(r - row), abs(c - column)) > NEAR
        ]
        distance = (bank[allowed] - token).norm(dim=-1) if align == "diff2" else -(bank[allowed] @ token)
        found.append(allowed[int(distance.argmin())])
    return torch.tensor(found)


@pytest.mark.parametrize("align", ALIGNMENTS)
@pytest.mark.parametrize("index_memory", ["0", "window"])
def test_a_reference_is_matched_elsewhere_in_itself(tiny_backbone, align, index_memory):
    torch.manual_seed(0)
    method, images = Fdsl(32, 2, MethodConfig(align=align)).eval(), noise(2, 3, SIDE, SIDE)
    detector = Detector(
        tiny_backbone, method, SIDE, WindowConfig("mul", 6, 2, 0.5, index_memory=index_memory)
    )
    detector.fit(images[:1])
    own = torch.stack([torch.arange(GRID**2) // GRID, torch.arange(GRID**2) % GRID], dim=1).float()
    with torch.no_grad():
        found = detector(images, Masked(own[None]))
        cuts = [detector.windows.grid.cut(image, PATCH) for image in images]
        places = own[detector.windows.grid.patches]  # (W,36,2)
        whole = tiny_backbone.encode(images).tokens
        parts = [tiny_backbone.encode(cut).tokens for cut in cuts]
        for number in range(2):
            base, window = [], []
            for block in range(2):
                bank = whole[block, 0]
                match = bank[elsewhere(whole[block, number], bank, own, own, align)]
                raw = plain.raw_map(method.heads[block], (whole[block, number] - match).abs())
                base.append(plain.refined_map(method.nam, raw.view(GRID, GRID)))
                bank, total, count = (
                    parts[0][block].flatten(0, 1),
                    torch.zeros(GRID, GRID),
                    torch.zeros(GRID, GRID),
                )
                for (row, column), query, at in zip(
                    detector.windows.grid.origins, parts[number][block], places
                ):
                    match = bank[elsewhere(query, bank, at, places.flatten(0, 1), align)]
                    total[row : row + 6, column : column + 6] += plain.raw_map(
                        method.heads[block], (query - match).abs()
                    ).view(6, 6)
                    count[row : row + 6, column : column + 6] += 1
                window.append(plain.refined_map(method.nam, total / count))
            assert torch.allclose(found.base[number], torch.stack(base).mean(0), atol=1e-5)
            assert torch.allclose(found.window[number], torch.stack(window).mean(0), atol=1e-5)
