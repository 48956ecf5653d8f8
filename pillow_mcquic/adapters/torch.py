"""Tensors and codes: pictures to and from `.mcq` on the device they are on, and the codes themselves as tokens.

>>> data = encode_tensor(image, quality=4)  # uint8 (3, H, W), on the CPU or CUDA
>>> image = decode_tensor(data, device="cuda")
>>> codes = read_codes("x.mcq")  # {1: (92, 3, h, w), 2: (24, 2, ...), 3: (24, 2, ...)}, int16
"""

from __future__ import annotations

import io
import operator
import os
from collections.abc import Mapping, Sequence
from typing import cast, overload

import torch
from torch import Tensor

from .. import codec, container, runtime, weights
from ..container import File, Header
from ..engine import Engine
from ..model.network import Config

LEVELS = (1, 2, 3)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
Source = str | os.PathLike[str] | bytes


def _parsed(source: Source) -> File:
    """A file given by path or bytes, not decoded yet; errors as of `codec.decode`."""
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as opened:
            file = container.read(opened)
    else:
        file = container.read(io.BytesIO(source))
    codec.check_size(file.header)
    return file


@overload
def decode_tensor(source: Source, *, device: torch.device | str | None = ...) -> Tensor: ...  # type: ignore[overload-overlap]
@overload
def decode_tensor(source: Sequence[Source], *, device: torch.device | str | None = ...) -> list[Tensor]: ...
def decode_tensor(
    source: Source | Sequence[Source], *, device: torch.device | str | None = None
) -> Tensor | list[Tensor]:
    """Decode an `.mcq` file, given by path or bytes, to uint8 (3, H, W) on a device; several to a list of these.

    Pictures of equal size and quality go through the networks together.  Grey is decoded to three equal channels, alpha
    not at all.  device: None is what `pillow_mcquic.configure` says.  Raises what `pillow_mcquic.decode` raises.
    """
    several = not isinstance(source, (bytes, bytearray, memoryview, str, os.PathLike))
    sources = cast(Sequence[Source], source if several else [source])
    files = [_parsed(each) for each in sources]
    alike: dict[tuple[bytes, bool, int, tuple[int, int]], list[int]] = {}
    for i, file in enumerate(files):
        header = file.header
        alike.setdefault((header.model, header.grey, header.quality, header.padded_size), []).append(i)
    decoded: dict[int, Tensor] = {}
    for (model, _, _, size), indices in alike.items():
        engine = Engine(codec.load_weights(model), runtime.device(device))
        count = _batch(engine, size)
        for part in (indices[i : i + count] for i in range(0, len(indices), count)):
            decoded.update(zip(part, _decode(engine, [files[i] for i in part]), strict=True))
    return [decoded[i] for i in range(len(files))] if several else decoded[0]


def _batch(engine: Engine, size: tuple[int, int]) -> int:
    """How many pictures of a size, multiples of 16, go through the networks at once, untiled."""
    return max(1, engine.tile_positions * 256 // (size[0] * size[1]))


def _decode(engine: Engine, files: list[File]) -> list[Tensor]:
    """Pictures of one model, size, quality and kind of mode -> uint8 (3, H, W) each."""
    header = files[0].header
    codes, classes = engine.read_streams([file.codes for file in files], header)
    quality = torch.full(
        (len(files),), header.quality / container.QUALITY_ONE, dtype=torch.float32, device=engine.device
    )
    images = engine.synthesise_images(codes, classes, quality, grey=header.grey).expand(-1, 3, -1, -1)
    return [
        image[:, : file.header.height, : file.header.width].contiguous()
        for image, file in zip(images, files, strict=True)
    ]


@overload
def encode_tensor(images: Tensor, *, quality: float = ..., effort: int = ...) -> bytes | list[bytes]: ...
@overload
def encode_tensor(images: Sequence[Tensor], *, quality: float = ..., effort: int = ...) -> list[bytes]: ...
def encode_tensor(
    images: Tensor | Sequence[Tensor], *, quality: float = codec.QUALITY_DEFAULT, effort: int = codec.EFFORT_DEFAULT
) -> bytes | list[bytes]:
    """Encode uint8 (3, H, W) to the bytes of an `.mcq` file; (N, 3, H, W), or several (3, H, W), to a list of these.

    The networks run on the device of the tensor, CPU or CUDA, for a batch all pictures together.  effort: as of
    `pillow_mcquic.encode`; above 1 pictures are refined one by one.  Raises ValueError for another shape, type, quality
    or effort.
    """
    fixed, rounds = codec.quality_in_256ths(quality), codec.refinement_rounds(effort)
    if not isinstance(images, Tensor):
        return [_encode(image[None], fixed, rounds)[0] for image in map(_checked, images)]
    images = _checked(images)
    if images.ndim == 4:
        return _encode(images, fixed, rounds)
    return _encode(images[None], fixed, rounds)[0]


def _checked(images: Tensor) -> Tensor:
    right = isinstance(images, Tensor) and images.dtype == torch.uint8 and images.ndim in (3, 4)
    if not right or images.shape[-3] != 3 or 0 in images.shape:
        what = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images must be uint8 (3, H, W) or (N, 3, H, W), not empty, got {what}")
    return images


def _encode(images: Tensor, quality: int, rounds: int) -> list[bytes]:
    """(B, 3, H, W) uint8 -> a file each."""
    engine = Engine(codec.load_weights(weights.default_id()), runtime.device(images.device))
    height, width = images.shape[2:]
    rows, columns = (torch.arange(-(-n // 16) * 16, device=images.device).clamp_(max=n - 1) for n in (height, width))
    header = Header(width, height, "RGB", quality, engine.weights.id)
    files = []
    for part in torch.split(images, _batch(engine, (len(rows), len(columns)))):
        found = engine.quantise_images(part[:, :, rows][:, :, :, columns], quality, rounds)
        codes, classes = ([level.cpu().numpy() for level in both] for both in found)
        for i in range(len(part)):
            stream = engine.write_stream([level[i] for level in codes], [level[i] for level in classes])
            files.append(container.write(header, stream, {}))
    return files


def read_codes(source: Source) -> dict[int, Tensor]:
    """The codes of an `.mcq` file, given by path or bytes, without running the networks that make pixels.

    Returns for each level 1, 2, 3 int16 (groups, stages, rows, columns) on the CPU, rows and columns on the grid of
    16, 32 or 64 pixels; groups of fewer residual stages than the most have 0 in the others.  A code is the index of a
    word of its group's and stage's codebook; 0 is the zero word.  Raises what `pillow_mcquic.decode` raises.
    """
    file = _parsed(source)
    engine = Engine(codec.load_weights(file.header.model), runtime.device("cpu"))
    codes, _ = engine.read_stream(file.codes, file.header)
    return {level: _by_stage(engine.weights.config, level, torch.from_numpy(codes[level - 1])) for level in LEVELS}


def _by_stage(config: Config, level: int, codes: Tensor) -> Tensor:
    """Codes (symbols, h, w) -> (groups, stages, h, w)."""
    banks = config.banks(level)
    most = max(len(bank.stages) for bank in banks)
    parts = torch.split(codes, [bank.symbols for bank in banks])
    padded = [
        torch.nn.functional.pad(
            part.reshape(bank.groups, -1, *part.shape[1:]), (0, 0, 0, 0, 0, most - len(bank.stages))
        )
        for bank, part in zip(banks, parts, strict=True)
    ]
    return torch.cat(padded)


def decode_codes(
    codes: Mapping[int, Tensor],
    *,
    quality: float,
    size: tuple[int, int] | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Codes as of `read_codes`, of the default model -> the picture, uint8 (3, H, W) on a device.

    quality: of the file they come from, `Image.open(path).info["quality"]`; size: (width, height), by default the
    whole grid.  Raises ValueError for codes that no file could hold.
    """
    engine = Engine(codec.load_weights(weights.default_id()), runtime.device(device))
    fixed = codec.quality_in_256ths(quality)
    if not isinstance(codes, Mapping):
        raise ValueError(f"codes must be a dict of the levels' tensors, got {type(codes).__name__}")
    flat = [_flat(engine.weights.config, level, codes).to(engine.device) for level in LEVELS]
    height, width = flat[0].shape[2] * 16, flat[0].shape[3] * 16
    if size is None:
        size = width, height
    try:
        width, height = map(operator.index, size)
    except (TypeError, ValueError) as error:
        raise ValueError(f"size must be (width, height) in whole pixels, got {size!r}") from error
    header = Header(width, height, "RGB", fixed, engine.weights.id)
    if header.grids != tuple(tuple(level.shape[2:]) for level in flat):
        raise ValueError(f"codes on grids {[tuple(level.shape[2:]) for level in flat]} are not those of size {size}")
    kinds = engine.classes(flat, fixed)
    q = torch.tensor([fixed / container.QUALITY_ONE], dtype=torch.float32, device=engine.device)
    return engine.synthesise_images(flat, kinds, q)[0, :, :height, :width].contiguous()


def _flat(config: Config, level: int, codes: Mapping[int, Tensor]) -> Tensor:
    """The inverse of `_by_stage`, with a batch dimension: (1, symbols, h, w); ValueError for impossible codes."""
    banks = config.banks(level)
    groups, most = sum(bank.groups for bank in banks), max(len(bank.stages) for bank in banks)
    mine, shape = codes.get(level), (groups, most)
    if not isinstance(mine, Tensor) or mine.dtype not in INTEGERS or mine.ndim != 4 or mine.shape[:2] != shape:
        found = f"{mine.dtype} {tuple(mine.shape)}" if isinstance(mine, Tensor) else type(mine).__name__
        raise ValueError(f"codes of level {level} must be integers ({groups}, {most}, rows, columns), got {found}")
    parts = []
    for bank, part in zip(banks, torch.split(mine, [bank.groups for bank in banks]), strict=True):
        sizes = [k for k, _ in bank.stages] + [1] * (most - len(bank.stages))
        if bool((part < 0).any()) or bool((part >= torch.tensor(sizes, device=part.device)[:, None, None]).any()):
            raise ValueError(f"codes of level {level} must be from 0 to below {sizes} in groups of that bank")
        parts.append(part[:, : len(bank.stages)].flatten(0, 1))
    return torch.cat(parts).to(torch.int16)[None]
