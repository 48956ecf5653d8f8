"""The container: literal bytes, round trips, and refusal of everything that is not right."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillow_mcquic.bitstream import container, file_header, reader
from pillow_mcquic.bitstream.file_header import Header
from pillow_mcquic.errors import BadFileError, NotMcqError
from pillow_mcquic.quality import Quality

from ..files import allocates_little, chunks_of, file_of

HEADER = Header(768, 512, "RGB", Quality(1024), bytes.fromhex("0badcafe"))


def learned(chunks: dict[bytes, bytes], header: Header = HEADER) -> bytes:
    return file_of(header, chunks | {container.CODES: b"word" * 30})


def test_header_is_these_bytes() -> None:
    expected = (
        b"\x8bMCQ\r\n\x1a\n"  # magic
        b"\x10"  # version 1.0
        b"\x03"  # RGB
        b"\x00\x04"  # quality 1024/256
        b"\x0b\xad\xca\xfe"  # model
        b"\x80\x06\x80\x04"  # 768, 512
    )
    assert file_header.write_header(HEADER) == expected + zlib.crc32(expected).to_bytes(4, "little")


def test_chunk_is_these_bytes() -> None:
    assert container.write_chunk(b"c", b"hi") == b"c\x02hi" + zlib.crc32(b"c\x02hi").to_bytes(4, "little")


@pytest.mark.parametrize(
    ("value", "raw"),
    [(0, b"\0"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02"), (2**28 - 1, b"\xff\xff\xff\x7f")],
)
def test_varint_is_leb128(value: int, raw: bytes) -> None:
    assert reader.varint(value) == raw
    assert reader.Reader(io.BytesIO(raw)).varint("x") == (value, raw)


@pytest.mark.parametrize("raw", [b"\x80\x00", b"\xff\xff\xff\xff\x01", b"\x80"])
def test_varint_refuses_long_forms_and_truncation(raw: bytes) -> None:
    with pytest.raises(BadFileError):
        reader.Reader(io.BytesIO(raw)).varint("x")


@pytest.mark.parametrize("value", [-1, 2**28])
def test_varint_refuses_what_does_not_fit(value: int) -> None:
    with pytest.raises(ValueError, match="varint"):
        reader.varint(value)


headers = st.builds(
    Header,
    width=st.integers(1, 2000),
    height=st.integers(1, 2000),
    mode=st.sampled_from(["L", "RGB"]),
    quality=st.builds(Quality, st.integers(256, 2560)),
    model=st.binary(min_size=4, max_size=4).filter(any),
)


optional = st.dictionaries(
    st.sampled_from([bytes([c]) for c in b"abcefghijklmnopqrstuvwxyz"]), st.binary(max_size=300), max_size=5
)


@given(headers, optional, st.binary())
def test_what_is_written_is_read(header: Header, chunks: dict[bytes, bytes], stream: bytes) -> None:
    stream += bytes(2000)  # enough for the largest picture
    data = file_of(header, chunks | {container.CODES: stream})
    parsed = container.read(io.BytesIO(data + b"something else"))
    assert parsed.header == header
    assert parsed.codes == stream
    assert {c.kind: c.payload for c in parsed.chunks} == chunks
    assert parsed.header_size + sum(c.size for c in parsed.chunks) + parsed.picture_size == len(data)


@given(st.binary(max_size=200).filter(lambda data: not data.startswith(file_header.MAGIC)))
def test_noise_is_not_mcq(data: bytes) -> None:
    with pytest.raises(NotMcqError):
        container.read(io.BytesIO(data))


@given(st.binary(max_size=200))
def test_noise_after_the_magic_is_a_bad_file(data: bytes) -> None:
    with pytest.raises(BadFileError):
        container.read(io.BytesIO(file_header.MAGIC + data))


@given(st.binary(max_size=200))
def test_noise_after_a_good_header_is_a_bad_file(data: bytes) -> None:
    with pytest.raises(BadFileError):
        container.read(io.BytesIO(file_header.write_header(HEADER) + data))


def test_every_truncation_says_truncated_and_how_much() -> None:
    data = learned({b"c": b"comment"})
    for length in range(9, len(data)):
        with pytest.raises(BadFileError, match="truncated"):
            container.read(io.BytesIO(data[:length]))


def test_every_flipped_bit_is_noticed() -> None:
    data = learned({b"c": b"comment"})
    for at in range(8 * 8, 8 * len(data)):
        damaged = bytearray(data)
        damaged[at // 8] ^= 1 << at % 8
        with pytest.raises(BadFileError):
            container.read(io.BytesIO(damaged))


def test_unknown_optional_chunk_is_skipped() -> None:
    parsed = container.read(io.BytesIO(learned({b"z": b"from the future"})))
    assert parsed.codes == b"word" * 30


def test_unknown_critical_chunk_is_refused_with_advice() -> None:
    with pytest.raises(BadFileError, match=r"chunk Z.*newer release"):
        container.read(io.BytesIO(learned({b"Z": b"from the future"})))


def test_newer_minor_version_is_read() -> None:
    newer = Header(768, 512, "RGB", Quality(1024), b"\0\1\2\3", version=(1, 7))
    assert container.read(io.BytesIO(learned({}, newer))).header == newer


def test_newer_major_version_is_refused_with_advice() -> None:
    newer = Header(768, 512, "RGB", Quality(1024), b"\0\1\2\3", version=(2, 0))
    with pytest.raises(BadFileError, match=r"version 2\.0 is not supported.*newer release"):
        container.read(io.BytesIO(learned({}, newer)))


def test_picture_too_large_for_its_codes_is_refused() -> None:
    with pytest.raises(BadFileError, match="cannot hold"):
        container.read(io.BytesIO(learned({}, Header(2**28 - 1, 2**28 - 1, "RGB", Quality(1024), b"\0\1\2\3"))))


def test_a_byte_of_codes_holds_160_squares() -> None:
    codes, model = {container.CODES: b"7 bytes"}, b"\0\1\2\3"
    container.read(io.BytesIO(file_of(Header(16 * 160, 16 * 7, "RGB", Quality(1024), model), codes)))
    with pytest.raises(BadFileError, match="7 bytes of codes cannot hold"):
        container.read(io.BytesIO(file_of(Header(16 * 160 + 1, 16 * 7, "RGB", Quality(1024), model), codes)))


def test_lossless_header_is_these_bytes() -> None:
    header = Header(768, 512, "RGBA", None, exact=True)
    assert file_header.write_header(header)[8:-4] == b"\x10\x14\0\0\0\0\0\0\x80\x06\x80\x04"


@pytest.mark.parametrize("quality", [None, Quality(1024)])
def test_exact_picture_is_read(quality: Quality | None) -> None:
    header = Header(768, 512, "RGBA", quality, exact=True)
    file = container.read(io.BytesIO(file_of(header, {b"X": b"squares", b"c": b"hi"}) + b"more"))
    assert file.header == header
    assert list(chunks_of(file)) == [b"c", b"X"]
    assert file.codes == b""


def test_exact_chunk_is_filled_up_to_its_claim() -> None:
    """1536 squares of 768x512 need 10 bytes."""
    header = Header(768, 512, "L", None, exact=True)
    file = container.read(io.BytesIO(file_of(header, {b"X": b"short"})))
    assert chunks_of(file) == {b"X": b"short\0\0\0\0\0"}
    with pytest.raises(BadFileError, match="9 bytes of exact squares cannot hold"):
        container.read(io.BytesIO(file_header.write_header(header) + container.write_chunk(b"X", bytes(9))))


def test_picture_of_neither_kind_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="exact squares, or a quality and a model"):
        file_header.write_header(Header(768, 512, "L", None))


def with_fields(mode: int, steps: int, model: bytes) -> bytes:
    body = file_header.MAGIC + struct.pack("<BBH4sBB", 0x10, mode, steps, model, 16, 16)
    return body + reader.crc(body)


@pytest.mark.parametrize(
    ("mode", "steps", "model"),
    [
        (0x03, 0, b"\1\2\3\4"),  # learned, without a quality
        (0x03, 1024, bytes(4)),  # neither learned nor exact
        (0x13, 100, bytes(4)),  # a quality that is none
        (0x10, 1024, b"\1\2\3\4"),  # no channels
    ],
)
def test_header_that_makes_no_sense_is_refused(mode: int, steps: int, model: bytes) -> None:
    with pytest.raises(BadFileError, match=f"the header says mode {mode}"):
        file_header.read_header(reader.Reader(io.BytesIO(with_fields(mode, steps, model))))


@pytest.mark.parametrize("mode", [0x05, 0x0F, 0x23, 0x83])
def test_mode_from_the_future_is_refused_with_advice(mode: int) -> None:
    with pytest.raises(BadFileError, match=f"mode {mode}.*newer release"):
        file_header.read_header(reader.Reader(io.BytesIO(with_fields(mode, 1024, b"\1\2\3\4"))))


def test_exact_picture_needs_its_chunk() -> None:
    with pytest.raises(BadFileError, match="chunk C in place of X"):
        container.read(io.BytesIO(learned({}, Header(768, 512, "RGB", Quality(1024), b"\0\1\2\3", exact=True))))


def test_forged_length_allocates_nothing() -> None:
    forged = file_header.write_header(HEADER) + b"C" + reader.varint(2**28 - 1) + b"short"
    with allocates_little(), pytest.raises(BadFileError, match="truncated"):
        container.read(io.BytesIO(forged))


def test_more_chunks_than_anybody_writes_are_refused() -> None:
    start, chunk = file_header.write_header(HEADER), container.write_chunk(b"z", b"")
    end = container.write_chunk(container.CODES, b"word" * 30)
    container.read(io.BytesIO(start + 256 * chunk + end))
    with pytest.raises(BadFileError, match="more than 256 chunks"):
        container.read(io.BytesIO(start + 257 * chunk + end))


def test_chunk_twice_is_refused() -> None:
    data = learned({b"c": b"x"})
    start = len(file_header.write_header(HEADER))
    chunk = container.write_chunk(b"c", b"x")
    with pytest.raises(BadFileError, match="twice"):
        container.read(io.BytesIO(data[:start] + chunk + data[start:]))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_mode_needs_its_chunk(mode: str) -> None:
    with pytest.raises(BadFileError, match="in place of A"):
        container.read(io.BytesIO(learned({}, Header(768, 512, mode, Quality(1024), b"\0\1\2\3"))))


def test_opaque_mode_has_no_alpha_chunk() -> None:
    with pytest.raises(BadFileError, match="in place of C"):
        container.read(io.BytesIO(learned({b"A": b"\0"})))


@pytest.mark.parametrize("payload", [b"", bytes(16), b"\xff" * 16, b"\0" * 15])
def test_dpi_must_be_two_positive_numbers(payload: bytes) -> None:
    with pytest.raises(BadFileError, match="dpi"):
        container.unpack_dpi(payload)


def test_container_needs_no_third_party_package() -> None:
    package = str(Path(container.__file__).parents[1])
    code = (
        "import sys, types; package = types.ModuleType('pillow_mcquic'); package.__path__ = [sys.argv[1]];"
        "sys.modules['pillow_mcquic'] = package; import pillow_mcquic.bitstream.container;"
        "print([n for n in ('numpy', 'torch', 'PIL', 'constriction') if n in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code, package], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
