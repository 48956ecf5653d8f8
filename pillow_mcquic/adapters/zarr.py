"""Zarr 3 array-to-bytes codec `mcq`: chunks of an array of pictures as `.mcq` files."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.common import parse_named_configuration

from .. import codec
from ..errors import BadFileError
from . import stack


@dataclass(frozen=True)
class Mcq(ArrayBytesCodec):
    """Compression of uint8 chunks (H, W), (H, W, 1..4) or (N, H, W, 1..4).

    level: quality, 1 to 10, default 4; lossless: instead of it, keep every pixel; effort: of `pillow_mcquic.encode`.
    """

    is_fixed_size = False
    level: float | None = None
    effort: int = codec.EFFORT_DEFAULT
    lossless: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "level", codec.check_level(self.level, self.lossless))
        codec.refinement_iterations(self.effort)

    @classmethod
    def from_dict(cls, data: Any) -> Mcq:
        """From the metadata of an array."""
        _, configuration = parse_named_configuration(data, "mcq", require_configuration=False)
        unknown = set(configuration or {}) - {"level", "effort", "lossless"}
        if unknown:
            what = ", ".join(sorted(unknown))
            raise ValueError(f"the mcq codec's configuration has level, effort and lossless, not {what}")
        return cls(**(configuration or {}))  # type: ignore[arg-type]

    def to_dict(self) -> Any:
        """For the metadata of an array."""
        configuration = {"level": self.level, "effort": self.effort, "lossless": self.lossless}
        return {"name": "mcq", "configuration": configuration}

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        """ValueError naming what is accepted, when an array is created."""
        native = dtype.to_native_dtype() if hasattr(dtype, "to_native_dtype") else np.dtype(dtype)
        chunk = tuple(getattr(chunk_grid, "chunk_shape", shape))
        if native != np.uint8:
            raise ValueError(f"the mcq codec stores uint8, not {native}")
        if len(chunk) not in (2, 3, 4) or (len(chunk) > 2 and not 1 <= chunk[-1] <= 4):
            raise ValueError(f"the mcq codec stores chunks (H, W), (H, W, 1..4) or (N, H, W, 1..4), not {chunk}")

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        """Not known before encoding."""
        raise NotImplementedError

    async def _encode_single(self, chunk_array: Any, chunk_spec: Any) -> Any:
        pixels = np.ascontiguousarray(chunk_array.as_numpy_array())
        options: dict[str, Any] = {"quality": self.level, "effort": self.effort, "lossless": self.lossless}
        encoded = await asyncio.to_thread(stack.encode, pixels, **options)
        return chunk_spec.prototype.buffer.from_bytes(encoded)

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        try:
            pixels = await asyncio.to_thread(stack.decode, chunk_bytes.to_bytes(), None, chunk_spec.shape)
        except ValueError as error:  # the file's fault: the array says what it should hold
            raise BadFileError(f"damaged chunk: {error}") from error
        return chunk_spec.prototype.nd_buffer.from_numpy_array(pixels.reshape(chunk_spec.shape))
