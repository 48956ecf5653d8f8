"""Which squares are exact: chosen by rate and distortion, after a try without any (docs/log/design-notes.md).

A learned square costs its bits and its distortion, an exact one only bits; or, in fewer colours, fewer bits and some
distortion.  What the lossless coder takes for a square depends on the others, so its bits are guessed from the pixels,
squares are ordered by what is gained, and the coder itself is asked about the first few, more, and all of them.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..bitstream import exact_squares, vp8l
from ..bitstream.exact_squares import Squares
from ..bitstream.grids import SQUARE
from ..model.distortion import ANCHORS
from ..nn.layers import unit_range
from ..nn.reshape import pad_to_multiple
from ..quality import Quality
from .decoder import Coded
from .encoder import Encoder
from .palette import Colours

Costs = NDArray[np.floating[Any]]  # of squares (h, w), bits

# A picture is worth a try when so many of its squares have edges, and few pixels unlike both the left and the upper
# one; or when so many differ from these by more than any photograph does in the mean: checks, noise, fine lines.
TRY_SHARE = 0.01
FEW_NEW_PIXELS, EDGE_PIXELS = 96, 8
EDGE, WILD = 170, 480  # differences of red + 2 green + 4 blue
TEXTURE = 16.0  # new pixels beyond few that make fewer colours as bad again: patches of a photo in them would show
# what a pixel is guessed to cost the lossless coder: like a neighbour, else at least and at most
REPEATED_BITS, NEW_BITS, MOST_BITS = 0.35, 3.0, 14.0
# squares whose guessed bits are below so many times what the learned ones cost may be exact, in fewer colours
CANDIDATES = 4.0
FLAT_PIXELS = 16  # new ones, at most, in a square whose colours a palette has, too
PALETTES = (4, 8, 16, 32, 64, 128, 256)
MANY = 4  # where one square in so many is exact, all of them are tried too
PATIENCE = 2  # palettes in a row that gain nothing, before larger ones are not tried
BETWEEN = (0.7, 1.4)  # sizes tried around the best
# an exact square is tried where its guessed cost is below so many times that of the learned one: at first, and at last
THRESHOLDS, MORE_THRESHOLDS = (1.0, 3.0), (0.35, 0.6, 1.7)
RESCUE = (0.5,)  # the threshold for single squares of a photo
BLOCK_ROWS = 64  # of squares, that are looked at together
TRIAL = {"method": 4, "quality": 75}  # of libwebp, near enough to what is written


@dataclasses.dataclass(frozen=True)
class Choice:
    """Exact squares (h, w), and the picture (H, W, 3) whose pixels they hold: the original, or it in fewer colours."""

    squares: Squares
    pixels: NDArray[np.uint8]


def worth_a_try(image: Tensor, quality: Quality) -> bool:
    """Whether a picture (3, H, W) uint8 may have squares that are better exact; up to quality 8 photos seldom do."""
    return _enough(_unlike_photos(image), quality)


def _enough(share: float, quality: Quality) -> bool:
    """Whether a share of squares that look drawn is worth a try."""
    return share >= TRY_SHARE or (share > 0 and float(quality) > ANCHORS[1])


def _unlike_photos(image: Tensor) -> float:
    """The share of squares of a picture (3, H, W) uint8 that look drawn, or wilder than any photo; 0 without WebP."""
    if not vp8l.available():
        return 0.0
    repeated, step = _neighbours(image)
    few, edges = _per_square(~repeated) <= FEW_NEW_PIXELS, _per_square(step > EDGE) >= EDGE_PIXELS
    wild = _per_square(step) > WILD * SQUARE**2
    return max(int((few & edges).sum()), int(wild.sum())) / few.numel()


def new_pixels(image: Tensor) -> Tensor:
    """Pixels of each square of a picture (3, H, W) uint8 that are like neither the left nor the upper one, (h, w)."""
    return _per_square(~_neighbours(image)[0])


def _neighbours(image: Tensor) -> tuple[Tensor, Tensor]:
    """Of every pixel whether it is like the left or the upper one, and how much it differs from the other, (H, W)."""
    red, green, blue = image.short()
    grey = red + 2 * green + 4 * blue  # hardly two neighbours of different colours look alike with these weights
    down, across = grey[1:] - grey[:-1], grey[:, 1:] - grey[:, :-1]
    repeated, step = torch.zeros_like(grey, dtype=torch.bool), torch.zeros_like(grey)
    repeated[:, 1:] = across == 0
    repeated[1:] |= down == 0
    step[:, 1:] = across.abs_()
    torch.maximum(step[1:], down.abs_(), out=step[1:])
    return repeated, step


def _per_square(x: Tensor) -> Tensor:
    """(H, W) -> sums over squares (h, w) float32."""
    H, W = x.shape
    padded = F.pad(x.float(), (0, -W % SQUARE, 0, -H % SQUARE))
    return F.avg_pool2d(padded[None, None], SQUARE)[0, 0] * SQUARE**2


def guessed_bits(image: Tensor) -> Tensor:
    """About what the lossless coder would take for each square of a picture (3, H, W) uint8, up to a factor, (h, w)."""
    return torch.cat([_guessed_bits(block) for block in torch.split(image, BLOCK_ROWS * SQUARE, 1)])


def _guessed_bits(image: Tensor) -> Tensor:
    repeated, _ = _neighbours(image)
    red, green, blue = image.short()
    x = torch.stack([red - green, green, blue - green]).float()
    padded = F.pad(x[None], (1, 0, 1, 0), mode="replicate")[0]
    left, up, corner = padded[:, 1:, :-1], padded[:, :-1, 1:], padded[:, :-1, :-1]
    guess = torch.minimum(torch.maximum(left + up - corner, torch.minimum(left, up)), torch.maximum(left, up))
    bits = ((x - guess).abs() + 1).log2().sum(0).add_(NEW_BITS).clamp_(max=MOST_BITS)
    return _per_square(torch.where(repeated, REPEATED_BITS, bits))


def choose(encoder: Encoder, image: Tensor, coded: Coded, quality: Quality) -> Choice | None:
    """Which squares of a picture are better exact, and in which colours; None for no square.

    Parameters
    ----------
    image : (1, 3, H, W) uint8 on the encoder's device.
    coded : of a try without exact squares.
    quality : of that try.
    """
    share = _unlike_photos(image[0])
    if not _enough(share, quality):
        return None
    search = _Search(encoder, image, coded, quality)
    return search.run() if share >= TRY_SHARE else search.rescue()


@dataclasses.dataclass(frozen=True)
class _Source:
    """Pixels that exact squares may hold: what squares of them cost to code, guessed, and their distortion, in bits."""

    pixels: NDArray[np.uint8]
    guess: Costs
    distortion: Costs


class _Search:
    """The choice for one picture."""

    def __init__(self, encoder: Encoder, image: Tensor, coded: Coded, quality: Quality) -> None:
        self.measure, self.q = encoder.bundle.config.distortion, encoder.decoder.quality_tensor(quality)
        self.padded = pad_to_multiple(image, SQUARE)
        self.pixels = image[0].permute(1, 2, 0).contiguous().cpu().numpy()
        with torch.inference_mode():
            bits = encoder.bits(coded)
            self.learned = bits.cpu().numpy() + self.distortion(encoder.decoder.images(coded, self.q))
        self.new = new_pixels(image[0]).cpu().numpy()
        self.texture = 1 + np.maximum(0, self.new - FEW_NEW_PIXELS) / TEXTURE
        self.best: Choice | None = None
        self.least = float(self.learned.sum())

    def distortion(self, decoded: Tensor) -> Costs:
        """Of each square of a picture (1, 3, h * 16, w * 16) uint8, bits (h, w); block by block."""
        h = decoded.shape[2] // SQUARE
        rows = SQUARE * -(-h // -(-h // BLOCK_ROWS))
        with torch.inference_mode(), torch.autocast(decoded.device.type, enabled=False):
            blocks = [
                self.measure.by_square(unit_range(a), unit_range(b), self.q)
                for a, b in zip(torch.split(decoded, rows, 2), torch.split(self.padded, rows, 2), strict=True)
            ]
            found: Costs = torch.cat(blocks).cpu().numpy()
        return found

    def source(self, pixels: NDArray[np.uint8], factor: float) -> _Source:
        """The original in other colours."""
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        distortion = self.distortion(pad_to_multiple(image[None], SQUARE).to(self.padded.device))
        return _Source(pixels, factor * guessed_bits(image).numpy(), self.texture * distortion)

    def run(self) -> Choice | None:
        """The best that was found; None where no exact square is better than none."""
        image = torch.from_numpy(self.pixels).permute(2, 0, 1)
        guess = guessed_bits(image).numpy()
        every = np.ones(guess.shape, np.bool_)
        factor = self.bits(self.pixels, every) / float(guess.sum())
        original = _Source(self.pixels, factor * guess, np.zeros_like(guess))
        best, least = original, self.ask(original)
        counted = (original.guess < CANDIDATES * self.learned) | (self.new <= FLAT_PIXELS)
        if counted.any():
            colours = Colours(self.pixels, exact_squares.magnify(counted, SQUARE, *self.pixels.shape[:2]))
            reduced, cost = self.best_palette(colours, factor)
            best = reduced if reduced is not None and cost < least else original
        self.ask(best, MORE_THRESHOLDS)
        return self.best

    def rescue(self) -> Choice | None:
        """Squares of a photo that went so wrong that to keep them costs less: letters, fine lines; None for no square.

        What distortion a quality above 8 leaves, networks do not reach on them.
        """
        guess = guessed_bits(torch.from_numpy(self.pixels).permute(2, 0, 1)).numpy()
        self.ask(_Source(self.pixels, guess, np.zeros_like(guess)), RESCUE)
        return self.best

    def best_palette(self, colours: Colours, factor: float) -> tuple[_Source | None, float]:
        """The palette that costs least, None where every one has all colours; and the bits of the picture with it."""
        tried: dict[int, tuple[float, _Source]] = {}

        def attempt(size: int) -> float:
            source = self.source(colours.reduced(size), factor)
            tried[size] = self.ask(source), source
            return tried[size][0]

        patience, last = PATIENCE, math.inf
        for size in PALETTES:
            if size >= len(colours) or not patience:
                break
            found = attempt(size)
            patience = PATIENCE if found < last else patience - 1
            last = min(last, found)
        if not tried:
            return None, math.inf
        centre = min(tried, key=lambda size: tried[size][0])
        for share in BETWEEN:
            if (size := round(share * centre)) < min(len(colours), PALETTES[-1]):
                attempt(size)
        cost, source = min(tried.values(), key=lambda pair: pair[0])
        return source, cost

    def ask(self, source: _Source, thresholds: tuple[float, ...] = THRESHOLDS) -> float:
        """Bits of the picture with the squares that thresholds make exact, or with all; the best is kept."""
        cost = source.guess + source.distortion
        tries = [cost < threshold * self.learned for threshold in thresholds]
        if thresholds == THRESHOLDS and MANY * tries[-1].sum() >= cost.size:
            tries.append(np.ones_like(tries[-1]))
        least = math.inf
        for exact in tries:
            if not exact.any():
                continue
            bits = self.bits(source.pixels, exact)
            total = bits + float(source.distortion[exact].sum() + self.learned[~exact].sum())
            least = min(least, total)
            if total < self.least:
                self.least, self.best = total, Choice(exact, source.pixels)
        return least

    def bits(self, pixels: NDArray[np.uint8], squares: Squares) -> int:
        """What the exact chunk takes, about."""
        return 8 * len(exact_squares.pack(pixels, None if squares.all() else squares, **TRIAL))


def fill(image: Tensor, squares: Squares) -> Tensor:
    """A picture (1, 3, H, W) uint8 with exact squares replaced by what is around: cheap to code, and without an edge.

    Means of what is known, halved down to one pixel, fill the unknown on the way back up.
    """
    _, _, H, W = image.shape
    known = torch.from_numpy(~exact_squares.magnify(squares, SQUARE, H, W)).to(image.device)[None, None]
    levels = [(image * known.float(), known.float())]
    while max(levels[-1][0].shape[2:]) > 1:
        # sums, as the last row and column of odd sides are halved with nothing
        levels.append(tuple(F.avg_pool2d(x, 2, ceil_mode=True, divisor_override=1) for x in levels[-1]))  # type: ignore[arg-type]
    total, weight = levels.pop()
    filled = total / weight
    while levels:
        total, weight = levels.pop()
        smooth = F.interpolate(filled, total.shape[2:], mode="bilinear")
        filled = torch.where(weight > 0, total / weight.clamp(min=1), smooth)
    return torch.where(known, image, filled.round().clamp(0, 255).to(torch.uint8))
