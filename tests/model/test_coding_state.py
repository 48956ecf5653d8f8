"""The coding state: classes depend on what came before, and on nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from pillow_mcquic.bitstream.grids import grids_of
from pillow_mcquic.engine.bundle import DecoderBundle
from pillow_mcquic.quality import Quality

from ..helpers import random_codes

GRIDS = grids_of(200, 120)


def classes(bundle: DecoderBundle, codes: list[Tensor]) -> list[Tensor]:
    state, found = bundle.entropy_model.begin(Quality(1024), GRIDS, 1, torch.device("cpu")), []
    for number, known in enumerate(codes):
        found.append(state.classes(number))
        state.push(number, known)
    return found


def test_every_bank_depends_on_all_before_it(bundle: DecoderBundle) -> None:
    codes = random_codes(bundle.config, GRIDS)
    before = classes(bundle, codes)
    for changed in range(len(codes) - 1):
        other = [*codes]
        other[changed] = codes[changed].roll(1, 3)
        after = classes(bundle, other)
        same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        assert same[: changed + 1] == [True] * (changed + 1)
        assert not any(same[changed + 2 if changed == 0 else changed + 1 :])


def test_a_copy_goes_its_own_way(bundle: DecoderBundle) -> None:
    codes = random_codes(bundle.config, GRIDS)
    expected = classes(bundle, codes)
    state = bundle.entropy_model.begin(Quality(1024), GRIDS, 1, torch.device("cpu"))
    for number in range(3):
        state.push(number, codes[number])
    other = state.copy()
    other.push(3, codes[3] * 0)
    state.push(3, codes[3])
    assert torch.equal(state.classes(4), expected[4])
    assert not torch.equal(other.classes(4), expected[4])


def test_qualities_between_are_interpolated(bundle: DecoderBundle) -> None:
    low, middle, high = (
        bundle.entropy_model.begin(Quality(steps), GRIDS, 1, torch.device("cpu")).classes(0).int()
        for steps in (256, 384, 512)
    )
    assert (low != high).any()
    assert (torch.minimum(low, high) <= middle).all()
    assert (middle <= torch.maximum(low, high)).all()
