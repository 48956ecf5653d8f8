"""Latent refinement: better pictures for their bits, for the same decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pillow_mcquic
from pillow_mcquic import cli, loading
from pillow_mcquic.adapters.torch import encode_tensor
from pillow_mcquic.engine import refinement
from pillow_mcquic.engine.bundle import EncoderBundle
from pillow_mcquic.engine.decoder import Coded
from pillow_mcquic.engine.device import Device
from pillow_mcquic.engine.encoder import Encoded, Encoder
from pillow_mcquic.nn.ms_ssim import Original
from pillow_mcquic.nn.reshape import pad_to_multiple
from pillow_mcquic.quality import Quality

from ..conftest import from_bytes, psnr, to_bytes


def cost(picture: Image.Image, data: bytes, quality: int) -> float:
    """Bits and distortion per pixel."""
    x, decoded = (
        torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255 for image in (picture, from_bytes(data))
    )
    distortion = loading.load_encoder().bundle.config.distortion
    return 8 * len(data) / x[0, 0].numel() + distortion.of(decoded, Original(x), torch.tensor([float(quality)])).item()


@pytest.mark.parametrize("quality", [2, 6])
def test_effort_makes_better_pictures_for_their_bits(photo: Image.Image, quality: int) -> None:
    crop = photo.crop((300, 100, 556, 276))
    files = [to_bytes(crop, quality=quality, effort=effort) for effort in (1, 2, 3)]
    assert files[0] == to_bytes(crop, quality=quality)  # 1 is the default
    costs = [cost(crop, data, quality) for data in files]
    assert costs[2] < costs[1] < 0.98 * costs[0]
    assert psnr(from_bytes(files[2]), crop) > psnr(from_bytes(files[0]), crop)


@pytest.mark.parametrize("size", [(1, 1), (17, 33), (400, 3)])
def test_effort_takes_pictures_of_any_size(size: tuple[int, int], photo: Image.Image) -> None:
    assert from_bytes(to_bytes(photo.crop((300, 100, 300 + size[0], 100 + size[1])), effort=2)).size == size


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA"])
def test_effort_keeps_modes_and_alpha(mode: str, small: Image.Image) -> None:
    picture = small.convert(mode)
    if mode != "L":
        picture.putalpha(small.convert("L"))
    again = from_bytes(to_bytes(picture, effort=2))
    assert again.mode == mode
    if mode != "L":
        assert again.getchannel("A").tobytes() == picture.getchannel("A").tobytes()


def test_effort_serves_a_target(small: Image.Image) -> None:
    files = [to_bytes(small, max_bytes=1000, effort=effort) for effort in (1, 2)]
    assert max(map(len, files)) <= 1000
    assert psnr(from_bytes(files[1]), small) > psnr(from_bytes(files[0]), small) + 0.1


def test_the_slow_search_for_a_target_begins_where_a_quick_one_ended(
    photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    crop, qualities = photo.crop((300, 100, 556, 276)), list[Quality]()

    def refine(encoder: Encoder, images: torch.Tensor, encoded: Encoded, quality: Quality, iterations: int) -> Coded:
        qualities.append(quality)
        return encoded.coded

    monkeypatch.setattr(refinement, "refine", refine)
    data = to_bytes(crop, max_bytes=3000, effort=2)
    assert 2970 <= len(data) <= 3000
    assert len(to_bytes(crop, quality=float(qualities[0]))) == pytest.approx(3000, rel=0.04)


@pytest.mark.parametrize("wrong", [0, 4, 1.5, True, "2", None])
def test_effort_out_of_range_is_refused(wrong: Any, small: Image.Image) -> None:
    for attempt in (
        lambda: to_bytes(small, effort=wrong),
        lambda: pillow_mcquic.encode(np.asarray(small), effort=wrong),
        lambda: encode_tensor(torch.zeros(3, 16, 16, dtype=torch.uint8), effort=wrong),
    ):
        with pytest.raises(ValueError, match=r"effort must be 1 \(fast\), 2 or 3"):
            attempt()


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_effort_works_in_every_mode_of_the_caller(
    mode: Any, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the weights are loaded in a caller's inference mode."""
    crop = photo.crop((300, 80, 470, 250))  # large enough for MS-SSIM
    monkeypatch.setattr(loading, "loaded_decoders", {})
    monkeypatch.setattr(loading, "loaded_encoders", {})
    with mode():
        data = to_bytes(crop, effort=2)
    assert data == to_bytes(crop, effort=2)
    encoder = loading.load_encoder()
    assert not any(p.requires_grad for model in (encoder.model, encoder.decoder.model) for p in model.parameters())


def test_tensors_and_arrays_are_refined_alike(small: Image.Image) -> None:
    pixels = np.array(small)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    alone = pillow_mcquic.encode(pixels, effort=2)
    assert encode_tensor(tensor, effort=2) == alone
    assert encode_tensor(tensor[None].repeat(2, 1, 1, 1), effort=2)[1] == alone


class Refined:
    """A crop, encoded, and what refinement measures of it."""

    def __init__(self, bundle: EncoderBundle, crop: Image.Image, window_positions: int | None = None) -> None:
        self.encoder = Encoder(bundle, Device.choose("cpu", window_positions))
        self.decoder, quality = self.encoder.decoder, Quality(1024)
        images = self.encoder.images(np.array(crop))
        with torch.no_grad():
            coded, _, self.around = self.encoder.encode(images, quality)
            self.q = self.decoder.quality_tensor(quality)
            self.prepared = self.decoder.prepare(coded, self.q)
            self.views = refinement.views_of(self.decoder, pad_to_multiple(images, 16), self.around)

    def distort(self, want_gradient: bool) -> tuple[float, torch.Tensor]:
        with torch.no_grad():
            return refinement.distort(
                self.decoder,
                self.encoder.bundle.config.distortion,
                self.views,
                self.prepared,
                refinement.mean_1(self.decoder, self.around),
                self.around,
                self.q,
                want_gradient=want_gradient,
            )


def test_gradient_of_the_distortion_is_that_of_the_decoder(
    encoder_bundle: EncoderBundle, photo: Image.Image, float32: None
) -> None:
    """Checked by moving the whole latent a little along it."""
    refined = Refined(encoder_bundle, photo.crop((300, 100, 492, 276)))  # large enough for MS-SSIM
    here, gradient = refined.distort(want_gradient=True)
    move, latent = -3e-3 * gradient / gradient.abs().max(), refined.decoder.latent
    refined.decoder.latent = lambda *given: latent(*given) + move  # type: ignore[method-assign]
    there, none = refined.distort(want_gradient=False)
    assert there - here == pytest.approx(float((gradient * move).sum()), rel=0.05)
    assert there < here
    assert not none.any()


def test_gradient_does_not_depend_on_windows(encoder_bundle: EncoderBundle, photo: Image.Image, float32: None) -> None:
    crop = photo.crop((300, 100, 460, 244))  # too small for MS-SSIM, which is of a whole window
    (whole, slope), (windowed, other) = (
        Refined(encoder_bundle, crop, positions).distort(want_gradient=True) for positions in (8192, 20)
    )
    assert windowed == pytest.approx(whole, rel=1e-5)
    assert torch.allclose(slope, other, atol=1e-3 * float(slope.abs().max()))


def test_command_line_takes_an_effort(small: Image.Image, tmp_path: Path) -> None:
    source = tmp_path / "in.png"
    small.save(source)
    assert cli.main(["encode", str(source), "-q", "3", "--effort", "2"]) == 0
    assert (tmp_path / "in.mcq").read_bytes() == to_bytes(small, quality=3, effort=2)
    with pytest.raises(SystemExit):
        cli.main(["encode", str(source), "--effort", "9"])
