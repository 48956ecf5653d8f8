"""Pictures that no network was made for: no whole quality makes them worse, and quality 8 is 30 dB at least."""

from __future__ import annotations

import itertools

import pytest

from benchmarks.patterns import pattern

from .conftest import from_bytes, psnr, to_bytes


@pytest.mark.parametrize(
    "name",
    [
        "checks 1",
        "checks 3",
        "lines 1 20",
        "lines 2 45",
        "lines 4 90",
        "dither",
        "noise",
        "colours",
        "text",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("checks 2", "lines 1 70", "lines 3 10")),
    ],
)
def test_pattern_gets_no_worse_with_quality(name: str) -> None:
    image = pattern(name)
    scores = [psnr(from_bytes(to_bytes(image, quality=quality)), image) for quality in range(1, 11)]
    assert all(high >= low - 0.05 for low, high in itertools.pairwise(scores))
    assert scores[7] >= 30
