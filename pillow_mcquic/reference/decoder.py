"""A file -> its picture: all sections together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .. import weights_files
from . import exact, file, weights
from .classes import Classes
from .codes import Codes, Integers, Stream, grids
from .pixels import Networks, Planes, samples

PREVIEW_BANKS = {1: None, 2: 4, 4: 3, 8: 2}  # of level 1, for previews of 1/2, 1/4, 1/8


def decode(data: bytes, scale: int = 1) -> NDArray[np.uint8]:
    """Decode a file to uint8 (H, W) or (H, W, 2..4); scale: 1, 2, 4 or 8, for a preview of 1/`scale` of the sides.

    Raises NotMcqError without our magic, and OSError for what cannot be decoded.
    """
    parsed = file.read(data)
    header = parsed.header
    channels = len(header.mode) - header.mode.endswith("A")
    out = np.zeros((-(-header.height // scale), -(-header.width // scale), len(header.mode)), np.uint8)
    # codes of tiles that are exact as a whole are there for the pixels of others
    learned = np.zeros(()) if all(tile.whole for tile in parsed.tiles) else _learned(parsed, scale)
    for (left, top, right, bottom), tile in zip(header.boxes, parsed.tiles, strict=True):
        width, height = right - left, bottom - top
        place = slice(top // scale, -(-bottom // scale)), slice(left // scale, -(-right // scale))
        if tile.whole:
            pixels = exact.of_mode(exact.vp8l(tile.parts["X"], width, height), header.mode)
            out[place] = exact.reduced(pixels, scale)
            continue
        out[place][..., :channels] = learned[place]
        if "X" in tile.parts:
            pixels = np.zeros((height, width, channels), np.uint8)
            shown = exact.put(tile.parts["X"], pixels, header.mode.removesuffix("A"))[::scale, ::scale]
            out[place][..., :channels][shown] = exact.reduced(pixels, scale)[shown]
        if "A" in tile.parts:
            plane = file.alpha(tile.parts["A"], width, height)[..., None]
            out[place][..., channels:] = exact.reduced(plane, scale)
    return out[..., 0] if len(header.mode) == 1 else out


def _learned(parsed: file.File, scale: int) -> NDArray[np.uint8]:
    """All learned squares, (ceil(H / scale), ceil(W / scale), 1 or 3)."""
    header = parsed.header
    known = weights.read(weights_files.find_decoder(header.model))
    networks, whole = Networks(known, header.quality), grids(header.width, header.height)
    banks = [number for number in range(len(known.banks)) if known.banks[number].level > 1]
    banks += known.banks_of(1)[: PREVIEW_BANKS[scale]]
    residuals: dict[int, Planes] = {}
    for level in (3, 2, 1):
        channels = sum(_channels(known, number) for number in banks if _level(known, number) == level)
        residuals[level] = np.zeros((*whole[level], channels), np.float32)
    for (left, top, right, bottom), tile in zip(header.boxes, parsed.tiles, strict=True):
        own = grids(right - left, bottom - top)
        found = _codes(known, header.quality, own, tile.parts.get("C"), banks)
        start = dict.fromkeys((1, 2, 3), 0)
        for number, codes in zip(banks, found, strict=True):
            part, level = networks.residuals(number, *codes), _level(known, number)
            if number == known.banks_of(1)[0]:
                part = networks.checkerboard(part)
            row, column = top >> level + 3, left >> level + 3
            place = residuals[level][row : row + own[level][0], column : column + own[level][1]]
            place[..., start[level] : start[level] + part.shape[2]] = part
            start[level] += part.shape[2]
    features = networks.features(residuals, whole)
    z1 = networks.latent(residuals[1], features)
    picture = networks.picture(z1, features) if scale == 1 else networks.preview(z1, features, scale)
    height, width = -(-header.height // scale), -(-header.width // scale)
    return samples(picture[:height, :width], grey=header.mode.startswith("L"))


def _level(known: weights.Weights, number: int) -> int:
    return known.banks[number].level


def _channels(known: weights.Weights, number: int) -> int:
    return known.banks[number].groups * known.banks[number].dim


def _codes(
    known: weights.Weights, quality: int, own: dict[int, tuple[int, int]], data: bytes | None, banks: list[int]
) -> list[tuple[Codes, Integers, Integers]]:
    """Codes, classes and escapes of the first banks of a tile; codes are 0 where it has none."""
    stream, state, found = None if data is None else Stream(data), Classes(known, quality, own), []
    for number in banks:
        bank, classes = known.banks[number], state.of(number)
        codes = np.zeros((bank.groups, len(bank.stages), *own[bank.level]), np.int64)
        escapes = np.zeros_like(classes)
        if stream is not None:
            codes, escapes = stream.bank(known, number, classes)
        state.push(number, codes)
        found.append((codes, classes, escapes))
    if stream is not None and len(banks) == len(known.banks):
        stream.finish()
    return found
