"""First values: lattices, and the identity for blocks that are new."""

from __future__ import annotations

import pytest
import torch

from pillow_mcquic.training.initial import lattice


@pytest.mark.parametrize(("dim", "kissing"), [(1, 2), (2, 6), (4, 24), (8, 240)])
def test_lattices_start_with_zero_and_their_kissing_number(dim: int, kissing: int) -> None:
    norms = lattice(kissing + 2 if dim < 8 else 241, dim, seed=0).square().sum(1)
    assert norms[0] == 0
    assert (norms > norms[1] + 1e-4).sum() == (1 if dim < 8 else 0)
    assert torch.allclose(norms[1 : kissing + 1], norms[1])
