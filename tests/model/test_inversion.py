"""Inversion: latents are moved to where synthesis gives the picture back, and only there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pillow_mcquic.model.inversion import Inversion, inversion_share
from pillow_mcquic.nn.reshape import to_pixels

CHANNELS = 6


def basis() -> Tensor:
    """Of patches, orthonormal: (768, channels)."""
    found: Tensor = torch.linalg.qr(torch.randn(768, CHANNELS, generator=torch.Generator().manual_seed(0))).Q
    return found


def pictures_of(latent: Tensor, signs: Tensor) -> Tensor:
    """A synthesis that is its linear shortcut, times a sign for each square: (B, 3, h * 16, w * 16)."""
    return to_pixels((latent * signs).permute(0, 2, 3, 1) @ basis().t(), 16).permute(0, 3, 1, 2)


def test_a_square_is_moved_where_that_helps_and_only_there() -> None:
    """Where the sign is -1 every move leads away from the original."""
    wanted = torch.randn(1, CHANNELS, 2, 3, generator=torch.Generator().manual_seed(1))
    signs = torch.tensor([[1.0, 1.0, -1.0], [-1.0, 1.0, -1.0]])
    original, given = pictures_of(wanted, torch.ones(2, 3)), wanted + 0.5 * signs
    found = Inversion()(given, basis(), lambda latent: original - pictures_of(latent, signs), torch.tensor([10.0]))
    assert torch.allclose(found[..., signs > 0], wanted[..., signs > 0], atol=1e-3)
    assert torch.equal(found[..., signs < 0], given[..., signs < 0])


@pytest.mark.parametrize(("quality", "share"), [(1, 0), (8, 0), (8.25, 0.25), (9, 1), (10, 1)])
def test_it_begins_above_quality_8(quality: float, share: float) -> None:
    assert inversion_share(torch.tensor([quality])).flatten().tolist() == [share]
