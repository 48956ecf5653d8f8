"""The codec: uint8 arrays <-> `.mcq` bytes; arguments, channels and the search for a size.

Everything above (Pillow plugin, command line, other libraries) goes through here.  torch is imported by `load_decoder`
and `load_encoder`, when the first picture is encoded or decoded, not with the package.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import quality as quality_scale
from . import weights_files
from .bitstream import alpha, container, exact_squares, range_coder
from .bitstream.container import ALPHA, EXACT, METADATA, File, Header
from .bitstream.exact_squares import ExactSquares
from .bitstream.picture import Picture
from .engine import forks
from .quality import Quality
from .target_search import SIZE_TOLERANCE, search_size

if TYPE_CHECKING:
    import torch

    from .engine.bundle import DecoderBundle, EncoderBundle
    from .engine.decoder import Decoder
    from .engine.encoder import Analysed, Encoder
    from .engine.exact_choice import Choice

EFFORT_DEFAULT = 1
REFINEMENT_ITERATIONS = {1: 0, 2: 4, 3: 16}  # by effort
EXACT_EFFORT = {1: {"method": 6, "quality": 90}, 2: {"method": 6, "quality": 100}, 3: {"method": 6, "quality": 100}}
SHARED_ANALYSIS_PIXELS = 16 << 20  # up to here a size search keeps what all qualities share, at most 11 bytes a pixel
FIRST_TRY = Quality(1152)  # of a size search: 4.5
REFINED_GROWTH = 1.02  # of a file at the same quality with effort, about
SCALES = (1, 2, 4, 8)  # of decoding: the sides are divided by it

loaded_decoders: dict[bytes, DecoderBundle] = {}
loaded_encoders: dict[bytes, EncoderBundle] = {}


def refinement_iterations(effort: object) -> int:
    """Check an effort argument, 1, 2 or 3, and tell what it means; ValueError naming the choice otherwise."""
    if isinstance(effort, bool) or not isinstance(effort, (int, np.integer)) or effort not in REFINEMENT_ITERATIONS:
        raise ValueError(f"effort must be 1 (fast), 2 or 3 (best for the bytes), got {effort!r}")
    return REFINEMENT_ITERATIONS[int(effort)]


def load_decoder(model: bytes, device: torch.device | str | None = None) -> Decoder:
    """The decoder of an id on a device, by default the configured one; its weights are read once per process.

    Raises OSError for weights that are not here, and ValueError for a device that is not.
    """
    with forks.lock:  # forks wait for what is imported and loaded
        import torch

        from .engine import bundle
        from .engine.decoder import Decoder
        from .engine.device import Device, keep_freed_memory

        range_coder.library()
        forks.prepare_thread_pool()
        # tensors made in a caller's inference mode could not take part in a refinement
        with torch.inference_mode(False):
            if model not in loaded_decoders:
                keep_freed_memory()
                loaded_decoders[model] = bundle.load_decoder(weights_files.find_decoder(model))
        return Decoder(loaded_decoders[model], Device.choose(device))


def load_encoder(device: torch.device | str | None = None) -> Encoder:
    """The encoder of the default model on a device; otherwise as `load_decoder`."""
    model = weights_files.default_id()
    decoder = load_decoder(model, device)
    with forks.lock:
        import torch

        from .engine import bundle
        from .engine.encoder import Encoder

        with torch.inference_mode(False):
            if model not in loaded_encoders:
                loaded_encoders[model] = bundle.load_encoder(weights_files.find_encoder(model), decoder.bundle)
        return Encoder(loaded_encoders[model], decoder.device)


def encode(
    pixels: NDArray[np.uint8],
    *,
    quality: float | None = None,
    target_bpp: float | None = None,
    max_bytes: int | None = None,
    lossless: bool = False,
    effort: int = EFFORT_DEFAULT,
    chunks: dict[bytes, bytes] | None = None,
) -> bytes:
    """Encode an image.

    Parameters
    ----------
    pixels : uint8, (H, W) grey, (H, W, 1..4) grey, grey + alpha, RGB, RGBA.
    quality : 1 (smallest) to 8 (best), fractions between; default 4.  Where text, lines or flat colours are smaller or
        better so, squares of 16x16 pixels are kept exactly.
    target_bpp : instead of it, bits per pixel of the whole file, met within 3 % or as nearly as quality 1..8 reaches.
    max_bytes : instead of both, the best quality whose file is no larger.
    lossless : instead of all three, keep every pixel, as WebP lossless does; needs no torch.
    effort : 1 (fast), 2 or 3 (slow, for better pictures in about as many bytes; decoding is the same); above 1 it needs
        up to 0.5 GB more, and 80 bytes a pixel.
    chunks : payloads of metadata chunks by type (`bitstream.container.METADATA`).

    Returns
    -------
    bytes : an `.mcq` file.

    Raises
    ------
    ValueError : for an argument out of range, and when `max_bytes` is below what quality 1 needs.
    OSError : for `lossless` with a Pillow that was built without WebP.
    """
    lossless = check_lossless(lossless)
    _one_of(quality=quality, target_bpp=target_bpp, max_bytes=max_bytes, lossless=lossless or None)
    fixed = quality_scale.DEFAULT if quality is None else Quality.parse(quality)
    wanted = refinement_iterations(effort)
    for kind in chunks or {}:
        if kind not in METADATA:
            raise ValueError(f"chunks must have types {sorted(METADATA)}, got {kind!r}")
    picture = Picture.of(pixels, EXACT_EFFORT[effort], chunks)
    target = _target_bytes(target_bpp, max_bytes, pixels)
    if lossless:
        return picture.write_lossless()
    encoder = load_encoder()
    images = encoder.images(picture.colours)
    if target is not None:
        return _search(encoder, images, picture, target, wanted, strict=max_bytes is not None)
    return encode_images(encoder, images, fixed, wanted)[0].write(picture, fixed, encoder.bundle.decoder.id)


def _search(
    encoder: Encoder, images: torch.Tensor, picture: Picture, target: float, wanted: int, *, strict: bool
) -> bytes:
    """The file nearest in size to `target` bytes, or if `strict` the best of no more.

    With exact squares sizes have steps, up and down, so all that was made counts; and a small budget may have no room
    for them: then all squares are learned.  Raises ValueError when `strict` and nothing is small enough.
    """
    from .engine import exact_choice

    analysed = encoder.analyse(images) if images.shape[2] * images.shape[3] <= SHARED_ANALYSIS_PIXELS else None
    picture = dataclasses.replace(picture, exact_effort=EXACT_EFFORT[EFFORT_DEFAULT])  # the larger takes too long here
    tried: dict[tuple[bool, int], bytes] = {}

    def make(steps: int, iterations: int, exact: bool) -> bytes:
        quality = Quality(steps)
        content = encode_images(encoder, images, quality, iterations, analysed, exact=exact)[0]
        data = content.write(picture, quality, encoder.bundle.decoder.id)
        if iterations == wanted:
            tried[exact, steps] = data
        return data

    for exact in (True, False) if exact_choice.worth_a_try(images[0]) else (False,):
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


@dataclasses.dataclass(frozen=True)
class Content:
    """What is written of a picture: `codes` of the learned squares, `choice` of the exact ones; None without any."""

    codes: bytes | None
    choice: Choice | None

    def write(self, picture: Picture, quality: Quality, model: bytes) -> bytes:
        """The file."""
        if self.choice is None:
            return picture.write(quality, model, self.codes)
        return picture.write(quality, model, self.codes, self.choice.squares, self.choice.pixels)


def encode_images(
    encoder: Encoder,
    images: torch.Tensor,
    quality: Quality,
    iterations: int,
    analysed: Analysed | None = None,
    *,
    exact: bool = True,
) -> list[Content]:
    """Images (B, 3, H, W) uint8 on the encoder's device -> what is written of each.

    Parameters
    ----------
    iterations : of latent refinement.
    analysed : what `Encoder.analyse` gave for these images.
    exact : whether squares may be exact.
    """
    import torch

    from .engine import exact_choice

    coded, residuals = encoder.encode(images, quality, analysed)
    contents: dict[int, Content] = {}
    for number, image in enumerate(torch.split(images, 1) if exact else ()):
        choice = exact_choice.choose(encoder, image, coded.pictures([number]), quality)
        if choice is not None:
            codes = None
            if not choice.squares.all():
                filled = exact_choice.fill(image, choice.squares)
                codes = encode_images(encoder, filled, quality, iterations, exact=False)[0].codes
            contents[number] = Content(codes, choice)
    learned = [number for number in range(len(images)) if number not in contents]
    if learned:
        coded = coded.pictures(learned)
        if iterations:
            from .engine.refinement import refine

            coded = refine(encoder, images[learned], residuals[learned], coded, quality, iterations)
        streams = encoder.write(coded)
        contents.update(zip(learned, [Content(stream, None) for stream in streams], strict=True))
    return [contents[number] for number in range(len(images))]


def _one_of(**given: object) -> None:
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise ValueError(f"give only one of {' and '.join(names)}")


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


def decode_file(file: File, scale: int = 1) -> NDArray[np.uint8]:
    """Decode a parsed file to uint8 (H, W) or (H, W, 2..4); OSError when it is damaged.

    scale: 1, 2, 4 or 8 for the sides divided by it, rounded up.
    """
    header, exact = file.header, unpack_exact(file)
    if not header.learned:
        assert exact is not None
        return exact_squares.reduced(exact.pixels, scale)
    payload = file.get(ALPHA)
    transparency = None if payload is None else alpha.unpack(payload, header.width, header.height)
    decoder = load_decoder(header.model)
    pixels = decoder.pixels(decoder.read([file.codes], header, scale), header, scale)
    if exact is not None:
        exact_squares.put(exact, pixels, scale)
    return pixels if transparency is None else np.dstack([pixels, exact_squares.reduced(transparency, scale)])


def unpack_exact(file: File) -> ExactSquares | None:
    """The exact squares of a parsed file, None without any; OSError when they are damaged."""
    header, payload = file.header, file.get(EXACT)
    if payload is None:
        return None
    return exact_squares.unpack(payload, header.width, header.height, header.mode, whole=not header.learned)


def check_sizes(headers: Sequence[Header]) -> None:
    """Warn or raise, as Pillow does, when pictures together are larger than `PIL.Image.MAX_IMAGE_PIXELS` allows."""
    Image._decompression_bomb_check((sum(math.prod(header.padded_size) for header in headers), 1))


def check_lossless(lossless: object) -> bool:
    """Check a lossless argument; ValueError for anything but True, False and None."""
    if lossless is not None and not isinstance(lossless, (bool, np.bool_)):
        raise ValueError(f"lossless must be True or False, got {lossless!r}")
    return bool(lossless)


def check_level(level: float | None, lossless: object) -> float | None:
    """The quality that other libraries call level: the default for None, None for lossless; ValueError for both."""
    lossless = check_lossless(lossless)
    _one_of(level=level, lossless=lossless or None)
    if level is not None:
        Quality.parse(level)
        return level
    return None if lossless else float(quality_scale.DEFAULT)


def check_scale(scale: object) -> int:
    """Check a scale argument; ValueError naming the choice."""
    if isinstance(scale, bool) or not isinstance(scale, (int, np.integer)) or scale not in SCALES:
        raise ValueError(f"scale must be one of {SCALES}, got {scale!r}")
    return int(scale)


def decode(data: bytes, *, scale: int = 1) -> NDArray[np.uint8]:
    """Decode the bytes of an `.mcq` file.

    Parameters
    ----------
    data : the file.
    scale : 2, 4 or 8 decode a preview, H and W divided by it and rounded up, in a fraction of the time.

    Returns
    -------
    uint8 array : (H, W) grey, (H, W, 2) grey + alpha, (H, W, 3) RGB, (H, W, 4) RGBA.

    Raises
    ------
    ValueError : when it is no `.mcq` file (`errors.NotMcqError`), and for another scale.
    OSError : when it is damaged or needs weights that are not here.
    PIL.Image.DecompressionBombError : when the picture is twice as large as `PIL.Image.MAX_IMAGE_PIXELS` allows; above
        that limit it warns.
    """
    scale = check_scale(scale)
    file = container.read(io.BytesIO(data))
    check_sizes([file.header])
    return decode_file(file, scale)
