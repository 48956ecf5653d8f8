"""Patterns that no network was made for: what the latents can hold of them, what codewords can, what files do.

`directions`: the best picture that the linear shortcut makes of any latent.  `codewords`: of that latent quantised, at
quality 10, in the last class.  Both without any network, so a network may do better, or worse.  Then files, with exact
squares off and on.  All in dB.
"""

from __future__ import annotations

import argparse
from unittest import mock

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from pillow_mcquic import codec, loading
from pillow_mcquic.engine import exact_choice
from pillow_mcquic.engine.encoder import Encoder
from pillow_mcquic.metrics import psnr
from pillow_mcquic.nn.reshape import to_patches

Y, X = np.mgrid[0:256, 0:256]
NAMES = (
    "checks 1",
    "checks 2",
    "checks 4",
    "checks 16",
    "lines 1 0",
    "lines 1 20",
    "lines 2 0",
    "lines 2 45",
    "lines 4 0",
    "dither",
    "noise",
    "colours",
    "text",
)


def lines(width: int, degrees: float) -> np.ndarray:
    across = np.cos(np.radians(degrees)) * X + np.sin(np.radians(degrees)) * Y
    return np.uint8(across // width % 2 * 255)


def text() -> Image.Image:
    image = Image.new("RGB", (256, 256), "white")
    for y in range(2, 250, 12):
        ImageDraw.Draw(image).text((3, y), "the quick brown fox jumps over the lazy", fill="black")
    return image


def pattern(name: str) -> Image.Image:
    """A picture of 256x256: "checks SIDE", "lines WIDTH DEGREES", "dither", "noise", "colours" or "text"."""
    rng = np.random.default_rng(0)
    primaries = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255)], np.uint8)
    match name.split():
        case ["checks", size]:
            return Image.fromarray(np.uint8((X // int(size) + Y // int(size)) % 2 * 255)).convert("RGB")
        case ["lines", width, degrees]:
            return Image.fromarray(lines(int(width), float(degrees))).convert("RGB")
        case ["dither"]:
            return Image.fromarray(np.uint8(X)).convert("1").convert("RGB")
        case ["noise"]:
            return Image.fromarray(rng.integers(0, 256, (256, 256, 3), np.uint8))
        case ["colours"]:
            return Image.fromarray(primaries[rng.integers(0, 6, (16, 16))].repeat(16, 0).repeat(16, 1))
    return text()


@torch.inference_mode()
def limits(encoder: Encoder, pixels: np.ndarray) -> tuple[float, float]:
    """PSNR of `directions` and `codewords`."""
    model, quality = encoder.decoder.model, torch.tensor([10.0])
    klt, mean = model.synthesis.klt.double(), model.synthesis.patch_mean.double()
    patches = to_patches(encoder.images(pixels).double() / 255, 16) - mean

    def score(latent: Tensor) -> float:
        wrong = ((latent @ klt.t() + mean).clamp(0, 1) - patches - mean).square().mean()
        return float(-10 * wrong.clamp(min=1e-10).log10())

    latent = patches @ torch.linalg.pinv(klt).t()
    residuals, gain = latent.permute(0, 3, 1, 2).float(), model.gain(1, quality)
    parts = []
    for number, part in model.split_banks(residuals * gain, 1).items():
        groups = encoder.config.banks[number].groups
        last = torch.full((1, groups, *part.shape[2:]), encoder.config.classes - 1, dtype=torch.uint8)
        parts.append(model.sum_codewords(number, *encoder.searches[number].codes(part, last)))
    return score(latent), score((torch.cat(parts, 1) / gain).permute(0, 2, 3, 1).double())


def run(args: argparse.Namespace) -> None:
    """Print the table."""
    encoder = loading.load_encoder("cpu")
    heads = ("pattern", "directions", "codewords", "off, 8", "off, 9", "off, 10", "on, 8", "on, 10")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name in args.patterns or NAMES:
        pixels = np.asarray(pattern(name))

        def of_file(quality: float, pixels: np.ndarray = pixels) -> float:
            return min(100.0, psnr(pixels, codec.decode(codec.encode(pixels, quality=quality))))

        with mock.patch.object(exact_choice, "_unlike_photos", return_value=0.0):
            off = [of_file(quality) for quality in (8, 9, 10)]
        scores = [*limits(encoder, pixels), *off, *(of_file(quality) for quality in (8, 10))]
        print(f"| {name} | {' | '.join(f'{score:.1f}' for score in scores)} |", flush=True)
