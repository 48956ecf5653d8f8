"""Files made by hand, and taken apart; what reading them may allocate."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Iterator, Mapping

from pillow_mcquic.bitstream import container
from pillow_mcquic.bitstream.file_header import Header
from pillow_mcquic.bitstream.tiles import Tile

X, A, C = container.EXACT, container.ALPHA, container.CODES


def file_of(header: Header, chunks: Mapping[bytes, bytes]) -> bytes:
    """A file of one tile and any other chunks."""
    others = {kind: payload for kind, payload in chunks.items() if kind not in (X, A, C)}
    tile = Tile(chunks.get(C), chunks.get(X), whole=not header.learned, alpha=chunks.get(A))
    return container.write(header, others, [tile])


def chunks_of(file: container.File) -> dict[bytes, bytes]:
    """The payloads of a file of one tile."""
    (tile,) = file.tiles
    assert tile is not None
    payloads = {X: tile.exact, A: tile.alpha, C: tile.codes}
    found = {kind: payload for kind, payload in payloads.items() if payload is not None}
    return {chunk.kind: chunk.payload for chunk in file.chunks} | found


@contextlib.contextmanager
def allocates_little() -> Iterator[None]:
    """What is done in this context never holds a megabyte."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
