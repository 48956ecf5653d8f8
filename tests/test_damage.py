"""Damaged files give an OSError with a sentence: no hang, no wrong picture, nothing else."""

from __future__ import annotations

import io
import random

import pytest
from PIL import Image

from pillow_mcquic.bitstream import container, file_header

from .conftest import from_bytes, to_bytes
from .files import chunks_of, file_of
from .fuzzing import cuts, flips, mutations


@pytest.fixture(scope="module")
def tiny_file(photo: Image.Image) -> bytes:
    """A 40x30 RGBA picture with a comment: every kind of chunk, few bytes."""
    tiny = photo.crop((300, 100, 340, 130)).convert("RGBA")
    tiny.putalpha(tiny.convert("L").point(lambda v: 255 if v > 90 else 0))
    return to_bytes(tiny, quality=2, comment=b"tiny", dpi=(72, 72))


def outcome(data: bytes) -> str:
    """What kind of answer Pillow gives."""
    try:
        from_bytes(data)
    except Image.UnidentifiedImageError:
        return "not an image"
    except OSError as error:
        return "refused" if str(error) else "refused without a word"
    return "decoded"


def test_every_flipped_byte_is_refused(tiny_file: bytes) -> None:
    for at, damaged in enumerate(flips(tiny_file)):
        assert outcome(damaged) == ("not an image" if at < 8 else "refused"), at


def test_verify_notices_damage_without_decoding(tiny_file: bytes) -> None:
    with Image.open(io.BytesIO(tiny_file)) as image:
        image.verify()
    with Image.open(io.BytesIO(tiny_file)) as image:
        image.load()
        with pytest.raises(RuntimeError, match="directly after open"):
            image.verify()
    damaged = tiny_file[:-9] + bytes([tiny_file[-9] ^ 1]) + tiny_file[-8:]
    with Image.open(io.BytesIO(damaged)) as image, pytest.raises(OSError, match="checksum"):
        image.verify()


def test_every_flipped_bit_is_refused(tiny_file: bytes) -> None:
    for at in range(64, 8 * len(tiny_file)):
        damaged = bytearray(tiny_file)
        damaged[at // 8] ^= 1 << at % 8
        assert outcome(bytes(damaged)) == "refused", at


def test_every_truncation_is_refused(tiny_file: bytes) -> None:
    for length, damaged in enumerate(cuts(tiny_file)):
        assert outcome(damaged) == ("not an image" if length < 8 else "refused"), length


def test_random_mutations_are_refused_or_harmless(tiny_file: bytes) -> None:
    expected = from_bytes(tiny_file).tobytes()
    for damaged in mutations(tiny_file, 1500, seed=0):
        if outcome(damaged) == "decoded":
            assert from_bytes(damaged).tobytes() == expected


@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"mcq "])
def test_files_of_one_value_are_not_images(fill: bytes) -> None:
    assert outcome(fill * 500) == "not an image"
    assert outcome(file_header.MAGIC + fill * 500) == "refused"


def rewritten(tiny_file: bytes, codes: bytes) -> bytes:
    """The file with another code stream and right checksums: damage that only the codes can show."""
    parsed = container.read(io.BytesIO(tiny_file))
    return file_of(parsed.header, chunks_of(parsed) | {container.CODES: codes})


@pytest.mark.parametrize(
    ("damage", "message"), [("empty", "cannot hold"), ("odd", "whole 32-bit words"), ("longer", "does not end")]
)
def test_damaged_stream_under_a_right_checksum_is_refused(damage: str, message: str, tiny_file: bytes) -> None:
    stream = container.read(io.BytesIO(tiny_file)).codes
    data = rewritten(tiny_file, {"empty": b"", "odd": stream + b"x", "longer": stream + b"\x55" * 16}[damage])
    assert outcome(data) == "refused"
    with pytest.raises(OSError, match=message):
        from_bytes(data).load()


@pytest.mark.parametrize("size", [4, 40, 400])
def test_stream_of_zeros_is_refused_or_a_picture(size: int, tiny_file: bytes) -> None:
    """Zeros are valid words of the coder: a picture that its writer asked for."""
    assert outcome(rewritten(tiny_file, bytes(size))) in ("refused", "decoded")


def test_streams_of_noise_never_raise_anything_else(tiny_file: bytes) -> None:
    rng = random.Random(1)
    for _ in range(100):
        assert outcome(rewritten(tiny_file, rng.randbytes(4 * rng.randint(0, 160)))) in ("refused", "decoded")


def test_wrong_size_under_a_right_checksum_is_refused(tiny_file: bytes) -> None:
    parsed = container.read(io.BytesIO(tiny_file))
    header = file_header.Header(400, 300, "RGBA", parsed.header.quality, parsed.header.model)
    assert outcome(file_of(header, chunks_of(parsed))) == "refused"


def test_trailing_data_is_ignored(tiny_file: bytes) -> None:
    assert from_bytes(tiny_file + b"more" * 10).tobytes() == from_bytes(tiny_file).tobytes()
