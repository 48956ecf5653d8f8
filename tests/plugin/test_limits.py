"""Limits and damage, as `Image.open` and `load` report them."""

from __future__ import annotations

import io

import pytest
from PIL import Image, ImageFile

import pillow_mcquic
from pillow_mcquic.bitstream import container, file_header
from pillow_mcquic.quality import Quality

from ..files import file_of


def forged(width: int, height: int, codes: int) -> bytes:
    header = file_header.Header(width, height, "RGB", Quality(1024), bytes.fromhex(plugin_weights()))
    return file_of(header, {container.CODES: bytes(codes)})


def plugin_weights() -> str:
    from pillow_mcquic import weights_files

    return weights_files.bundled_default()


def test_decompression_bomb_warns_and_raises() -> None:
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(forged(10000, 10000, 20000))).close()
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(forged(20000, 20000, 60000)))


def test_a_thin_picture_counts_with_its_padding() -> None:
    """One pixel wide, it takes sixteen times its size to decode; Pillow's own limit would let it pass."""
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(forged(1, 80_000_000, 160_000)))
    with Image.open(io.BytesIO(forged(1, 80_000, 160))) as image:
        assert image.size == (1, 80_000)


def test_decode_of_bytes_has_the_same_limit() -> None:
    with pytest.raises(Image.DecompressionBombError):
        pillow_mcquic.decode(forged(20000, 20000, 60000))


def test_claim_beyond_the_codes_is_refused_by_open() -> None:
    with pytest.raises(OSError, match="cannot hold"):
        Image.open(io.BytesIO(forged(9000, 9000, 100)))


def test_unknown_model_is_refused_by_open(small_file: bytes) -> None:
    header = file_header.Header(150, 101, "RGB", Quality(1024), b"\1\2\3\4")
    with pytest.raises(OSError, match="made with model 01020304"):
        Image.open(io.BytesIO(file_of(header, {container.CODES: bytes(1000)})))


def test_load_truncated_images_is_respected(small_file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = small_file[:-10]
    with Image.open(io.BytesIO(cut)) as image, pytest.raises(OSError, match="truncated"):
        image.load()
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with Image.open(io.BytesIO(cut)) as image:
        image.load()
        assert image.size == (150, 101)


@pytest.mark.parametrize(
    "chunks", [b"c\x01x" * 2, b"d\x10" + bytes(16), b"A\x01\0"], ids=["twice", "bad dpi", "alpha in an opaque file"]
)
def test_open_and_decode_agree_on_what_is_damaged(chunks: bytes, small_file: bytes) -> None:
    header = len(file_header.write_header(container.read(io.BytesIO(small_file)).header))
    step = len(chunks) // (2 if chunks[:1] == b"c" else 1)
    parts = [chunks[i : i + step] for i in range(0, len(chunks), step)]
    body = b"".join(part + container.crc(part) for part in parts)
    damaged = small_file[:header] + body + small_file[header:]
    with pytest.raises(OSError, match="damaged"):
        Image.open(io.BytesIO(damaged))
    with pytest.raises(OSError, match="damaged"):
        pillow_mcquic.decode(damaged)
