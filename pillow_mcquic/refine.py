"""The encoder's refinement: level-1 latents moved to where the decoder makes the best picture for its bits.

The analysis transform guesses the latents in one pass.  Given a picture the decoder itself can say where they
should be: the gradient of the distortion through synthesis moves them, the words are chosen again, and the best round
is kept.  The decoder knows nothing of it.

As the model makes every error cost the same, the same slope asks for about the same move everywhere.  A latent moves
by its slope over the root of that slope's usual size: a move in proportion to the slope does nearly as well, one of
the same length for all (Adam's) needs twice as many rounds (docs/training-log.md, 2026-11-27).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import coder
from .engine import TILE_POSITIONS, Engine
from .model import int8
from .model.layers import unit_range
from .model.ms_ssim import Original
from .windows import Window, magnified, windows, within

RATE, LAST_RATE = 0.06, 0.012  # steps that a slope of one bit a step moves a latent, in the first and the last round
MEMORY = 0.8  # of the running mean of squared slopes
SMALLEST = 0.05  # slope, in bits a step, below which a latent moves in proportion
TEMPERATURE = 2.5  # bits, of `expected_gradient`: more than its words scatter by, and slopes are smoother


def refine(
    engine: Engine, image: Tensor, scaled: Tensor, codes: list[Tensor], classes: list[Tensor], quality: int, rounds: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Codes and classes, those of level 1 refined: bits and distortion together are no more than before.

    image: (1, 3, h * 16, w * 16) uint8; scaled: residuals of level 1 in steps (1, channels, h, w) float32; codes and
    classes of levels 1, 2, 3 as `Engine.quantise_images` gives them; rounds: 1 or more.  Takes some 80 bytes a pixel.
    """
    model, q = engine.model, engine._quality(quality)
    mine, kinds = codes[0], classes[0]
    best, least = (mine, kinds), float("inf")
    # gradients are float32's or bfloat16's, so what is compared with them is too
    with torch.inference_mode(False), torch.no_grad(), engine.networks(), int8.products(False):
        seen = views(engine, image)
        scaled = scaled.clone()  # what was made in inference mode may not change out of it
        squares = torch.zeros_like(scaled)
        parts = torch.split(scaled, model.quantiser1.channel_split, 1)
        features = engine.features(codes, classes, q)
        hidden = engine._hidden_1(codes[2], codes[1], quality)

        def assign(bank: int, known: Tensor) -> Tensor:
            return engine._assign_1(bank, parts[bank], known, q)

        for done in range(rounds + 1):
            last = done == rounds
            start = engine.first_bank(mine, kinds, q)
            distortion, gradient = distort(engine, seen, mine, kinds, start, features, q, want_gradient=not last)
            symbols, rows = (t[0].flatten(1).cpu().numpy() for t in (mine, kinds))
            encoder = coder.Encoder()
            encoder.write(symbols, rows, engine.weights.tables[0])
            cost = distortion + 8 * len(encoder.finish())
            if cost < least:
                best, least = (mine, kinds), cost
            if last:
                break
            gradient /= model.gain(1, q)
            slopes, steps = expected_slopes(engine, scaled, mine, kinds, start, gradient)
            squares.lerp_(slopes.square(), 1 - MEMORY)
            usual = squares.div(1 - MEMORY ** (done + 1)).sqrt_()
            rate = RATE * (LAST_RATE / RATE) ** (done / max(1, rounds - 1))
            scaled -= steps.mul_(slopes).div_(usual.add_(SMALLEST).sqrt_()).mul_(rate)
            mine, kinds = engine._level_1(assign, hidden, quality, (scaled.shape[2], scaled.shape[3]), len(parts))
    return [best[0], *codes[1:]], [best[1], *classes[1:]]


class View(NamedTuple):
    """A window of the picture."""

    inner: Window
    outer: Window  # what synthesis sees of it
    original: Original


def views(engine: Engine, image: Tensor) -> list[View]:
    """All of a picture, (1, 3, h * 16, w * 16) uint8, in windows."""
    h, w = (side // 16 for side in image.shape[2:])
    positions = min(engine.tile_positions, TILE_POSITIONS)  # a gradient takes several times the memory
    return [
        View(inner, outer, Original(unit_range(image[magnified(inner, 16)])))
        for inner, outer in windows(h, w, positions, engine.model.synthesis_reach)
    ]


def distort(
    engine: Engine,
    seen: list[View],
    codes: Tensor,
    classes: Tensor,
    first: Tensor,
    features: Tensor,
    quality: Tensor,
    *,
    want_gradient: bool,
) -> tuple[float, Tensor]:
    """Distortion of what the decoder makes of level 1, bits, and its gradient in the quantised y1 (0 unless wanted).

    seen: all of the picture, as of `views`; first: what `Engine.first_bank` makes of the codes.
    """
    model, distortion = engine.model, engine.weights.config.distortion
    _, _, h, w = codes.shape
    total, gradient = 0.0, engine._floats(1, model.quantiser1.channels, h, w).zero_()
    for inner, outer, original in seen:
        z1 = engine.latent(codes[outer], classes[outer], first[outer], features[outer], quality)
        with torch.set_grad_enabled(want_gradient):
            decoded = model.synthesise(z1.requires_grad_(want_gradient), features[outer], quality)
            decoded = decoded[magnified(within(inner, outer), 16)]
            bits = distortion.of(decoded, original, quality).sum() * decoded[0, 0].numel()
        if want_gradient:
            gradient[outer] += torch.autograd.grad(bits, z1)[0]
        total += float(bits.detach())
    return total, gradient


def expected_slopes(
    engine: Engine, scaled: Tensor, codes: Tensor, classes: Tensor, first: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """`Codebooks.slopes` of all of level 1, and the steps, (1, channels, h, w); gradient: in the scaled residuals.

    first: what `Engine.first_bank` makes of the codes; what is beyond their words is a mean, not quantised.
    """
    quantiser = engine.model.quantiser1
    books = quantiser.codebooks[0]
    words = books.sum_words(codes[:, : books.bank.symbols], classes[:, : books.bank.groups])
    scaled = torch.cat([scaled[:, : words.shape[1]] - (first - words), scaled[:, words.shape[1] :]], 1)
    rows = max(1, engine.tile_positions // scaled.shape[3])
    banks = [
        torch.split(t, sizes, 1)
        for t, sizes in (
            (scaled, quantiser.channel_split),
            (codes, quantiser.symbol_split),
            (classes, quantiser.group_split),
            (gradient, quantiser.channel_split),
        )
    ]
    slopes, steps = [], []
    for bank, costs, *parts in zip(quantiser.codebooks, engine.costs[0], *banks, strict=True):
        strips = zip(*(torch.split(t, rows, 2) for t in parts), strict=True)
        with torch.autocast(scaled.device.type, enabled=False):
            found = [bank.slopes(*strip, costs, TEMPERATURE) for strip in strips]
        slopes.append(torch.cat([slope for slope, _ in found], 2))
        steps.append(torch.cat([step for _, step in found], 2))
    return torch.cat(slopes, 1), torch.cat(steps, 1)
