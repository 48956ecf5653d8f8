"""MS-SSIM in blocks of rows, with few windows at the finest scales."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pillow_mcquic.nn import ms_ssim
from pillow_mcquic.nn.ms_ssim import Original


def test_msssim_of_few_windows_is_that_of_all(photo: Image.Image) -> None:
    import pytorch_msssim

    x = torch.from_numpy(np.array(photo.crop((400, 100, 656, 305)))).permute(2, 0, 1)[None].float() / 255
    blurred = torch.nn.functional.avg_pool2d(x, 3, 1, padding=1, count_include_pad=False).requires_grad_()
    figure, full = ms_ssim.ms_ssim(blurred, Original(x)), pytorch_msssim.ms_ssim(blurred, x, data_range=1.0)
    assert figure.item() == pytest.approx(full.item(), abs=5e-4)
    ours, theirs = (torch.autograd.grad(figure, blurred)[0] for figure in (figure.sum(), full))
    assert torch.cosine_similarity(ours.flatten(), theirs.flatten(), 0) > 0.995
    assert ms_ssim.ms_ssim(x, Original(x)).item() == pytest.approx(1)


def test_msssim_of_a_batch_is_that_of_each(photo: Image.Image) -> None:
    x = torch.stack([torch.from_numpy(np.array(photo.crop((at, 60, at + 208, 236)))) for at in (0, 400)])
    x = x.permute(0, 3, 1, 2).float() / 255
    noisy = x + torch.tensor([0.01, 0.05])[:, None, None, None] * torch.randn(x.shape)
    each = [ms_ssim.ms_ssim(noisy[i : i + 1], Original(x[i : i + 1])) for i in range(2)]
    assert each[0] > each[1] + 0.01
    assert torch.allclose(ms_ssim.ms_ssim(noisy, Original(x)), torch.cat(each), atol=1e-6)


def test_an_original_is_the_same_whoever_asks_first(photo: Image.Image) -> None:
    x = torch.from_numpy(np.array(photo.crop((0, 60, 208, 236)))).permute(2, 0, 1)[None].float() / 255
    original = Original(x)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        first = ms_ssim.ms_ssim(x + 0.01, original)
    again = ms_ssim.ms_ssim((x + 0.01).requires_grad_(), original)
    again.sum().backward()
    assert first.item() == pytest.approx(again.item(), abs=1e-6)


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("size", [(401, 512), (777, 431), (64, 1000)])
def test_windows_in_blocks_are_those_taken_at_once(
    size: tuple[int, int], stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.rand(2, 1, 2, *size, generator=generator)
    a.requires_grad_()
    monkeypatch.setattr(ms_ssim, "SHORT_SIDE", 32)
    blocked = torch.stack(ms_ssim.WindowMeans.apply(a, b, stride))
    weights = torch.linspace(-1, 1, blocked.numel()).view(blocked.shape)
    slope = torch.autograd.grad((blocked * weights).sum(), a)[0]
    monkeypatch.setattr(ms_ssim, "SHORT_SIDE", 1000)
    whole = ms_ssim.window_means(lambda rows: torch.stack([a, a * a, a * b])[..., rows, :], size[0], stride)
    expected = torch.autograd.grad((whole * weights).sum(), a)[0]
    assert blocked.shape == (3, 1, 2, *((side - 11) // stride + 1 for side in reversed(size)))
    assert torch.allclose(blocked, whole, atol=1e-6)
    assert torch.allclose(slope, expected, atol=1e-5)
