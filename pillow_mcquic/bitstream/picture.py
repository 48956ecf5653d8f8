"""Pixels of any kind -> the chunks of a file."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..quality import Quality
from . import alpha, container, exact_squares, vp8l
from .container import ALPHA, CODES, EXACT, Header
from .exact_squares import Squares

Pixels = NDArray[np.uint8]


def split_channels(pixels: Pixels) -> tuple[str, Pixels, Pixels | None]:
    """Array (H, W), (H, W, 1..4) -> mode, RGB (H, W, 3), alpha (H, W) or None; ValueError otherwise."""
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        what = pixels.dtype if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise ValueError(f"pixels must be a uint8 array, got {what}")
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4 or 0 in pixels.shape:
        raise ValueError(f"pixels must be (H, W) or (H, W, 1..4), not empty, got {pixels.shape}")
    channels = pixels.shape[2]
    transparency = pixels[:, :, -1] if channels in (2, 4) else None
    colours = pixels[:, :, :3] if channels >= 3 else np.repeat(pixels[:, :, :1], 3, 2)
    return container.MODES[channels], np.ascontiguousarray(colours), transparency


@dataclasses.dataclass(frozen=True)
class Picture:
    """What a file is written of, beside codes.

    Parameters
    ----------
    mode, colours, alpha : of `split_channels`.
    metadata : payloads by chunk type.
    exact_effort : method and quality of `vp8l.encode`.
    """

    mode: str
    colours: Pixels
    alpha: Pixels | None
    metadata: dict[bytes, bytes]
    exact_effort: dict[str, int]

    @classmethod
    def of(cls, pixels: Pixels, exact_effort: dict[str, int], metadata: Mapping[bytes, bytes] | None = None) -> Picture:
        """The picture of an array; ValueError as of `split_channels`."""
        return cls(*split_channels(pixels), dict(metadata or {}), exact_effort)

    def write_lossless(self) -> bytes:
        """The file with all pixels as they are; ValueError for sides that are too long."""
        height, width = self.colours.shape[:2]
        if max(height, width) >= vp8l.MAX_SIDE:
            raise ValueError(f"sides of lossless pictures must be below {vp8l.MAX_SIDE}, got {width}x{height}")
        return self._write_exact(None, self.colours)

    def write(
        self,
        quality: Quality,
        model: bytes,
        codes: bytes | None,
        squares: Squares | None = None,
        colours: Pixels | None = None,
    ) -> bytes:
        """The file of learned squares, of exact ones, or both.

        Parameters
        ----------
        quality : of either.
        model : id of the decoder of the codes.
        codes : of the learned squares; None where all are exact.
        squares, colours : which are exact, and the pixels (H, W, 3) that those hold; None for none.
        """
        if codes is None:
            assert colours is not None
            return self._write_exact(quality, colours)
        chunks = self.metadata | {CODES: codes}
        if squares is not None:
            assert colours is not None
            chunks[EXACT] = exact_squares.pack(self._stored(colours), squares, **self.exact_effort)
        if self.alpha is not None:
            chunks[ALPHA] = self._packed_alpha
        height, width = self.colours.shape[:2]
        return container.write(Header(width, height, self.mode, quality, model, squares is not None), chunks)

    def _write_exact(self, quality: Quality | None, colours: Pixels) -> bytes:
        pixels, (height, width) = self._stored(colours), colours.shape[:2]
        if self.alpha is not None:
            pixels = np.dstack([pixels, self.alpha])
        chunks = self.metadata | {EXACT: exact_squares.pack(pixels, None, **self.exact_effort)}
        return container.write(Header(width, height, self.mode, quality, exact=True), chunks)

    def _stored(self, colours: Pixels) -> Pixels:
        """Colours (H, W, 3) as files have them: (H, W) for grey."""
        return np.ascontiguousarray(colours[:, :, 0]) if self.mode in ("L", "LA") else colours

    @functools.cached_property
    def _packed_alpha(self) -> bytes:
        """The payload of the alpha chunk."""
        assert self.alpha is not None
        return alpha.pack(np.ascontiguousarray(self.alpha))
