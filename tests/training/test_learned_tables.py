"""Learned tables: the gradient of a codeword, what errors cost."""

from __future__ import annotations

import math

import pytest
import torch

from pillow_mcquic.bitstream.coding_order import Bank
from pillow_mcquic.model.codebooks import Codebooks
from pillow_mcquic.model.nearest import group_of
from pillow_mcquic.model.rate_distortion import Rates
from pillow_mcquic.training.initial import new_objective, set_codebooks
from pillow_mcquic.training.learned_tables import TEMPERATURE, ExpectedCodeword, fractional_steps
from pillow_mcquic.training.settings import Settings


@pytest.mark.parametrize("classes", [[0, 5, 6, 7, 15, 22]])
def test_steps_of_whole_classes_are_the_same_in_training(classes: list[int]) -> None:
    books = Codebooks(Bank(level=1, groups=1, dim=2, stages=(4,)), 24)
    with torch.no_grad():
        books.log_step.normal_(generator=torch.Generator().manual_seed(2))
    whole = torch.tensor([classes])
    fractional = fractional_steps(books, whole.float())
    assert torch.allclose(fractional, books.steps(whole)[..., 0])
    between = fractional_steps(books, torch.tensor([[10.5]])).log()
    assert torch.allclose(between[0, 0], (books.log_step[0, 4] + books.log_step[0, 5]) / 2)


@pytest.mark.parametrize(("dim", "codewords"), [(1, 64), (2, 128), (4, 256)])
def test_gradient_of_a_codeword_is_that_of_an_expectation(dim: int, codewords: int, pruning: bool) -> None:
    """The expected place of a random codeword, times what moving it brings, differentiated by autograd over all."""
    torch.manual_seed(7)
    codebooks = Codebooks(Bank(level=1, groups=2, dim=dim, stages=(codewords,)), classes=24)
    set_codebooks(codebooks, (1.0,), 0)
    c = codebooks.codewords[0].detach()
    x = torch.randn(2, 40, dim).mul(2 / dim).requires_grad_()
    bits = 1 + 30 * c.norm(dim=-1)[:, None] * torch.tensor([0.5, 1.0, 2.0])[:, None]  # of three classes
    low, share = torch.randint(0, 2, (2, 40)), torch.rand(2, 40)
    price = torch.stack([torch.lerp(bits[g, low[g]], bits[g, low[g] + 1], share[g, :, None]) for g in range(2)])
    cost = (x[:, :, None] - c[:, None]).square().sum(-1) / 0.11 + price
    index = cost.argmin(-1)
    chosen = torch.stack([c[g, index[g]] for g in range(2)])
    gradient = torch.randn(2, 40, dim) * 5  # of the distortion, bits a step

    slope = (gradient + 2 / 0.11 * (x - chosen)).detach()
    (torch.softmax(-cost / TEMPERATURE, -1) * torch.einsum("gnd,gkd->gnk", slope, c)).sum().backward()
    expected, x.grad = x.grad, None

    rates = Rates([bits[:, None]], group_of(x), low, share)
    observed = []
    codeword, again, nothing = ExpectedCodeword.apply(
        x, c, index, rates, low, 0.11, 2, lambda *what: observed.extend(what)
    )
    assert torch.equal(codeword, chosen)
    assert torch.equal(again, chosen)
    assert torch.equal(nothing, torch.zeros(2))
    weight = torch.tensor([3.0, 0.5])  # of a bit in either image
    of_row = weight.repeat_interleave(20)[:, None]
    loss = (of_row * gradient * (0.25 * codeword + 0.75 * again)).sum() + (weight * nothing).sum()
    loss.backward()
    weighed = x.grad.abs().amax(-1) > 0
    assert 0.3 < weighed.float().mean() < 1 if pruning else weighed.all()
    assert torch.allclose((x.grad / of_row)[weighed], expected[weighed], rtol=0.02, atol=0.1)
    assert torch.where(weighed[..., None], 0, expected).abs().max() < 0.1 * expected.abs().max()
    for seen, told in zip((0.25 * of_row * gradient, chosen - x, of_row[:, 0]), observed, strict=True):
        assert torch.equal(seen, told)


def test_a_step_that_is_skipped_leaves_no_trace_in_what_errors_cost(settings: Settings) -> None:
    tables = new_objective(settings).tables_of(2)
    rank, classes = torch.zeros(5, dtype=torch.int64), torch.full((8, 5), 9)
    gradient, weight = torch.ones(8, 5, 1), torch.ones(5)
    tables.observe(gradient, gradient, weight, rank, classes)
    before = tables.error_cost.clone()
    gradient[3, 2] = math.nan
    tables.observe(gradient, gradient, weight, rank, classes)
    assert torch.equal(tables.error_cost, before)
