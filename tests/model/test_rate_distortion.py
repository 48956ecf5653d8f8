"""The last codeword by error and rate, against every codeword tried one by one."""

from __future__ import annotations

import pytest
import torch

from pillow_mcquic.model.nearest import group_of, lookup
from pillow_mcquic.model.rate_distortion import LastStage, Rates


@pytest.mark.parametrize("k", [16, 300])
@pytest.mark.parametrize("fractional", [False, True])
def test_choice_is_the_least_of_all(fractional: bool, k: int, pruning: bool) -> None:
    """Against every codeword, tried one by one; of 300, in no order, in prefixes."""
    generator = torch.Generator().manual_seed(1)
    groups, count = 3, 200
    codewords = torch.randn(groups, k, 2, generator=generator)
    bits = torch.rand(groups, 2, 5, k, generator=generator) * 8
    low = torch.randint(0, 4, (groups, count), generator=generator)
    share = torch.rand(groups, count, generator=generator) if fractional else None
    vectors = torch.randn(groups, count, 2, generator=generator)
    rates = Rates([bits], group_of(vectors), low, share)
    context = torch.randint(0, 2, (groups, count), generator=generator).bool()
    every = torch.arange(k).expand(groups, count, k)
    losses = torch.stack(
        [
            (vectors - lookup(codewords, rates.group, every[..., i])).square().sum(-1)
            + 0.2 * rates.of(0, context, every[..., i])
            for i in range(k)
        ],
        -1,
    )
    found = LastStage([codewords], bits, 0.2)(vectors.flatten(0, 1), rates.table(0, context).flatten(), rates.flat())
    assert torch.equal(found.view(groups, count), losses.argmin(-1))
