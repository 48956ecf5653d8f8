"""Latent refinement: latents of level 1 moved to where the decoder makes the best picture for its bits.

The analysis transform guesses the latents in one pass.  Given a picture, the decoder itself can say where they should
be (iterative inference: Yang, Bamler and Mandt, NeurIPS 2020): the gradient of the distortion through synthesis moves
them, the codewords are chosen again, and the best iteration is kept.  The decoder knows nothing of it.

As the model makes every error cost the same, the same slope asks for about the same move everywhere.  A latent moves
by its slope over the root of that slope's usual size: a move in proportion to the slope does nearly as well, one of
the same length for all (Adam's) needs twice as many iterations (docs/log/training-log.md, 2026-11-27).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..bitstream.grids import SQUARE, grids_of
from ..model.distortion import Distortion
from ..nn.layers import unit_range
from ..nn.linear import int8_products
from ..nn.ms_ssim import Original
from ..nn.reshape import empty_planes, pad_to_multiple
from ..quality import Quality
from .decoder import Coded, Decoder, Prepared
from .device import WINDOW_POSITIONS
from .encoder import Encoded, Encoder
from .surroundings import Surroundings
from .windows import Window, magnified, window_of, within

# steps that a slope of one bit a step moves a latent, in the first and in the last iteration
RATE, LAST_RATE = 0.06, 0.012
MEMORY = 0.8  # of the running mean of squared slopes
SMALLEST = 0.05  # slope, in bits a step, below which a latent moves in proportion
TEMPERATURE = 2.5  # bits, of `expected_gradient`: more than its codewords scatter by, and slopes are smoother


def refine(encoder: Encoder, images: Tensor, encoded: Encoded, quality: Quality, iterations: int) -> Coded:
    """Codes and classes, those of level 1 refined, picture by picture; takes some 80 bytes a pixel.

    Parameters
    ----------
    images, encoded : what was given to, and came from, `Encoder.encode`.
    quality : of all of them.
    iterations : 1 or more.

    Returns
    -------
    Coded : bits and distortion of each picture are together no more than before.
    """
    padded = pad_to_multiple(images, SQUARE)
    refined = [
        _refine(encoder, padded[i : i + 1], encoded.pictures([i]), quality, iterations) for i in range(len(images))
    ]
    banks = range(len(encoded.coded.codes))
    return Coded(
        [torch.cat([one.codes[number] for one in refined]) for number in banks],
        [torch.cat([one.classes[number] for one in refined]) for number in banks],
    )


def _refine(encoder: Encoder, image: Tensor, encoded: Encoded, quality: Quality, iterations: int) -> Coded:
    """`refine` for one picture, padded."""
    coded, residuals, around = encoded
    decoder, device = encoder.decoder, encoder.device
    model, q = decoder.model, decoder.quality_tensor(quality)
    width, height = (SQUARE * side for side in around.inside.size)
    best, least = coded, float("inf")
    # gradients are float32's or bfloat16's, so what is compared with them is too
    with torch.inference_mode(False), torch.no_grad(), device.networks(), int8_products(False):
        views = views_of(decoder, image, around)
        residuals = residuals.clone()  # what was made in inference mode may not change out of it
        squares = torch.zeros_like(residuals)
        features, mean = around.features[window_of(around.inside)], mean_1(decoder, around)
        coarse = range(decoder.config.banks_of(1).start)
        known = decoder.bundle.entropy_model.begin(quality, grids_of(width, height), 1, device.where)
        for number in coarse:
            known.push(number, coded.codes[number])
        for done in range(iterations + 1):
            last = done == iterations
            prepared = Prepared(coded, features, decoder.first_bank(coded, q))
            measure = encoder.bundle.config.distortion
            distortion, gradient = distort(decoder, measure, views, prepared, mean, around, q, want_gradient=not last)
            cost = distortion + 8 * len(encoder.write(coded, decoder.config.banks_of(1))[0])
            if cost < least:
                best, least = coded, cost
            if last:
                break
            gradient /= model.gain(1, q)
            slopes, steps = expected_slopes(encoder, residuals, prepared, gradient)
            squares.lerp_(slopes.square(), 1 - MEMORY)
            usual = squares.div(1 - MEMORY ** (done + 1)).sqrt_()
            rate = RATE * (LAST_RATE / RATE) ** (done / max(1, iterations - 1))
            residuals -= steps.mul_(slopes).div_(usual.add_(SMALLEST).sqrt_()).mul_(rate)
            found = encoder.choose_level(1, residuals, known.copy(), q)
            coded = Coded(coded.codes[: len(coarse)] + found.codes, coded.classes[: len(coarse)] + found.classes)
    return best


def mean_1(decoder: Decoder, around: Surroundings) -> Tensor:
    """`Means.mean_1` of what is coded, (1, network channels, h, w), window by window."""
    means, (width, height) = decoder.model.means, around.inside.size
    mean = empty_planes(1, decoder.config.network_channels, height, width, device=decoder.device.where)
    for inner, outer in around.windows(decoder.device.window_positions, means.REACH_1):
        mean[around.own(inner)] = means.mean_1(around.features[outer])[within(inner, outer)]
    return mean


class View(NamedTuple):
    """A window of what is coded; `outer` is what synthesis sees of it and around it."""

    inner: Window
    outer: Window
    original: Original


def views_of(decoder: Decoder, image: Tensor, around: Surroundings) -> list[View]:
    """All that is coded of a picture, (1, 3, h * 16, w * 16) uint8, in windows."""
    positions = min(decoder.device.window_positions, WINDOW_POSITIONS)  # a gradient takes several times the memory
    return [
        View(inner, outer, Original(unit_range(image[magnified(inner, SQUARE)])))
        for inner, outer in around.windows(positions, decoder.model.reach)
    ]


def distort(
    decoder: Decoder,
    measure: Distortion,
    views: list[View],
    prepared: Prepared,
    mean: Tensor,
    around: Surroundings,
    q: Tensor,
    *,
    want_gradient: bool,
) -> tuple[float, Tensor]:
    """Distortion of what the decoder makes of level 1, bits, and its gradient in the quantised latent.

    Parameters
    ----------
    views : all that is coded, as of `views_of`.
    prepared : what the decoder makes of the codes.
    mean, around : of it, as of `mean_1`, and what is around it.
    want_gradient : otherwise it is 0.

    Returns
    -------
    Bits, and (1, channels, h, w).
    """
    model, (h, w) = decoder.model, prepared.first.shape[2:]
    gradient = empty_planes(1, decoder.config.channels(1), h, w, device=decoder.device.where).zero_()
    total = 0.0
    for inner, outer, original in views:
        own = around.own(outer)
        z1 = around.around(outer, decoder.latent(prepared, own, mean[own], q))
        with torch.set_grad_enabled(want_gradient):
            decoded = model.synthesise(z1.requires_grad_(want_gradient), around.features[outer], q)
            decoded = decoded[magnified(within(inner, outer), SQUARE)]
            bits = measure.of(decoded, original, q).sum() * decoded[0, 0].numel()
        if want_gradient:
            gradient[own] += torch.autograd.grad(bits, z1)[0][around.place(outer)]
        total += float(bits.detach())
    return total, gradient


def expected_slopes(encoder: Encoder, residuals: Tensor, prepared: Prepared, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """`BankSearch.slopes` of all of level 1, and the steps, (1, channels, h, w); gradient: in the residuals.

    What is beyond the codewords of the first bank is a mean, not quantised.
    """
    coded, first = prepared.coded, prepared.first
    model, config = encoder.decoder.model, encoder.config
    number = config.banks_of(1).start
    quantised = model.sum_codewords(number, coded.codes[number], coded.classes[number])
    own = residuals[:, : quantised.shape[1]] - (first - quantised)
    parts = model.split_banks(torch.cat([own, residuals[:, quantised.shape[1] :]], 1), 1)
    gradients = model.split_banks(gradient, 1)
    rows = max(1, encoder.device.window_positions // residuals.shape[3])
    slopes, steps = [], []
    for number in config.banks_of(1):
        inputs = (parts[number], 2), (coded.codes[number], 3), (coded.classes[number], 2), (gradients[number], 2)
        blocks = zip(*(torch.split(t, rows, dim) for t, dim in inputs), strict=True)
        with torch.autocast(residuals.device.type, enabled=False):
            search = encoder.searches[number]
            found = [search.slopes(x, codes, classes, g, TEMPERATURE) for x, codes, classes, g in blocks]
        slopes.append(torch.cat([slope for slope, _ in found], 2))
        steps.append(torch.cat([step for _, step in found], 2))
    return torch.cat(slopes, 1), torch.cat(steps, 1)
