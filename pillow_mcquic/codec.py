"""The codec: uint8 arrays <-> `.mcq` bytes; arguments, alpha and the search for a size.

Everything above (Pillow plugin, command line, other libraries) goes through `encode`, `decode` and `decode_file`.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import coder, container, runtime
from .container import ALPHA, BadFileError, File, Header
from .engine import Engine

if TYPE_CHECKING:
    from .weights import Weights

QUALITY_DEFAULT = 4.0
EFFORT_DEFAULT = 1
REFINEMENT_ROUNDS = {1: 0, 2: 4, 3: 16}  # by effort
SHARED_ANALYSIS_PIXELS = 16 << 20  # up to here a size search keeps what all qualities share, at most 11 bytes a pixel
SEARCH_TOLERANCE, SEARCH_STEPS, SEARCH_START = 0.01, 14, 1152
REFINED_GROWTH = 1.02  # of a file at the same quality with effort, about
SCALES = (1, 2, 4, 8)  # of decoding: the sides are divided by it
LOG_SIZE_PER_QUALITY = 0.36  # a photo's file grows by about this factor, e^0.36, from one quality to the next

_loaded: dict[bytes, Weights] = {}


def quality_in_256ths(quality: object) -> int:
    """Check a quality argument, 1..8, int or float; ValueError naming the range otherwise."""
    if isinstance(quality, bool) or not isinstance(quality, (int, float, np.integer, np.floating)):
        raise ValueError(f"quality must be a number from 1 to 8, got {quality!r}")
    if not 1 <= quality <= 8:  # also refuses nan
        raise ValueError(f"quality must be from 1 (smallest file) to 8 (best picture), got {quality!r}")
    return round(float(quality) * container.QUALITY_ONE)


def refinement_rounds(effort: object) -> int:
    """Check an effort argument, 1, 2 or 3, and tell what it means; ValueError naming the choice otherwise."""
    if isinstance(effort, bool) or not isinstance(effort, (int, np.integer)) or effort not in REFINEMENT_ROUNDS:
        raise ValueError(f"effort must be 1 (fast), 2 or 3 (best for the bytes), got {effort!r}")
    return REFINEMENT_ROUNDS[int(effort)]


def load_weights(model_id: bytes) -> Weights:
    """The weights of an id, read once per process."""
    with runtime.lock:
        import torch

        from . import weights

        coder.library()
        runtime.prepare_thread_pool()
        # tensors made in a caller's inference mode could not take part in a refinement
        with torch.inference_mode(False):
            if model_id not in _loaded:
                runtime.keep_freed_memory()
                _loaded[model_id] = weights.load(weights.find(model_id))
        return _loaded[model_id]


def pack_alpha(alpha: NDArray[np.uint8]) -> bytes:
    """Payload of the alpha chunk, lossless: the best of three filters, then zlib."""
    filtered = [alpha, np.diff(alpha, axis=1, prepend=np.uint8(0)), np.diff(alpha, axis=0, prepend=np.uint8(0))]
    packed = [bytes([i]) + zlib.compress(f.tobytes(), 9) for i, f in enumerate(filtered)]
    return min(packed, key=len)


def unpack_alpha(payload: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """The inverse of `pack_alpha`: (height, width) uint8; BadFileError when it does not fit."""
    if not payload or payload[0] >= container.ALPHA_FILTERS:
        raise BadFileError("damaged .mcq file: unknown filter in the alpha chunk")
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(payload[1:], width * height + 1)
    except zlib.error as error:
        raise BadFileError(f"damaged .mcq file: alpha chunk: {error}") from error
    if len(raw) != width * height or not stream.eof or stream.unused_data:
        raise BadFileError(f"damaged .mcq file: the alpha chunk does not hold {width}x{height} samples")
    plane = np.frombuffer(raw, np.uint8).reshape(height, width)
    if payload[0] == 0:
        return plane
    summed: NDArray[np.uint8] = np.cumsum(plane, axis=2 - payload[0], dtype=np.uint8)
    return summed


def split_channels(pixels: NDArray[np.uint8]) -> tuple[str, NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Array (H, W), (H, W, 1..4) -> mode, RGB (H, W, 3), alpha (H, W) or None; ValueError otherwise."""
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        kind = pixels.dtype if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise ValueError(f"pixels must be a uint8 array, got {kind}")
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4 or 0 in pixels.shape:
        raise ValueError(f"pixels must be (H, W) or (H, W, 1..4), not empty, got {pixels.shape}")
    channels = pixels.shape[2]
    alpha = pixels[:, :, -1] if channels in (2, 4) else None
    colours = pixels[:, :, :3] if channels >= 3 else np.repeat(pixels[:, :, :1], 3, 2)
    return container.MODES[channels], np.ascontiguousarray(colours), alpha


def encode(
    pixels: NDArray[np.uint8],
    *,
    quality: float | None = None,
    target_bpp: float | None = None,
    max_bytes: int | None = None,
    effort: int = EFFORT_DEFAULT,
    chunks: dict[bytes, bytes] | None = None,
) -> bytes:
    """Encode an image.

    pixels: uint8, (H, W) grey, (H, W, 1..4) grey, grey + alpha, RGB, RGBA.
    quality: 1 (smallest) to 8 (best), fractions between; default 4.  Instead of it `target_bpp` (bits per
    pixel of the whole file, met within 3 % or as nearly as quality 1..8 reaches) or `max_bytes` (the best
    quality whose file is no larger).  effort: 1 (fast), 2 or 3 (slow, for better pictures in about as many bytes;
    decoding is the same); above 1 it needs up to 0.5 GB more, and 80 bytes a pixel.  chunks: payloads of metadata
    chunks by type (see `container`).
    Raises ValueError for an argument out of range, and when `max_bytes` is below what quality 1 needs.
    """
    given = [
        name
        for name, value in (("quality", quality), ("target_bpp", target_bpp), ("max_bytes", max_bytes))
        if value is not None
    ]
    if len(given) > 1:
        raise ValueError(f"give one of quality, target_bpp and max_bytes, not {' and '.join(given)}")
    fixed = quality_in_256ths(QUALITY_DEFAULT if quality is None else quality)
    wanted = refinement_rounds(effort)
    mode, colours, alpha = split_channels(pixels)
    target = _target_bytes(target_bpp, max_bytes, pixels)
    extra = dict(chunks or {})
    for kind in extra:
        if kind not in container.METADATA:
            raise ValueError(f"chunks must have types {sorted(container.METADATA)}, got {kind!r}")
    if alpha is not None:
        extra[ALPHA] = pack_alpha(alpha)

    from . import weights

    engine = Engine(load_weights(weights.default_id()))
    height, width = colours.shape[:2]

    def at(quality: int, rounds: int = wanted) -> bytes:
        header = Header(width, height, mode, quality, engine.weights.id)
        stream = engine.write_stream(*engine.quantise(colours, quality, analysed, rounds))
        return container.write(header, stream, extra)

    analysed = None
    if target is None:
        return at(fixed)
    if height * width <= SHARED_ANALYSIS_PIXELS:
        analysed = engine.analyse(colours)
    start = SEARCH_START
    if wanted:  # what is quick to try tells where the slow search begins
        start, _ = _search(partial(at, rounds=0), target / REFINED_GROWTH, start)
    return _search(at, target, start, strict=max_bytes is not None)[1]


def _target_bytes(target_bpp: float | None, max_bytes: int | None, pixels: Any) -> float | None:
    if target_bpp is not None:
        number = isinstance(target_bpp, (int, float, np.integer, np.floating)) and not isinstance(target_bpp, bool)
        if not number or not 0 < target_bpp < 1e6:
            raise ValueError(f"target_bpp must be a positive number of bits per pixel, got {target_bpp!r}")
        return float(target_bpp * pixels.shape[0] * pixels.shape[1] / 8)
    if max_bytes is not None:
        if isinstance(max_bytes, bool) or not isinstance(max_bytes, (int, np.integer)) or max_bytes < 1:
            raise ValueError(f"max_bytes must be a positive integer, got {max_bytes!r}")
        return float(min(max_bytes, 1 << 53))
    return None


def _search(at: Callable[[int], bytes], target: float, start: int, *, strict: bool = False) -> tuple[int, bytes]:
    """The file nearest in size to `target`, or if `strict` the best one not above it, after its quality, in 256ths.

    The log of the size is close to linear in quality, so a first guess `start`, the usual slope and then interpolation
    between the tries around the target (halving now and then) take three or four encodes.
    """
    allowed = (1.0 - SEARCH_TOLERANCE) * target, (1.0 if strict else 1.0 + SEARCH_TOLERANCE) * target
    aim = sum(allowed) / 2
    below: tuple[int, bytes] | None = None  # the largest file tried that is not above the target
    above: tuple[int, bytes] | None = None  # the smallest one that is
    quality, least = start, 8  # 256ths that a guess moves at least; doubled each time
    for step in range(SEARCH_STEPS):
        data = at(quality)
        if allowed[0] <= len(data) <= allowed[1]:
            return quality, data
        if len(data) <= target:
            below = quality, data
        else:
            above = quality, data
        distance = math.log(aim / len(data))
        if below and above:
            if above[0] - below[0] <= 1:
                break
            a, b = (math.log(len(tried[1]) / aim) for tried in (below, above))
            share = 0.5 if step % 3 == 2 else a / (a - b)
            quality = below[0] + round(share * (above[0] - below[0]))
            quality = min(above[0] - 1, max(below[0] + 1, quality))
        elif quality == (container.QUALITY_MAX if distance > 0 else container.QUALITY_MIN):
            break  # nothing beyond
        else:
            least *= 2
            move = max(least, round(1.2 * abs(distance) / LOG_SIZE_PER_QUALITY * container.QUALITY_ONE))
            guess = quality + (move if distance > 0 else -move)
            quality = min(container.QUALITY_MAX, max(container.QUALITY_MIN, guess))
    found = [tried for tried in (below, above) if tried]
    if strict:
        if below is None:
            raise ValueError(f"max_bytes={target:.0f} is too small: quality 1 needs {len(found[0][1])} bytes")
        return below
    return min(found, key=lambda tried: abs(len(tried[1]) - target))


def decode_file(file: File, scale: int = 1) -> NDArray[np.uint8]:
    """Decode a parsed file to uint8 (H, W) or (H, W, 2..4); BadFileError when it is damaged.

    scale: 1, 2, 4 or 8 for the sides divided by it, rounded up; see `Engine.synthesise`.
    """
    header = file.header
    alpha_payload = file.get(ALPHA)
    alpha = None if alpha_payload is None else unpack_alpha(alpha_payload, header.width, header.height)
    engine = Engine(load_weights(header.model))
    pixels = engine.synthesise(*engine.read_stream(file.codes, header, scale), header, scale)
    if alpha is None:
        return pixels
    return np.dstack([pixels, np.asarray(Image.fromarray(alpha).reduce(scale))])


def check_size(header: Header) -> None:
    """Warn or raise, as Pillow does on opening, when a picture is larger than `PIL.Image.MAX_IMAGE_PIXELS` allows."""
    check_sizes([header])


def check_sizes(headers: Sequence[Header]) -> None:
    """`check_size` of pictures that are decoded together, for all of their pixels."""
    Image._decompression_bomb_check((sum(math.prod(header.padded_size) for header in headers), 1))


def decode(data: bytes, *, scale: int = 1) -> NDArray[np.uint8]:
    """Decode the bytes of an `.mcq` file to uint8 (H, W) grey, (H, W, 2) grey + alpha, (H, W, 3), (H, W, 4).

    scale: 2, 4 or 8 decode a preview, H and W divided by it and rounded up, in a fraction of the time.
    Raises ValueError (`container.NotMcqError`) when it is no `.mcq` file, OSError when it is damaged or needs
    weights that are not here, and warns or raises, as Pillow does, when the picture is larger than
    `PIL.Image.MAX_IMAGE_PIXELS` allows.
    """
    if isinstance(scale, bool) or not isinstance(scale, (int, np.integer)) or scale not in SCALES:
        raise ValueError(f"scale must be one of {SCALES}, got {scale!r}")
    file = container.read(io.BytesIO(data))
    check_size(file.header)
    return decode_file(file, scale)
