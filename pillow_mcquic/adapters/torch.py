"""Tensors and codes: pictures to and from `.mcq` on the device they are on, and the codes themselves as tokens.

>>> data = encode_tensor(image, quality=4)  # uint8 (3, H, W), on the CPU or CUDA
>>> image = decode_tensor(data, device="cuda")
>>> codes = read_codes("x.mcq")  # {1: (92, 4, h, w), 2: (24, 3, ...), 3: (24, 3, ...)}, int16
"""

from __future__ import annotations

import io
import operator
import os
from collections.abc import Mapping, Sequence
from typing import cast, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import codec, decoding, encoding, loading, weights_files
from ..bitstream import container
from ..bitstream.coding_order import ESCAPES
from ..bitstream.container import File
from ..bitstream.grids import LEVELS, SQUARE, Box, TileGrid, grids_of
from ..bitstream.picture import Picture
from ..bitstream.tiles import SIDES, Tile
from ..engine.decoder import Coded, Decoder
from ..engine.device import Device
from ..engine.mosaic import Mosaic
from ..model.config import Config
from ..quality import Quality

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
Source = str | os.PathLike[str] | bytes
Sides = tuple[int, int, int, int]  # left, top, right, bottom


def _parsed(source: Source, box: Sides | None = None) -> tuple[File, Box | None]:
    """A file given by path or bytes, not decoded yet, and the box of it; errors as of `codec.decode`."""
    with open(source, "rb") if isinstance(source, (str, os.PathLike)) else io.BytesIO(source) as opened:
        wanted = None if box is None else codec.check_box(box, container.peek(opened))
        file = container.read(opened, wanted, decoding.REACH)
    codec.check_sizes([file.header], wanted)
    return file, wanted


@overload
def decode_tensor(  # type: ignore[overload-overlap]
    source: Source, *, device: torch.device | str | None = ..., box: Sides | None = ...
) -> Tensor: ...
@overload
def decode_tensor(
    source: Sequence[Source], *, device: torch.device | str | None = ..., box: Sides | None = ...
) -> list[Tensor]: ...
def decode_tensor(
    source: Source | Sequence[Source], *, device: torch.device | str | None = None, box: Sides | None = None
) -> Tensor | list[Tensor]:
    """Decode an `.mcq` file to a tensor, or several to a list of tensors.

    Pictures of equal size and quality go through the networks together.

    Parameters
    ----------
    source : path or bytes of a file, or a sequence of these.
    device : where to, by default what `pillow_mcquic.configure` says.
    box : (left, top, right, bottom) of each picture, as of `pillow_mcquic.decode`; by default all of it.

    Returns
    -------
    uint8 (3, H, W) : grey is decoded to three equal channels, alpha not at all.

    Raises
    ------
    What `pillow_mcquic.decode` raises.
    """
    several = not isinstance(source, (bytes, bytearray, memoryview, str, os.PathLike))
    sources = cast(Sequence[Source], source if several else [source])
    parsed = [_parsed(each, box) for each in sources]
    files = [file for file, _ in parsed]
    alike: dict[tuple[bytes, bool, Quality, tuple[int, int]], list[int]] = {}
    decoded: dict[int, Tensor] = {}
    for i, file in enumerate(files):
        header = file.header
        if not header.learned or header.quality is None or header.tile_side is not None or box is not None:
            pixels = decoding.decode_file(file, box=parsed[i][1], device=device)
            decoded[i] = _planes(pixels).to(Device.choose(device).where)
        else:
            alike.setdefault((header.model, header.grey, header.quality, header.padded_size), []).append(i)
    for (model, _, _, size), indices in alike.items():
        decoder = loading.load_decoder(model, device)
        count = _batch_size(decoder, size)
        for batch in (indices[i : i + count] for i in range(0, len(indices), count)):
            decoded.update(zip(batch, _decode(decoder, [files[i] for i in batch]), strict=True))
    return [decoded[i] for i in range(len(files))] if several else decoded[0]


def _planes(pixels: NDArray[np.uint8]) -> Tensor:
    """(H, W) or (H, W, 2..4) uint8 -> (3, H, W): grey three times, alpha not."""
    if pixels.ndim == 2 or pixels.shape[2] == 2:
        return torch.tensor(pixels.reshape(*pixels.shape[:2], -1)[None, :, :, 0], device="cpu").repeat(3, 1, 1)
    return torch.tensor(pixels[:, :, :3], device="cpu").permute(2, 0, 1).contiguous()


def _batch_size(decoder: Decoder, size: tuple[int, int]) -> int:
    """How many pictures of a size, multiples of 16, go through the networks at once, in one window."""
    return max(1, decoder.device.window_positions * SQUARE**2 // (size[0] * size[1]))


def _decode(decoder: Decoder, files: list[File]) -> list[Tensor]:
    """Pictures of one model, size, quality and kind of mode -> uint8 (3, H, W) each."""
    header = files[0].header
    assert header.quality is not None
    coded = decoder.read([file.codes for file in files], header.quality, header.grids)
    quality = decoder.quality_tensor(*[header.quality] * len(files))
    images = decoder.images(coded, quality, grey=header.grey).expand(-1, 3, -1, -1)
    return [_finish(image, file) for image, file in zip(images, files, strict=True)]


def _finish(image: Tensor, file: File) -> Tensor:
    """Learned squares (3, h * 16, w * 16) -> the picture of a file, with its exact squares."""
    header, (tile,) = file.header, file.tiles
    assert tile is not None
    image = image[:, : header.height, : header.width].contiguous()
    exact = decoding.unpack_exact(tile, header, header.tiles.whole)
    if exact is not None:
        rows, columns = exact.box.slices
        pixels, mask = _planes(exact.pixels).to(image.device), torch.from_numpy(exact.mask()).to(image.device)
        image[:, rows, columns] = torch.where(mask, pixels, image[:, rows, columns])
    return image


@overload
def encode_tensor(
    images: Tensor, *, quality: float | None = ..., lossless: bool = ..., effort: int = ...
) -> bytes | list[bytes]: ...
@overload
def encode_tensor(
    images: Sequence[Tensor], *, quality: float | None = ..., lossless: bool = ..., effort: int = ...
) -> list[bytes]: ...
def encode_tensor(
    images: Tensor | Sequence[Tensor],
    *,
    quality: float | None = None,
    lossless: bool = False,
    effort: int = codec.EFFORT_DEFAULT,
) -> bytes | list[bytes]:
    """Encode a picture to the bytes of an `.mcq` file, or several to a list of these.

    The networks run on the device of the tensor, CPU or CUDA, for a batch all pictures together.

    Parameters
    ----------
    images : uint8 (3, H, W); (N, 3, H, W), or a sequence of (3, H, W), for several.
    quality : 1 (smallest) to 10 (best), default 4.
    lossless : instead of it, keep every pixel.
    effort : as of `pillow_mcquic.encode`; above 1 pictures are refined one by one.

    Raises
    ------
    ValueError : for another shape, type, quality or effort.
    """
    level = codec.check_level(quality, lossless)
    fixed = None if level is None else Quality.parse(level)
    codec.refinement_iterations(effort)
    if not isinstance(images, Tensor):
        return [_encode(image[None], fixed, effort)[0] for image in map(_checked, images)]
    images = _checked(images)
    if images.ndim == 4:
        return _encode(images, fixed, effort)
    return _encode(images[None], fixed, effort)[0]


def _checked(images: Tensor) -> Tensor:
    right = isinstance(images, Tensor) and images.dtype == torch.uint8 and images.ndim in (3, 4)
    if not right or images.shape[-3] != 3 or 0 in images.shape:
        what = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images must be uint8 (3, H, W) or (N, 3, H, W), not empty, got {what}")
    return images


def _encode(images: Tensor, quality: Quality | None, effort: int) -> list[bytes]:
    """(B, 3, H, W) uint8 -> a file each; without a quality lossless."""
    pictures = [Picture.of(_array(image), codec.EXACT_EFFORT[effort]) for image in images]
    if quality is None:
        return [picture.write_lossless() for picture in pictures]
    encoder, iterations = loading.load_encoder(images.device), codec.refinement_iterations(effort)
    model = encoder.bundle.decoder.id
    if pictures[0].tile_side is not None:
        alone = zip(pictures, torch.split(images, 1), strict=True)
        return [
            picture.write(quality, model, encoding.encode_tiles(encoder, image, picture, quality, iterations))
            for picture, image in alone
        ]
    height, width = images.shape[2:]
    count = _batch_size(encoder.decoder, (-(-width // SQUARE) * SQUARE, -(-height // SQUARE) * SQUARE))
    tiles: list[Tile] = []
    for start in range(0, len(images), count):
        batch, of_batch = images[start : start + count], pictures[start : start + count]
        tiles += encoding.encode_images(encoder, batch, of_batch, quality, iterations)
    return [picture.write(quality, model, [tile]) for picture, tile in zip(pictures, tiles, strict=True)]


def _array(image: Tensor) -> NDArray[np.uint8]:
    """(3, H, W) -> (H, W, 3)."""
    array: NDArray[np.uint8] = image.permute(1, 2, 0).contiguous().cpu().numpy()
    return array


def read_codes(source: Source) -> dict[int, Tensor]:
    """The codes of an `.mcq` file, without running the networks that make pixels.

    Parameters
    ----------
    source : path or bytes.

    Returns
    -------
    For each level 1, 2, 3 int16 (groups, stages, rows, columns) on the CPU, rows and columns on the grid of 16, 32 or
    64 pixels; groups of fewer residual stages than the most have 0 in the others.  A code is the index of a codeword in
    the codebook of its group and stage; 0 is the zero codeword.  Last of the stages stands how often a group escapes, 0
    to 8 and nearly always 0: its step doubles so many times.  What codes say of exact squares is not the picture.

    Raises
    ------
    What `pillow_mcquic.decode` raises, and ValueError for a file that has none (lossless, or of exact squares alone).
    """
    file, _ = _parsed(source)
    header, grid = file.header, file.header.tiles
    if not header.learned or header.quality is None:
        raise ValueError("this .mcq file has exact squares alone, no codes: use decode_tensor")
    decoder = loading.load_decoder(header.model, "cpu")
    rows = []
    for row in range(grid.rows):
        numbers = range(row * grid.columns, (row + 1) * grid.columns)
        tiles = [_with_escapes(decoder.config, decoding.read_codes(file, number, decoder)) for number in numbers]
        rows.append([torch.cat(parts, -1) for parts in zip(*tiles, strict=True)])
    codes = [torch.cat(parts, -2) for parts in zip(*rows, strict=True)]
    return {level: torch.cat([codes[number] for number in decoder.config.banks_of(level)]) for level in sorted(LEVELS)}


def _stages_of(config: Config, level: int) -> int:
    """The most stages that a bank of a level has."""
    return max(len(config.banks[number].stages) for number in config.banks_of(level))


def _with_escapes(config: Config, coded: Coded) -> list[Tensor]:
    """Codes of one picture, of each bank (groups, most stages of the level + 1, h, w): escapes come last."""
    found = []
    for bank, codes, classes in zip(config.banks, coded.codes, coded.classes, strict=True):
        padded = torch.nn.functional.pad(codes[0], (0, 0, 0, 0, 0, _stages_of(config, bank.level) - len(bank.stages)))
        found.append(torch.cat([padded, (classes[0] // config.classes).to(codes.dtype)[:, None]], 1))
    return found


def decode_codes(
    codes: Mapping[int, Tensor],
    *,
    quality: float,
    size: tuple[int, int] | None = None,
    tile_side: int | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Codes of the default model -> the picture.

    Parameters
    ----------
    codes : as of `read_codes`.
    quality : of the file they come from, `Image.open(path).info["quality"]`.
    size : (width, height), by default the whole grid.
    tile_side : of the file they come from, `info["tile_side"]` if there is such a thing.
    device : where to, by default what `pillow_mcquic.configure` says.

    Returns
    -------
    uint8 (3, H, W).

    Raises
    ------
    ValueError : for codes that no file could hold.
    """
    decoder, fixed = loading.load_decoder(weights_files.default_id(), device), Quality.parse(quality)
    if not isinstance(codes, Mapping):
        raise ValueError(f"codes must be a dict of the levels' tensors, got {type(codes).__name__}")
    config = decoder.config
    banks = [part.to(decoder.device.where) for level in LEVELS for part in _by_bank(config, level, codes)]
    height, width = (side * SQUARE for side in banks[-1].shape[3:])
    if size is None:
        size = width, height
    try:
        width, height = map(operator.index, size)
    except (TypeError, ValueError) as error:
        raise ValueError(f"size must be (width, height) in whole pixels, got {size!r}") from error
    grids = grids_of(width, height)
    found = [tuple(part.shape[3:]) for part in banks]
    if found != [grids[bank.level] for bank in config.banks]:
        raise ValueError(f"codes on grids {sorted(set(found), reverse=True)} are not those of size {size}")
    grid = TileGrid(width, height, _checked_side(tile_side))

    def coded(number: int) -> Coded:
        box = grid.box(number)
        own = grids_of(*box.size)
        origin = {level: (box.top >> level + 3, box.left >> level + 3) for level in LEVELS}
        parts = [
            part[..., y : y + own[bank.level][0], x : x + own[bank.level][1]]
            for bank, part in zip(config.banks, banks, strict=True)
            for y, x in (origin[bank.level],)
        ]
        codes = [part[:, :, :-1].contiguous() for part in parts]
        classes = zip(decoder.classes(codes, fixed, own), parts, strict=True)
        return Coded(codes, [plain + (part[:, :, -1] * config.classes).to(plain.dtype) for plain, part in classes])

    mosaic, pixels = Mosaic(decoder, fixed, grid, coded), np.empty((height, width, 3), np.uint8)
    for number in range(len(grid)):
        mosaic.paint(number, grid.whole, pixels)
    return _planes(pixels).to(decoder.device.where)


def _checked_side(side: object) -> int | None:
    if side is not None and side not in SIDES.values():
        raise ValueError(f"tile_side must be one of {sorted(SIDES.values())}, got {side!r}")
    return cast(int | None, side)


def _by_bank(config: Config, level: int, codes: Mapping[int, Tensor]) -> list[Tensor]:
    """Codes of a level -> (1, groups, stages + 1, h, w) of each bank, escapes last; ValueError for impossible ones."""
    banks = [config.banks[number] for number in config.banks_of(level)]
    groups, most = config.groups(level), _stages_of(config, level)
    given, shape = codes.get(level), (groups, most + 1)
    if not isinstance(given, Tensor) or given.dtype not in INTEGERS or given.ndim != 4 or given.shape[:2] != shape:
        found = f"{given.dtype} {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
        raise ValueError(f"codes of level {level} must be integers ({groups}, {most + 1}, rows, columns), got {found}")
    parts = []
    for bank, part in zip(banks, torch.split(given, [bank.groups for bank in banks]), strict=True):
        sizes = [*bank.stages] + [1] * (most - len(bank.stages)) + [ESCAPES + 1]
        if bool((part < 0).any()) or bool((part >= torch.tensor(sizes, device=part.device)[:, None, None]).any()):
            raise ValueError(f"codes of level {level} must be from 0 to below {sizes} in groups of that bank")
        parts.append(part[None, :, [*range(len(bank.stages)), -1]].to(torch.int16).contiguous())
    return parts
