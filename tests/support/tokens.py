"""Random tokens, always alike."""

import torch


def unit_tokens(count, seed=0):
    """(count,64), each of unit length."""
    return torch.nn.functional.normalize(
        torch.randn(count, 64, generator=torch.Generator().manual_seed(seed)), dim=-1
    )
