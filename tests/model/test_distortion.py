"""What an error costs: MSE and MS-SSIM mixed, by quality."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pillow_mcquic.model.distortion import Distortion
from pillow_mcquic.nn.ms_ssim import Original


def test_distortion_mixes_mse_and_msssim(photo: Image.Image) -> None:
    x = torch.from_numpy(np.array(photo.crop((0, 0, 192, 176)))).permute(2, 0, 1)[None].float() / 255
    original, narrow = Original(x), Original(x[..., :160])
    darker = (x - 0.02).clamp(0, 1)  # MS-SSIM hardly minds, MSE does
    noisy = (x + 0.02 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    mse, half, msssim = (Distortion(0.01, 0.02, 0.03, share, 0) for share in (0.0, 0.5, 1.0))
    one = torch.ones(1)
    assert half.of(x, original, one).abs() < 1e-4
    assert mse.of(darker, original, one).item() == pytest.approx(0.01 * 0.02**2 * 255**2, rel=0.1)
    assert mse.of(darker, original, 8 * one).item() == pytest.approx(0.02 * 0.02**2 * 255**2, rel=0.1)
    assert msssim.of(darker, original, one) < 0.2 * msssim.of(noisy, original, one)
    mean = (mse.of(noisy, original, one) + msssim.of(noisy, original, one)) / 2
    assert torch.allclose(half.of(noisy, original, one), mean)
    assert torch.equal(*(d.of(noisy[..., :160], narrow, one) for d in (half, mse)))  # too small for MS-SSIM


def test_share_of_msssim_may_fall_with_quality() -> None:
    distortion = Distortion(msssim=0.6, msssim_growth=-0.05)
    assert torch.allclose(distortion.share(torch.tensor([1.0, 3.0, 8.0])), torch.tensor([0.6, 0.5, 0.25]))


def test_distortion_by_square_is_where_the_error_is() -> None:
    original = torch.rand(1, 3, 192, 208, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4
    decoded = original.clone()
    decoded[..., 64:80, 96:112] += 0.1
    found = Distortion().by_square(decoded, original, torch.tensor([4.0]))
    assert found.shape == (12, 13)
    assert divmod(int(found.argmax()), 13) == (4, 6)
    assert float(found[8:].abs().max()) < 1e-3 * float(found.max())


def test_distortion_by_square_adds_up_to_about_that_of_the_picture() -> None:
    generator = torch.Generator().manual_seed(0)
    original = torch.nn.functional.interpolate(
        torch.rand(1, 3, 24, 24, generator=generator), (384, 384), mode="bilinear"
    )
    decoded = original + 0.02 * torch.randn(1, 3, 384, 384, generator=generator)
    quality = torch.tensor([4.0])
    whole = float(Distortion().of(decoded, Original(original), quality)) * 384**2
    assert float(Distortion().by_square(decoded, original, quality).sum()) == pytest.approx(whole, rel=0.3)
