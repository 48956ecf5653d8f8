"""Nearest codewords: the search of few finds what a search of all does."""

from __future__ import annotations

import pytest
import torch

from pillow_mcquic.model.nearest import batches, group_of, largest_product, nearest
from pillow_mcquic.training.initial import lattice


def test_nearest_is_nearest() -> None:
    vectors, codewords = torch.randn(3, 700, 4), torch.randn(3, 50, 4)
    distance = (vectors[:, :, None] - codewords[:, None]).square().sum(-1)
    index = nearest(vectors.flatten(0, 1), group_of(vectors).flatten(), codewords).view(3, 700, 1)
    found = torch.gather(distance, 2, index)[:, :, 0]
    assert torch.allclose(found, distance.min(-1).values, atol=1e-4)  # codewords equally near, as float32 has it


@pytest.mark.parametrize(("count", "dim"), [(50, 4), (256, 2), (1536, 1)])
def test_nearest_is_nearest_in_every_prefix(count: int, dim: int, pruning: bool) -> None:
    codewords = torch.stack([lattice(count, dim, seed) for seed in range(3)])
    vectors = torch.randn(3, 700, dim) * torch.logspace(-1, 2, 700)[:, None]
    distance = (vectors[:, :, None] - codewords[:, None]).square().sum(-1)
    index = nearest(vectors.flatten(0, 1), group_of(vectors).flatten(), codewords).view(3, 700, 1)
    found = torch.gather(distance, 2, index)[:, :, 0]
    assert torch.allclose(found, distance.min(-1).values, atol=0.02)  # codewords equally near, as float32 has it


@pytest.mark.parametrize("count", [50, 64, 241, 256, 1536])
def test_largest_product_is_the_largest(count: int) -> None:
    columns, codewords = torch.randint(-3, 4, (2, 3, 300)).float(), torch.randint(-3, 4, (2, count, 3)).float()
    scores = codewords @ columns  # with many equal ones
    index = largest_product(columns, codewords)
    assert torch.equal(torch.gather(scores, 1, index[:, None])[:, 0], scores.amax(1))


def test_many_groups_are_searched_each_among_its_own_words() -> None:
    codewords, vectors = torch.randn(300, 256, 2), 3 * torch.randn(300, 4, 2)
    found = nearest(vectors.flatten(0, 1), group_of(vectors).flatten(), codewords).view(300, 4)
    assert torch.equal(found, (vectors[:, :, None] - codewords[:, None]).square().sum(-1).argmin(-1))


@pytest.mark.parametrize("most", [1, 5, 9, 100])
def test_batches_are_all_groups_in_turn(most: int) -> None:
    sizes = [4, 0, 5, 7, 0, 1, 9, 2]
    found = list(batches(sizes, most))
    assert [n for _, batch in found for n in batch] == sizes
    assert all(sizes[which] == batch and (sum(batch) <= most or len(batch) == 1) for which, batch in found)
