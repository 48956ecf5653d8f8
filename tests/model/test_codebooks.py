"""Codebooks: vectors and planes, sums of codewords at the step of their class."""

from __future__ import annotations

import torch

from pillow_mcquic.bitstream.coding_order import Bank
from pillow_mcquic.model.codebooks import FIRST_STEP_CLASS, Codebooks


def test_vectors_and_planes_are_inverse() -> None:
    books = Codebooks(Bank(level=1, groups=3, dim=2, stages=(4,)), 24)
    x = torch.randn(2, 6, 4, 5)
    vectors = books.to_vectors(x)
    assert vectors.shape == (3, 40, 2)
    assert torch.equal(vectors[1, 7], x[0, 2:4, 1, 2])
    assert torch.equal(books.to_planes(vectors, 2, (4, 5)), x)


def test_codewords_are_summed_stage_by_stage_at_the_step_of_the_class() -> None:
    books = Codebooks(Bank(level=1, groups=3, dim=2, stages=(5, 7)), 24)
    with torch.no_grad():
        for parameter in books.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    codes = torch.stack([torch.randint(0, k, (2, 3, 4, 3)) for k in (5, 7)], 2).to(torch.int16)
    classes = torch.randint(0, 24, (2, 3, 4, 3)).to(torch.uint8)
    classes[0] += 24 * 3  # all escape, three times
    planes = books.sum_codewords(codes, classes)
    image, group, row, column = 1, 2, 3, 1
    step = books.log_step[group, max(0, int(classes[image, group, row, column]) - FIRST_STEP_CLASS)].exp()
    first, second = (int(codes[image, group, stage, row, column]) for stage in (0, 1))
    expected = (books.codewords[0][group, first] + books.codewords[1][group, second]) * step
    assert torch.allclose(planes[image, 4:6, row, column], expected)
    first, second = (int(codes[0, group, stage, row, column]) for stage in (0, 1))
    expected = (
        (books.codewords[0][group, first] + books.codewords[1][group, second]) * books.log_step[group, -1].exp() * 8
    )
    assert torch.allclose(planes[0, 4:6, row, column], expected)
