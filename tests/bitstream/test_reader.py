"""Bounded reads: numbers in their shortest form, and no more taken than is there."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillow_mcquic.bitstream.reader import MAX_NUMBER, Reader, crc, varint
from pillow_mcquic.errors import BadFileError


@given(st.integers(0, MAX_NUMBER))
def test_number_comes_back(value: int) -> None:
    assert Reader(io.BytesIO(varint(value))).varint("x") == (value, varint(value))


def test_crc_is_zlibs_little_endian() -> None:
    assert crc(b"123456789") == bytes.fromhex("2639f4cb")


def test_what_is_put_back_is_read_again() -> None:
    reader = Reader(io.BytesIO(b"abcdef"))
    reader.put_back(reader.read(2, "x"))
    assert reader.read(4, "x") == b"abcd"
    assert reader.taken == 4


def test_short_read_says_how_much_is_there() -> None:
    with pytest.raises(BadFileError, match=r"truncated .mcq file: the x needs 9 bytes, 3 are there"):
        Reader(io.BytesIO(b"abc")).read(9, "the x")
