"""Tensors to files and back, and codes as tokens."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pillow_mcquic
from pillow_mcquic import codec, loading, weights_files
from pillow_mcquic.adapters.torch import decode_codes, decode_tensor, encode_tensor, read_codes
from pillow_mcquic.bitstream import container

from ..conftest import psnr, to_bytes
from ..files import file_of
from ..test_golden import GOLDEN


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def array(picture: torch.Tensor) -> Image.Image:
    assert picture.dtype == torch.uint8
    return Image.fromarray(picture.permute(1, 2, 0).cpu().numpy())


@pytest.fixture(scope="module")
def cut(photo: Image.Image) -> Image.Image:
    return photo.crop((200, 80, 200 + 101, 80 + 75))


def test_decode_gives_the_pixels_of_the_array_codec(cut: Image.Image) -> None:
    data = to_bytes(cut)
    picture = decode_tensor(data, device="cpu")
    assert picture.shape == (3, 75, 101)
    assert picture.is_contiguous()
    np.testing.assert_array_equal(picture.permute(1, 2, 0), pillow_mcquic.decode(data))


def test_decode_of_grey_and_alpha_has_three_channels(cut: Image.Image) -> None:
    grey = to_bytes(cut.convert("L"))
    np.testing.assert_array_equal(decode_tensor(grey), np.stack([pillow_mcquic.decode(grey)] * 3))
    cut = cut.convert("RGBA")
    cut.putalpha(90)
    np.testing.assert_array_equal(
        decode_tensor(to_bytes(cut)).permute(1, 2, 0), pillow_mcquic.decode(to_bytes(cut))[:, :, :3]
    )


def test_decode_of_several_keeps_their_order(photo: Image.Image) -> None:
    """Sizes, modes and qualities mixed: what is alike goes through the networks together."""
    pictures = [photo.crop((50 * i, 20, 50 * i + 64 + 8 * (i % 2), 84)) for i in range(5)]
    pictures[3] = pictures[3].convert("L")
    files = [to_bytes(picture, quality=1 + i) for i, picture in enumerate(pictures)]
    for file, picture in zip(files, decode_tensor(files), strict=True):
        assert abs(picture.int() - decode_tensor(file).int()).max() <= 2  # rounding in a batch of another size
    assert decode_tensor([]) == []


def test_decode_of_files_by_their_paths(cut: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "x.mcq"
    path.write_bytes(to_bytes(cut))
    picture = decode_tensor(path.read_bytes())
    for found in (decode_tensor(path), decode_tensor(str(path)), *decode_tensor([path, str(path)])):
        assert abs(found.int() - picture.int()).max() <= 2
    with pytest.raises(FileNotFoundError):
        decode_tensor("nowhere.mcq")


def test_encode_gives_the_file_of_the_array_codec(cut: Image.Image) -> None:
    assert encode_tensor(tensor(cut), quality=3) == pillow_mcquic.encode(np.asarray(cut), quality=3)
    assert encode_tensor(tensor(cut)) == pillow_mcquic.encode(np.asarray(cut))


def test_encode_of_a_batch_and_of_several(photo: Image.Image) -> None:
    crops = [tensor(photo.crop((60 * i, 50, 60 * i + 70, 110))) for i in range(3)]
    assert encode_tensor(crops) == [encode_tensor(crop) for crop in crops]
    assert encode_tensor([]) == []
    for data, crop in zip(encode_tensor(torch.stack(crops)), crops, strict=True):
        assert len(data) == pytest.approx(len(encode_tensor(crop)), rel=0.02)
        assert psnr(array(decode_tensor(data)), array(decode_tensor(encode_tensor(crop)))) > 45


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(3, 8, 8),
        torch.zeros(4, 8, 8, dtype=torch.uint8),
        torch.zeros(8, 8, dtype=torch.uint8),
        torch.zeros(3, 0, 8, dtype=torch.uint8),
        torch.zeros(2, 4, 8, 8, dtype=torch.uint8),
        torch.zeros(2, 3, 0, 8, dtype=torch.uint8),
        torch.zeros(0, 3, 8, 8, dtype=torch.uint8),
        [np.zeros((3, 8, 8), np.uint8)],
    ],
)
def test_encode_refuses_other_tensors(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="images must be uint8"):
        encode_tensor(images)


def test_encode_refuses_other_qualities() -> None:
    with pytest.raises(ValueError, match="quality must be from 1"):
        encode_tensor(torch.zeros(3, 8, 8, dtype=torch.uint8), quality=11)


def test_pictures_of_one_size_and_quality_are_read_together(photo: Image.Image) -> None:
    crops = [photo.crop((60 * i, 50, 60 * i + 70, 110)) for i in range(4)]
    files = [pillow_mcquic.encode(np.asarray(crop), quality=[3, 3, 6, 3][i]) for i, crop in enumerate(crops)]
    for file, picture in zip(files, decode_tensor(files), strict=True):
        assert abs(picture.cpu().int() - decode_tensor(file).cpu().int()).max() <= 2


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_damaged_stream_among_others_is_reported(photo: Image.Image, place: int) -> None:
    """Its checksum is right: the codes themselves do not end where the stream does."""
    crops = [photo.crop((60 * i, 50, 60 * i + 70, 110)) for i in range(3)]
    files = [pillow_mcquic.encode(np.asarray(crop)) for crop in crops]
    file = container.read(io.BytesIO(files[place]))
    files[place] = file_of(file.header, {container.CODES: file.codes + bytes(64)})
    with pytest.raises(OSError, match="damaged"):
        decode_tensor(files)


def test_default_dtype_of_the_caller_changes_nothing(cut: Image.Image) -> None:
    data = encode_tensor(tensor(cut))
    decoded = decode_tensor(data)
    torch.set_default_dtype(torch.float64)
    try:
        assert encode_tensor(tensor(cut)) == data
        assert torch.equal(decode_tensor(data), decoded)
    finally:
        torch.set_default_dtype(torch.float32)


def test_decode_reports_damage(cut: Image.Image) -> None:
    data = bytearray(to_bytes(cut))
    data[-30] ^= 4
    with pytest.raises(OSError, match="damaged"):
        decode_tensor([to_bytes(cut), bytes(data)])
    with pytest.raises(ValueError, match="not an"):
        decode_tensor(b"GIF89a")


def test_codes_by_level_group_stage(cut: Image.Image, tmp_path: Path) -> None:
    cut.save(tmp_path / "x.mcq", quality=5)
    codes = read_codes(tmp_path / "x.mcq")
    config = loading.load_decoder(weights_files.default_id()).config
    for level, (rows, columns) in {1: (5, 7), 2: (3, 4), 3: (2, 2)}.items():
        banks = [config.banks[number] for number in config.banks_of(level)]
        stages = max(len(bank.stages) for bank in banks)
        assert codes[level].dtype == torch.int16
        assert codes[level].shape == (sum(bank.groups for bank in banks), stages + 1, rows, columns)
    assert not codes[1][: config.banks[2].groups, 1:].any()  # groups of one stage
    data = (tmp_path / "x.mcq").read_bytes()
    assert all(torch.equal(codes[level], read_codes(data)[level]) for level in codes)


def test_codes_back_to_pixels(cut: Image.Image) -> None:
    data = to_bytes(cut, quality=5)
    quality = Image.open(io.BytesIO(data)).info["quality"]
    picture = decode_codes(read_codes(data), quality=quality, size=cut.size)
    assert torch.equal(picture, decode_tensor(data))
    assert decode_codes(read_codes(data), quality=quality).shape == (3, 80, 112)


def test_codes_hold_escapes() -> None:
    path = GOLDEN / "escapes.mcq"
    codes = read_codes(path)
    assert codes[1][:, -1].max() == 5
    assert torch.equal(decode_codes(codes, quality=10), decode_tensor(path))


def test_impossible_codes_are_refused(cut: Image.Image) -> None:
    codes = read_codes(to_bytes(cut))
    with pytest.raises(ValueError, match="are not those of size"):
        decode_codes(codes, quality=4, size=(90, 200))
    with pytest.raises(ValueError, match="are not those of size"):
        decode_codes(codes, quality=4, size=(101, -75))
    with pytest.raises(ValueError, match=r"codes of level 2 must be integers \(24, 3, rows, columns\), got NoneType"):
        decode_codes({1: codes[1], 3: codes[3]}, quality=4)
    with pytest.raises(ValueError, match="codes of level 3 must be"):
        decode_codes({**codes, 3: codes[3][:5]}, quality=4)
    with pytest.raises(ValueError, match=r"codes of level 1 must be integers .* got torch.float32"):
        decode_codes({**codes, 1: codes[1] + 0.5}, quality=4)
    for size in (5, (90.5, 60), (101, 75, 3)):
        with pytest.raises(ValueError, match="size must be"):
            decode_codes(codes, quality=4, size=size)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be a dict"):
        decode_codes([codes[1]], quality=4)  # type: ignore[arg-type]
    for code in (-1, 1536):
        wrong = codes[1].clone()
        wrong[0, 0, 0, 0] = code
        with pytest.raises(ValueError, match="codes of level 1 must be from 0"):
            decode_codes({**codes, 1: wrong}, quality=4)
    wrong = codes[1].clone()
    wrong[0, -1, 0, 0] = 9
    with pytest.raises(ValueError, match="codes of level 1 must be from 0"):
        decode_codes({**codes, 1: wrong}, quality=4)


@pytest.mark.cuda
def test_pixels_stay_on_the_device(cut: Image.Image) -> None:
    data = encode_tensor(tensor(cut).cuda())
    assert decode_tensor(data, device="cuda").is_cuda
    assert abs(decode_tensor(data, device="cuda").cpu().int() - decode_tensor(data, device="cpu").int()).max() <= 3


def drawing() -> torch.Tensor:
    """Lines on white, 3 x 90 x 130."""
    image = torch.full((3, 90, 130), 255, dtype=torch.uint8)
    image[0, ::9], image[1, :, ::13] = 20, 60
    return image


def test_lossless_tensor_comes_back() -> None:
    image = torch.randint(0, 256, (3, 33, 50), dtype=torch.uint8)
    data = encode_tensor([image, image.flip(2)], lossless=True)
    assert torch.equal(decode_tensor(data)[1], image.flip(2))
    with pytest.raises(ValueError, match="give only one of level and lossless"):
        encode_tensor(image, quality=4, lossless=True)


def test_exact_squares_are_in_tensors_as_in_arrays(photo: Image.Image) -> None:
    page = torch.from_numpy(np.array(photo.crop((300, 80, 512, 208)))).permute(2, 0, 1).contiguous()
    page[:, :90, :80] = drawing()[:, :, :80]
    data = encode_tensor(torch.stack([page, page.flip(1)]), quality=6)
    for file, decoded in zip(data, decode_tensor(data), strict=True):
        assert (decoded.permute(1, 2, 0).int() - torch.from_numpy(codec.decode(file)).int()).abs().max() <= 1
    assert torch.equal(decode_tensor(data[0])[:, :80, :64], page[:, :80, :64])


def test_drawing_has_no_codes() -> None:
    data = encode_tensor(drawing(), quality=6)
    assert torch.equal(decode_tensor(data), drawing())
    with pytest.raises(ValueError, match="exact squares alone"):
        read_codes(data)
