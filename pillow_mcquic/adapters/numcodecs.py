"""numcodecs codec `{"id": "mcq", "level": 4}`; found by its entry point, without torch until used."""

from __future__ import annotations

from typing import Any

import numpy as np
from numcodecs.abc import Codec
from numcodecs.compat import ensure_bytes, ensure_ndarray, ndarray_copy

from .. import codec
from . import stack


class Mcq(Codec):  # type: ignore[misc]
    """Compression of uint8 chunks (H, W), (H, W, 1..4) or (N, H, W, 1..4).

    level: quality, 1 to 10, default 4; lossless: instead of it, keep every pixel; effort: of `pillow_mcquic.encode`.
    """

    codec_id = "mcq"

    def __init__(self, level: float | None = None, effort: int = codec.EFFORT_DEFAULT, lossless: bool = False) -> None:
        self.level = codec.check_level(level, lossless)
        codec.refinement_iterations(effort)
        self.effort = effort
        self.lossless = lossless

    def encode(self, buf: Any) -> bytes:
        """Pixels -> bytes; ValueError for another type, shape or order in memory."""
        pixels = ensure_ndarray(buf)
        if pixels.flags.f_contiguous and not pixels.flags.c_contiguous:
            # an array of Zarr 2 stored with order="F" would read what comes back in that order, scrambled
            raise ValueError("pixels must be in C order, got Fortran order: store the array with order='C'")
        return stack.encode(
            np.ascontiguousarray(pixels), quality=self.level, effort=self.effort, lossless=self.lossless
        )

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Bytes -> pixels, into `out` where given; OSError when damaged, ValueError for `out` of another shape.

        Without `out` a stack's pixels all together are limited by `PIL.Image.MAX_IMAGE_PIXELS`.
        """
        shape = None if out is None else ensure_ndarray(out).shape
        return ndarray_copy(stack.decode(ensure_bytes(buf), shape=shape), out)
