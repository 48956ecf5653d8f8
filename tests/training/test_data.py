"""Crops, and the KLT of their patches."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pillow_mcquic.training.data import Crops, find_photos, klt, random_crop


def test_crops_depend_on_seed_step_and_rank_alone(photos: Path) -> None:
    pictures = [np.asarray(Image.open(p).convert("RGB")) for p in find_photos(photos)]
    crops = Crops(pictures, 64, 4, seed=1)
    assert torch.equal(crops[5][0], Crops(pictures, 64, 4, seed=1)[5][0])
    assert not torch.equal(crops[5][0], crops[6][0])
    assert not torch.equal(crops[5][0], Crops(pictures, 64, 4, seed=1, rank=1)[5][0])


@pytest.mark.parametrize(
    "workers", [0, pytest.param(2, marks=pytest.mark.skipif(not hasattr(os, "fork"), reason="forks"))]
)
def test_batches_come_in_order_whoever_cuts_them(photos: Path, workers: int) -> None:
    pictures = [np.asarray(Image.open(p).convert("RGB")) for p in find_photos(photos)]
    crops = Crops(pictures, 64, 2, seed=1)
    batches = list(crops.batches(range(3, 8), torch.device("cpu"), workers))
    assert len(batches) == 5
    for step, (mine, quality) in enumerate(batches, 3):
        assert torch.equal(mine, crops[step][0])
        assert torch.equal(quality, crops[step][1])


def test_crops_may_come_from_photos_made_smaller() -> None:
    """A ramp of one level a column: made smaller it rises by more, up to two."""
    photo = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (150, 200, 3))

    def rise(shrink: float, seed: int) -> float:
        crop = random_crop(photo, (60, 50), shrink, np.random.default_rng(seed))
        assert crop.shape == (60, 50, 3)
        return float(np.diff(crop[30, 5:-5, 0].astype(float)).mean())

    assert {rise(0.0, seed) for seed in range(5)} == {1.0}
    shrunk = [rise(1.0, seed) for seed in range(20)]
    assert 0.98 < min(shrunk) < 1.3
    assert 1.7 < max(shrunk) < 2.05
    assert np.array_equal(random_crop(photo, (150, 200), 1.0, np.random.default_rng(1)), photo)  # there is no room
    crops, smaller = (Crops([photo], 64, 2, seed=1, shrink=shrink) for shrink in (0.0, 1.0))
    assert not torch.equal(crops[0][0], smaller[0][0])


def test_klt_is_orthonormal_and_sorted(photos: Path) -> None:
    pictures = [np.asarray(Image.open(p).convert("RGB")) for p in find_photos(photos)]
    basis, mean, deviation = klt(pictures, 32, patches=2000)
    assert torch.allclose(basis @ basis.t(), torch.eye(32), atol=1e-5)
    assert (deviation[:-1] >= deviation[1:]).all()
    assert 0 < float(mean.mean()) < 1
