"""The codeword search: error against bits, and nothing lost by leaving vectors out."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from pillow_mcquic.bitstream.coding_order import Bank
from pillow_mcquic.engine.bundle import EncoderBundle
from pillow_mcquic.model.codebooks import FIRST_STEP_CLASS, Codebooks
from pillow_mcquic.model.codeword_search import BankSearch, choose
from pillow_mcquic.model.nearest import group_of, lookup
from pillow_mcquic.model.rate_distortion import LastStage, Rates
from pillow_mcquic.training.initial import lattice, set_codebooks


def test_vectors_left_out_of_the_search_get_the_codewords_it_would_give_them(encoder_bundle: EncoderBundle) -> None:
    generator = torch.Generator().manual_seed(3)
    searches = encoder_bundle.searches(torch.device("cpu"))
    for number in encoder_bundle.decoder.config.banks_of(1):
        search, books = searches[number], searches[number].codebooks
        groups, dim = books.bank.groups, books.bank.dim
        classes = torch.randint(0, 24, (1, groups, 20, 30), generator=generator).to(torch.uint8)
        low = classes.transpose(0, 1).flatten(1).long()
        radii = search.last.zero_radius[:, :24] * books.steps(torch.arange(24).expand(groups, -1))[..., 0]
        direction = torch.nn.functional.normalize(torch.randn(groups, 600, dim, generator=generator), dim=-1)
        length = torch.gather(radii, 1, low) * (0.8 + 0.4 * torch.rand(groups, 600, generator=generator))
        vectors = direction * length[..., None]  # about as long as those that are left out
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            codes, found_classes = search.codes(books.to_planes(vectors, 1, (20, 30)), classes)
        rates = Rates(search.bits, group_of(vectors), low)
        every = choose(vectors / books.steps(low), list(books.codewords), rates, search.last)
        found = codes[0].flatten(2).long()
        assert torch.equal(found, torch.stack(every, 1))
        assert torch.equal(found_classes, classes)


def chosen_codewords(
    value: float, codewords: list[list[float]], prices: list[list[float]], error_per_bit: float
) -> list[int]:
    """Codes of one number: one group, one class; a price list for each stage, the same in both contexts."""
    books = [torch.tensor(stage)[None, :, None] for stage in codewords]
    bits = [torch.tensor(s)[None, None, None].repeat(1, 1 if i == 0 else 2, 1, 1) for i, s in enumerate(prices)]
    nil = torch.zeros(1, 1, dtype=torch.int64)
    rates = Rates(bits, nil, nil)
    return [
        c.item() for c in choose(torch.tensor([[[value]]]), books, rates, LastStage(books, bits[-1], error_per_bit))
    ]


@pytest.mark.parametrize(("value", "chosen"), [(0.9, 1), (0.6, 0), (0.66, 1), (0.64, 0)])
def test_search_weighs_error_against_bits(value: float, chosen: int) -> None:
    """Codeword 0 is v^2 off, codeword 1 (1 - v)^2 and 3 bits dearer: at 0.1 a bit they are equal at v = 0.65."""
    assert chosen_codewords(value, [[0.0, 1.0]], [[0.0, 3.0]], 0.1) == [chosen]


def test_search_leaves_a_coarse_codeword_out_where_a_fine_one_will_do(pruning: bool) -> None:
    """Coarse codeword 4 and fine codeword -1 reach 3 exactly; fine codeword 2 alone is 1 off and 5 bits cheaper."""
    codewords, prices = [[0.0, 4.0, -4.0], [0.0, -1.0, 2.0, 1.0]], [[0.0, 5.0, 5.0], [0.0, 1.0, 1.0, 1.0]]
    assert chosen_codewords(3.0, codewords, prices, 0.01) == [1, 1]
    assert chosen_codewords(3.0, codewords, prices, 0.3) == [0, 2]


@pytest.mark.parametrize("fractional", [False, True])
@pytest.mark.parametrize("scales", [(1.0,), (1.0, 1.0), (4.0, 1.0), (14.0, 3.6, 1.0)])
def test_search_is_the_best_of_its_choices(scales: tuple[float, ...], fractional: bool, pruning: bool) -> None:
    """Vectors of all sizes, most of them zero in the end, against the same choices tried on every one of them."""
    generator = torch.Generator().manual_seed(len(scales))
    groups, count, price = 3, 4000, 0.11
    codewords = [scale * lattice(60, 4, seed).repeat(groups, 1, 1) for seed, scale in enumerate(scales)]
    codewords = [w + 0.05 * torch.randn(w.shape, generator=generator) for w in codewords]  # 0 is not quite zero
    group, dear = torch.tensor([1.0, 0.3, 3.0])[:, None, None, None], torch.tensor([1.0, 0.5])[:, None, None]
    classes = torch.arange(1.0, 5.0)[:, None]
    bits = [w.square().sum(-1)[:, None, None].sqrt() * 4 * group * dear / classes + classes for w in codewords]
    bits[0] = bits[0][:, :1] * (0.2 if len(codewords) > 1 else 1)  # where coarse ones are cheap they are taken early
    low = torch.randint(0, 3, (groups, count), generator=generator)
    share = torch.rand(groups, count, generator=generator) if fractional else None
    vectors = torch.randn(groups, count, 4, generator=generator) * torch.logspace(-0.7, 1.3, count)[:, None]
    rates = Rates(bits, group_of(vectors), low, share)

    def spend(chosen: Callable[[int, Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """What the codewords cost that `chosen` gives for (stage, rest, context), and where any is not codeword 0."""
        rest, context, cost = vectors, torch.zeros_like(low, dtype=torch.bool), torch.zeros(groups, count)
        for stage, book in enumerate(codewords):
            index = chosen(stage, rest, context)
            cost = cost + rates.of(stage, context, index) * price
            rest = rest - lookup(book, rates.group, index)
            context = context | (index != 0)
        return cost + rest.square().sum(-1), context

    def tried(forced: int, stage: int, rest: Tensor, context: Tensor) -> Tensor:
        loss = (rest[:, :, None] - codewords[stage][:, None]).square().sum(-1)
        if stage == len(codewords) - 1:
            every = torch.arange(60).expand(groups, count, 60)
            loss += price * torch.stack([rates.of(stage, context, every[..., i]) for i in range(60)], -1)
        return torch.zeros_like(low) if stage < forced else loss.argmin(-1)

    found = choose(vectors, codewords, rates, LastStage(codewords, bits[-1], price))
    cost, context = spend(lambda stage, *_: found[stage])
    least = torch.stack([spend(partial(tried, forced))[0] for forced in range(len(codewords))]).min(0).values
    assert torch.allclose(cost, least, rtol=1e-4, atol=1e-4)
    assert 0.1 < (~context).float().mean() < 0.9


def test_the_class_sets_the_step() -> None:
    """With twice the step a vector twice as large becomes the same codeword, twice as large."""
    books = Codebooks(Bank(level=1, groups=2, dim=2, stages=(64,)), 24)
    set_codebooks(books, (1.0,), seed=0)
    with torch.no_grad():
        books.log_step[1, 9 - FIRST_STEP_CLASS :] = math.log(2)
    x = torch.randn(2, 30, 1, generator=torch.Generator().manual_seed(1))
    classes = torch.full((1, 2, 30, 1), 9, dtype=torch.uint8)
    search = BankSearch(books, [torch.zeros(2, 1, 24, 64)], torch.zeros(24, 9), 0.0)
    quantised = books.sum_codewords(*search.codes(torch.cat([x, 2 * x])[None], classes))[0]
    assert torch.allclose(quantised[2:], 2 * quantised[:2])
    assert (quantised[:2] - x).square().sum(0).sqrt().max() < 0.63  # the covering radius of A2 with unit cells: 0.62


def bank_search(price: float = 8.0) -> BankSearch:
    """Of one group of plane vectors; to escape costs `price` bits, the codewords nothing.  Class 23 has step 2."""
    books = Codebooks(Bank(level=1, groups=1, dim=2, stages=(19, 64)), 24)
    set_codebooks(books, (4.0, 1.0), seed=0)
    with torch.no_grad():
        books.log_step[0, -1] = math.log(2)
    escape_bits = torch.full((24, 9), price)
    escape_bits[:, 0] = 0
    return BankSearch(books, [torch.zeros(1, 1, 24, 19), torch.zeros(1, 2, 24, 64)], escape_bits, 0.1)


@pytest.mark.parametrize(("length", "escapes"), [(8.0, 0), (30.0, 1), (60.0, 2), (120.0, 3), (4000.0, 8), (9000.0, 8)])
def test_a_vector_beyond_all_codewords_escapes_until_they_reach_it(length: float, escapes: int, pruning: bool) -> None:
    """They reach 9.6 steps, times 2 of the last class, times 2 for each time."""
    search = bank_search()
    direction = torch.tensor([0.6, -0.8])
    classes = torch.tensor([3, 23], dtype=torch.uint8).view(1, 1, 2, 1)
    codes, found = search.codes((length * direction).view(1, 2, 1, 1).expand(1, 2, 2, 1), classes)
    assert found.flatten().tolist() == [3 + 24 * escapes, 23 + 24 * escapes]
    quantised = search.codebooks.sum_codewords(codes, found)[0, :, 0, 0]
    reached = min(length, 2 * 2**escapes * 13)
    assert (quantised - reached * direction).norm() < 0.7 * 2 * 2**escapes


def test_to_escape_is_a_matter_of_error_and_rate(pruning: bool) -> None:
    """4 steps beyond the codewords a vector costs 16, as much as 160 bits."""
    x, classes = torch.tensor([17.0, 0.0]).view(1, 2, 1, 1), torch.full((1, 1, 1, 1), 12, dtype=torch.uint8)
    assert bank_search(10.0).codes(x, classes)[1].item() == 12 + 24
    assert bank_search(300.0).codes(x, classes)[1].item() == 12
