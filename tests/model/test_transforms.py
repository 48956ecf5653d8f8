"""Linear shortcuts and networks together, in float32 and bfloat16."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pillow_mcquic.engine.bundle import DecoderBundle, EncoderBundle
from pillow_mcquic.model.transforms import LARGE_CHANNELS
from pillow_mcquic.nn.reshape import quarters_to_pixels, to_patches, to_pixels


def test_linear_shortcut_is_the_klt_of_patches(encoder_bundle: EncoderBundle) -> None:
    """In either type of pixels, and, in bfloat16, to its precision where the channels are small."""
    analysis, mean = encoder_bundle.model.analysis, encoder_bundle.decoder.model.synthesis.patch_mean
    x = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    exact = (to_patches(x.double() / 255, 16) - mean) @ analysis.klt.double().t()
    with torch.inference_mode():
        assert (analysis.shortcut(x, mean).permute(0, 2, 3, 1) - exact).abs().max() < 1e-3
        assert torch.allclose(analysis.shortcut(x / 255, mean), analysis.shortcut(x, mean), atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            reduced = (analysis.shortcut(x, mean).permute(0, 2, 3, 1) - exact).abs()
    assert reduced[..., :LARGE_CHANNELS].max() < 1e-3
    assert reduced[..., LARGE_CHANNELS:].max() < 0.01 * exact[..., LARGE_CHANNELS:].abs().max()


@pytest.mark.parametrize(("one", "offset"), [(1.0, 0.0), (255.0, 0.5)])
def test_pixels_are_the_klt_and_the_head_together(one: float, offset: float, bundle: DecoderBundle) -> None:
    synthesis, z1 = bundle.model.synthesis, torch.randn(2, 384, 3, 2)
    last = torch.randn(2, bundle.config.synthesis_width_8, 6, 4)
    with torch.inference_mode():
        patches = z1.permute(0, 2, 3, 1) @ synthesis.klt.t() + synthesis.patch_mean
        expected = to_pixels(patches, 16) + to_pixels(synthesis.output(last).permute(0, 2, 3, 1), 8)
        found = quarters_to_pixels(synthesis.patches(z1, last, one, offset))
        with torch.autocast("cpu", torch.bfloat16):
            reduced = quarters_to_pixels(synthesis.patches(z1, last, one, offset))
    assert torch.allclose(found, one * expected + offset, atol=1e-5 * one)
    assert torch.allclose(reduced, found, atol=0.004 * one)  # a grey level


def test_gradients_of_pixels_are_the_same_in_bfloat16(bundle: DecoderBundle) -> None:
    inputs = torch.randn(1, 384, 3, 2), torch.randn(1, bundle.config.synthesis_width_8, 6, 4)
    weight = torch.randn(1, 3, 2, 768)

    def gradients(reduced: bool) -> list[Tensor]:
        z1, last = (x.clone().requires_grad_() for x in inputs)
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            patches = bundle.model.synthesis.patches(z1, last.bfloat16() if reduced else last)
        return list(torch.autograd.grad((patches * weight).sum(), (z1, last)))

    for exact, other in zip(gradients(False), gradients(True), strict=True):
        assert (other - exact).norm() < 0.02 * exact.norm()
