"""Random pixels and tokens, always alike."""

import torch

from models.features import Features
from models.matching.memory_bank import MemoryBank


def unit_tokens(count, seed=0):
    """(count,64), each of unit length."""
    return torch.nn.functional.normalize(
        torch.randn(count, 64, generator=torch.Generator().manual_seed(seed)), dim=-1
    )


def noise(*size, seed=0):
    """Pixels of this size, uint8."""
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def bank_of(tokens, photographs=1):
    """The memory bank of tokens (L,M,C) of so many photographs, with as many tokens each."""
    sizes = [[tokens.shape[1] // photographs]] * photographs
    return MemoryBank.collected([Features(tokens[:, None])], sizes)
