"""Tiles: their boxes, the table of them, and what of a file is read for a box."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillow_mcquic.bitstream import container, file_header
from pillow_mcquic.bitstream.file_header import Header
from pillow_mcquic.bitstream.grids import Box, TileGrid
from pillow_mcquic.bitstream.reader import Reader
from pillow_mcquic.bitstream.tiles import Tile, pack_table, unpack_table
from pillow_mcquic.errors import BadFileError
from pillow_mcquic.quality import Quality

from ..files import allocates_little

LEARNED = Tile(b"word" * 30, None, whole=False)
MIXED = Tile(b"codes" * 20, b"squares", whole=False)
WHOLE = Tile(None, b"pixels" * 10, whole=True)
HEADER = Header(600, 300, "RGB", Quality(1024), b"\1\2\3\4", exact=True, tile_side=256)
TILES = [LEARNED, MIXED, WHOLE, WHOLE, LEARNED, MIXED]
DATA = container.write(HEADER, {b"c": b"hi"}, TILES)

sides = st.integers(1, 3000)


@given(sides, sides, st.sampled_from([256, 512, None]))
def test_tiles_cover_a_picture_once(width: int, height: int, side: int | None) -> None:
    grid = TileGrid(width, height, side)
    boxes = [grid.box(number) for number in range(len(grid))]
    assert sum(box.size[0] * box.size[1] for box in boxes) == width * height
    assert all(box.cut(grid.whole) == box for box in boxes)
    assert len(set(boxes)) == len(boxes) == grid.rows * grid.columns


@given(st.data(), st.integers(1, 900), st.integers(1, 900))
def test_tiles_that_a_box_touches_are_those_it_shares_pixels_with(data: st.DataObject, width: int, height: int) -> None:
    grid = TileGrid(width, height, 256)
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = Box(left, top, data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height)))
    shared = [number for number in range(len(grid)) if 0 not in box.cut(grid.box(number)).size]
    assert grid.touching(box) == shared


def test_header_of_a_picture_in_tiles_is_these_bytes() -> None:
    assert file_header.write_header(HEADER)[8:-4] == b"\x10\x53\0\x04\1\2\3\4\xd8\x04\xac\x02\x08"


def test_table_is_these_bytes() -> None:
    alpha = Tile(b"codes", b"exact", whole=False, alpha=b"a" * 200)
    both = Tile(b"codes", b"exact", whole=True)
    assert pack_table([LEARNED, MIXED, WHOLE, alpha, both]) == (
        b"\x01\x78"  # codes
        b"\x03\x07\x64"  # exact squares, codes
        b"\x06\x3c"  # all squares exact
        b"\x03\x05\xc8\x01\x05"  # exact squares, alpha, codes
        b"\x07\x05\x05"  # all squares exact, and codes for what is next to it
    )


def test_what_is_written_is_read() -> None:
    file = container.read(io.BytesIO(DATA + b"more"))
    assert file.header == HEADER
    assert file.tiles == tuple(TILES)
    assert file.header_size + sum(chunk.size for chunk in file.chunks) + file.picture_size == len(DATA)


def test_parts_come_back_of_every_kind_with_alpha() -> None:
    header = Header(600, 300, "RGBA", Quality(1024), b"\1\2\3\4", exact=True, tile_side=256)
    tiles = [Tile(t.codes, t.exact, t.whole, None if t.whole else b"alpha") for t in TILES]
    tiles[2] = Tile(b"codes" * 20, b"pixels", whole=True)
    assert container.read(io.BytesIO(container.write(header, {}, tiles))).tiles == tuple(tiles)


def test_only_tiles_near_a_box_are_read() -> None:
    damaged = bytearray(DATA)
    damaged[-10] ^= 1  # in the last tile
    file = container.read(io.BytesIO(damaged), Box(0, 0, 100, 100), reach=200)
    assert file.tiles == (LEARNED, MIXED, None, WHOLE, LEARNED, None)
    with pytest.raises(BadFileError, match="the checksum of tile 5 is wrong"):
        container.read(io.BytesIO(damaged), Box(0, 0, 100, 100), reach=500)


def picture(data: bytes) -> Reader:
    reader = Reader(io.BytesIO(data))
    container.read_metadata(reader, file_header.read_header(reader))
    return reader


def test_damage_anywhere_in_the_tiles_loses_one_of_them() -> None:
    first = len(DATA) - sum(len(b"".join(tile.parts)) + 6 for tile in TILES)
    for at in range(first, len(DATA)):
        damaged = bytearray(DATA)
        damaged[at] ^= 0x20
        found = container.read_picture(picture(bytes(damaged)), HEADER, tolerant=True)
        assert sum(tile is None for tile in found) == 1
        assert all(tile in (None, expected) for tile, expected in zip(found, TILES, strict=True))


def test_a_file_that_is_cut_off_keeps_the_tiles_before() -> None:
    found = container.read_picture(picture(DATA[:-30]), HEADER, tolerant=True)
    assert found == (*TILES[:-1], None)


def test_damage_to_the_table_loses_all() -> None:
    start = len(file_header.write_header(HEADER)) + len(container.write_chunk(b"c", b"hi"))
    for at in range(start, start + len(container.write_chunk(b"T", pack_table(TILES)))):
        damaged = bytearray(DATA)
        damaged[at] ^= 0x20
        with pytest.raises(BadFileError):
            container.read_picture(picture(bytes(damaged)), HEADER, tolerant=True)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"\x02\x50", "2 is no kind of tile"),
        (b"\x05\x50\x50", "5 is no kind of tile"),
        (b"\x01\x01", "1 bytes cannot hold a tile of 256x256 pixels"),
        (b"\x01", "truncated"),
        (b"\x01\x80\x00", "shortest form"),
        (b"\x06\x50", "what the header should"),
    ],
)
def test_table_that_makes_no_sense_is_refused(table: bytes, message: str) -> None:
    with pytest.raises(BadFileError, match=message):
        unpack_table(Reader(io.BytesIO(table)), iter([Box(0, 0, 256, 256)]), alpha=False, learned=True, exact=False)


def test_table_that_is_too_long_is_refused() -> None:
    start, table = file_header.write_header(HEADER), pack_table(TILES)
    rest = b"".join(container.write_chunk(b"P", b"".join(tile.parts)) for tile in TILES)
    container.read(io.BytesIO(start + container.write_chunk(b"T", table) + rest))
    with pytest.raises(BadFileError, match="longer than it should be"):
        container.read(io.BytesIO(start + container.write_chunk(b"T", table + b"\x01") + rest))


def test_side_that_no_tiles_have_is_refused() -> None:
    for power in (0, 7, 14, 255):
        body = file_header.write_header(HEADER)[:-5] + bytes([power])
        with pytest.raises(BadFileError, match="tiles of 2"):
            file_header.read_header(Reader(io.BytesIO(body + container.crc(body))))


def test_a_claim_of_many_tiles_allocates_nothing() -> None:
    huge = Header(2**28 - 1, 2**28 - 1, "RGB", Quality(1024), b"\1\2\3\4", tile_side=256)
    forged = file_header.write_header(huge) + container.write_chunk(b"T", b"\x01\x7f" * 1000)
    with allocates_little(), pytest.raises(BadFileError, match="truncated"):
        container.read(io.BytesIO(forged))
