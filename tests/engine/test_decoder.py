"""The decoder: previews, batches, classes of known codes, damage."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image

from pillow_mcquic import loading
from pillow_mcquic.bitstream import container
from pillow_mcquic.bitstream.grids import Grids
from pillow_mcquic.model.config import PREVIEW_BANKS
from pillow_mcquic.quality import Quality

from ..conftest import to_bytes


@pytest.fixture(scope="module")
def file(photo: Image.Image) -> container.File:
    return container.read(io.BytesIO(to_bytes(photo.crop((200, 80, 501, 283)))))


def of(file: container.File) -> tuple[Quality, Grids]:
    assert file.header.quality is not None
    return file.header.quality, file.header.grids


@pytest.mark.parametrize("scale", PREVIEW_BANKS)
def test_a_preview_reads_only_the_banks_it_needs(scale: int, file: container.File) -> None:
    decoder = loading.load_decoder(file.header.model)
    every, some = (decoder.read([file.codes], *of(file), s).codes for s in (1, scale))
    assert len(some) == 2 + PREVIEW_BANKS[scale] < len(every)
    assert all(torch.equal(a, b) for a, b in zip(some, every, strict=False))


def test_pictures_of_a_batch_are_read_as_each_alone(file: container.File, photo: Image.Image) -> None:
    other = container.read(io.BytesIO(to_bytes(photo.crop((10, 20, 311, 223)))))
    decoder = loading.load_decoder(file.header.model)
    both = decoder.read([file.codes, other.codes], *of(file))
    for i, single in enumerate((file, other)):
        alone = decoder.read([single.codes], *of(file))
        for a, b in zip(
            alone.codes + alone.classes, both.pictures([i]).codes + both.pictures([i]).classes, strict=True
        ):
            assert torch.equal(a, b)


def test_classes_follow_from_codes(file: container.File) -> None:
    decoder = loading.load_decoder(file.header.model)
    coded = decoder.read([file.codes], *of(file))
    classes = decoder.classes(coded.codes, *of(file))
    assert all(torch.equal(a, b) for a, b in zip(classes, coded.classes, strict=True))


def test_a_stream_that_is_too_long_is_damaged(file: container.File) -> None:
    with pytest.raises(OSError, match=r"damaged \.mcq file: the code stream does not end"):
        loading.load_decoder(file.header.model).read([file.codes + bytes(64)], *of(file))
