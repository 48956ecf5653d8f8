"""Pixels -> what a file holds of them: which squares are exact, and the codes of the others; the search for a size."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .bitstream.exact_squares import Squares
from .bitstream.grids import Box
from .bitstream.picture import Picture
from .bitstream.tiles import Tile
from .quality import DEFAULT, Quality
from .target_search import SIZE_TOLERANCE, search_size

if TYPE_CHECKING:
    import torch

    from .engine.encoder import Analysed, Encoded, Encoder
    from .engine.exact_choice import Choice

SHARED_ANALYSIS_PIXELS = 16 << 20  # up to here a size search keeps what all qualities share, at most 11 bytes a pixel
FIRST_TRY = Quality(1152)  # of a size search: 4.5
REFINED_GROWTH = 1.02  # of a file at the same quality with effort, about


def encode_images(
    encoder: Encoder,
    images: torch.Tensor,
    pictures: Sequence[Picture],
    quality: Quality,
    iterations: int,
    analysed: Analysed | None = None,
    *,
    exact: bool = True,
) -> list[Tile]:
    """Images (B, 3, H, W) uint8 on the encoder's device -> the only tile of each picture.

    Parameters
    ----------
    pictures : of the images; without tiles.
    iterations : of latent refinement.
    analysed : what `Encoder.analyse` gave for these images.
    exact : whether squares may be exact.
    """
    import torch

    from .engine import exact_choice

    encoded = encoder.encode(images, quality, analysed)
    tiles: dict[int, Tile] = {}
    for number, image in enumerate(torch.split(images, 1) if exact else ()):
        choice = exact_choice.choose(encoder, image, encoded.coded.pictures([number]), quality)
        if choice is not None:
            picture = pictures[number]
            tiles[number] = _exact_tile(picture, choice, picture.tiles.whole)
            if not tiles[number].whole:
                filled = exact_choice.fill(image, choice.squares)
                (coded_tile,) = encode_images(encoder, filled, [picture], quality, iterations, exact=False)
                tiles[number] = dataclasses.replace(tiles[number], codes=coded_tile.codes)
    learned = [number for number in range(len(images)) if number not in tiles]
    if learned:
        streams = _write(encoder, images[learned], encoded.pictures(learned), quality, iterations)
        tiles.update(zip(learned, [Tile(stream, None, whole=False) for stream in streams], strict=True))
    return [tiles[number] for number in range(len(images))]


def _exact_tile(picture: Picture, choice: Choice, box: Box) -> Tile:
    """The tile of a box with its exact squares, and without codes so far."""
    if choice.squares.all():
        return picture.whole(choice.pixels, box)
    return picture.mixed(choice.pixels, choice.squares)


def encode_tiles(
    encoder: Encoder, image: torch.Tensor, picture: Picture, quality: Quality, iterations: int, *, exact: bool = True
) -> list[Tile]:
    """An image (1, 3, H, W) uint8 on the encoder's device -> the tiles of its picture; otherwise as `encode_images`.

    Squares that are exact are found in each tile alone.  Then all tiles are coded, with what is exact in and around
    them filled; one without any learned square near it needs no codes.
    """
    import torch

    from .engine import exact_choice
    from .engine.mosaic import context, in_squares
    from .engine.tile_encoder import TileEncoder

    grid = picture.tiles
    whole = in_squares(grid.whole)
    squares: Squares = np.zeros(whole.size[::-1], np.bool_)
    tiles: dict[int, Tile] = {}
    for number in range(len(grid)) if exact else ():
        box = grid.box(number)
        part = _cut(image, box)
        if exact_choice.worth_a_try(part[0], quality):
            choice = exact_choice.choose(encoder, part, encoder.encode(part, quality).coded, quality)
            if choice is not None:
                squares[in_squares(box).slices] = choice.squares
                tiles[number] = _exact_tile(picture, choice, box)

    def filled(box: Box) -> torch.Tensor:
        near, pixels = squares[in_squares(box).slices], _cut(image, box)
        if near.all():
            return torch.full_like(pixels, 128)  # nothing is seen of it
        return exact_choice.fill(pixels, near) if near.any() else pixels

    learned = [
        number for number in range(len(grid)) if not squares[context(in_squares(grid.box(number)), whole).slices].all()
    ]
    for number, images, encoded in TileEncoder(encoder, quality, grid, filled).encode(learned):
        (codes,) = _write(encoder, images, encoded, quality, iterations)
        tiles[number] = dataclasses.replace(tiles.get(number, Tile(None, None, whole=False)), codes=codes)
    return [tiles[number] for number in range(len(grid))]


def _cut(image: torch.Tensor, box: Box) -> torch.Tensor:
    """The pixels of a box."""
    rows, columns = box.slices
    return image[:, :, rows, columns]


def _write(encoder: Encoder, images: torch.Tensor, encoded: Encoded, quality: Quality, iterations: int) -> list[bytes]:
    """The code streams of what was encoded of images, after so many iterations of refinement."""
    if not iterations:
        return encoder.write(encoded.coded)
    from .engine.refinement import refine

    return encoder.write(refine(encoder, images, encoded, quality, iterations))


def encode_picture(
    encoder: Encoder,
    images: torch.Tensor,
    picture: Picture,
    quality: Quality,
    iterations: int,
    analysed: Analysed | None = None,
    *,
    exact: bool = True,
) -> list[Tile]:
    """`encode_images` or `encode_tiles`, as the picture is."""
    if picture.tile_side is None:
        return encode_images(encoder, images, [picture], quality, iterations, analysed, exact=exact)
    return encode_tiles(encoder, images, picture, quality, iterations, exact=exact)


def _worth_a_try(image: torch.Tensor, picture: Picture) -> bool:
    """Whether any tile may have many exact squares."""
    from .engine import exact_choice

    boxes = map(picture.tiles.box, range(len(picture.tiles)))
    return any(exact_choice.worth_a_try(_cut(image, box)[0], DEFAULT) for box in boxes)


def search(
    encoder: Encoder, images: torch.Tensor, picture: Picture, target: float, wanted: int, *, strict: bool
) -> bytes:
    """The file nearest in size to `target` bytes, or if `strict` the best of no more.

    With exact squares sizes have steps, up and down, so all that was made counts; and a small budget may have no room
    for them: then all squares are learned.  Raises ValueError when `strict` and nothing is small enough.
    """
    shared = picture.tile_side is None and images.shape[2] * images.shape[3] <= SHARED_ANALYSIS_PIXELS
    analysed = encoder.analyse(images) if shared else None
    tried: dict[tuple[bool, int], bytes] = {}

    def make(steps: int, iterations: int, exact: bool) -> bytes:
        quality = Quality(steps)
        tiles = encode_picture(encoder, images, picture, quality, iterations, analysed, exact=exact)
        data = picture.write(quality, encoder.bundle.decoder.id, tiles)
        if iterations == wanted:
            tried[exact, steps] = data
        return data

    for exact in (True, False) if _worth_a_try(images, picture) else (True,):
        start = FIRST_TRY.steps
        if wanted:  # what is quick to try tells where the slow search begins
            quick = functools.partial(make, iterations=0, exact=exact)
            start, _ = search_size(quick, target / REFINED_GROWTH, start, strict=False)
        with contextlib.suppress(ValueError):  # quality 1 is too large
            search_size(functools.partial(make, iterations=wanted, exact=exact), target, start, strict=strict)
        nearest = min(tried.values(), key=lambda data: abs(len(data) - target))
        fitting = [key for key, data in tried.items() if len(data) <= target]
        if strict and fitting:
            return tried[max(fitting, key=lambda key: key[1])]
        if not strict and abs(len(nearest) - target) <= SIZE_TOLERANCE * target:
            return nearest
    if strict:
        needed = min(map(len, tried.values()))
        raise ValueError(f"max_bytes={target:.0f} is too small: quality 1 needs {needed} bytes")
    return nearest
