"""The encoder: what it writes is what the decoder reads."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from pillow_mcquic import loading
from pillow_mcquic.bitstream.grids import grids_of
from pillow_mcquic.engine.bundle import EncoderBundle
from pillow_mcquic.engine.device import Device
from pillow_mcquic.engine.encoder import Encoder
from pillow_mcquic.model.codebooks import FIRST_STEP_CLASS
from pillow_mcquic.quality import Quality


def pixels_of(photo: Image.Image, width: int, height: int) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(photo)[:height, :width])


@pytest.mark.parametrize(("size", "steps"), [((300, 200), 900), ((1, 1), 900), ((33, 400), 900), ((300, 200), 2560)])
def test_a_stream_gives_the_codes_back(size: tuple[int, int], steps: int, photo: Image.Image) -> None:
    encoder, quality = loading.load_encoder(), Quality(steps)
    coded = encoder.encode(encoder.images(pixels_of(photo, *size)), quality).coded
    read = encoder.decoder.read(encoder.write(coded), quality, grids_of(*size))
    for a, b in zip(read.codes + read.classes, coded.codes + coded.classes, strict=True):
        assert torch.equal(a, b)


def test_what_qualities_share_is_found_once(photo: Image.Image) -> None:
    encoder = loading.load_encoder()
    images = encoder.images(pixels_of(photo, 130, 90))
    analysed = encoder.analyse(images)
    for quality in (Quality(300), Quality(2560), Quality(300)):
        alone, shared = encoder.encode(images, quality).coded, encoder.encode(images, quality, analysed).coded
        assert all(torch.equal(a, b) for a, b in zip(alone.codes, shared.codes, strict=True))


@pytest.mark.parametrize("steps", [1024, 2304])
def test_windows_give_the_codes_and_pixels_of_the_whole(
    steps: int, photo: Image.Image, encoder_bundle: EncoderBundle, float32: None
) -> None:
    quality, grids = Quality(steps), grids_of(768, 400)
    whole = Encoder(encoder_bundle, dataclasses.replace(Device.choose("cpu", 1 << 20), block_positions=1 << 20))
    windowed = Encoder(encoder_bundle, Device.choose("cpu", window_positions=150))
    images = whole.images(pixels_of(photo, 768, 400))
    coded, other = (encoder.encode(images, quality).coded for encoder in (whole, windowed))
    for a, b in zip(coded.codes, other.codes, strict=True):
        assert torch.equal(a, b)
    for scale in (1, 2, 4, 8):
        read, q = whole.decoder.read(whole.write(coded), quality, grids, scale), whole.decoder.quality_tensor(quality)
        expected, found = (encoder.decoder.images(read, q, scale=scale).int() for encoder in (whole, windowed))
        assert (expected - found).abs().max() <= 1


def test_the_decoder_finds_the_checkerboard_means_of_the_encoder(encoder_bundle: EncoderBundle) -> None:
    encoder = Encoder(encoder_bundle, Device.choose("cpu"))
    model = encoder.decoder.model = copy.deepcopy(encoder.decoder.model)
    generator = torch.Generator().manual_seed(7)
    for parameter in model.checkerboard.parameters():  # random, so that every input counts
        parameter.data.normal_(generator=generator).mul_(0.1)
    quality, number = torch.tensor([3.0]), 2
    x = torch.randn(2, 8, 7, 10, generator=torch.Generator().manual_seed(9)) * 5
    classes = torch.full((2, 8, 7, 10), 12, dtype=torch.uint8)
    with torch.inference_mode(), encoder.device.networks():
        found = model.sum_codewords(number, *encoder.choose_checkerboard(number, x, classes, quality))
        found = model.checkerboard.restore(found, quality)
    step = float(model.books(number).log_step[:, 12 - FIRST_STEP_CLASS].exp().max())
    assert (found - x).abs().mean() < 0.5 * step  # a mean too many would be of the size of x
    assert x.abs().mean() > 3


@pytest.mark.parametrize("steps", [1024, 2560])
def test_bits_by_square_add_up_to_the_stream(steps: int, photo: Image.Image) -> None:
    encoder, quality = loading.load_encoder("cpu"), Quality(steps)
    coded = encoder.encode(encoder.images(np.array(photo.crop((0, 0, 330, 250)))), quality).coded
    bits = encoder.bits(coded)
    assert bits.shape == (16, 21)
    assert float(bits.sum()) == pytest.approx(8 * len(encoder.write(coded)[0]), rel=0.02)
