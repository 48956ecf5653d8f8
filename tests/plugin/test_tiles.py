"""Pictures in tiles: no seam, boxes, damage that stays where it is, exact squares, Pillow's habits."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFile

import pillow_mcquic
from pillow_mcquic import decoding
from pillow_mcquic.adapters.imagecodecs import mcq_decode
from pillow_mcquic.adapters.torch import decode_codes, decode_tensor, encode_tensor, read_codes
from pillow_mcquic.bitstream import container, picture
from pillow_mcquic.engine.decoder import Decoder

from ..conftest import from_bytes, psnr, to_bytes

REACH = 17 * 16  # pixels beyond a damaged tile that may change
BOXES = [(0, 0, 1, 1), (250, 200, 300, 270), (37, 91, 701, 333), (512, 256, 600, 300)]


@pytest.fixture
def tiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is coded in tiles of 256 pixels."""
    monkeypatch.setattr(picture, "LARGE", 0)
    monkeypatch.setattr(picture, "TILE_SIDE", 256)


@pytest.fixture
def crop(photo: Image.Image) -> Image.Image:
    """Three by two tiles."""
    return photo.crop((0, 0, 720, 400))


@pytest.fixture
def large(photo: Image.Image, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A file of three by two tiles of 512 pixels."""
    monkeypatch.setattr(picture, "LARGE", 0)
    monkeypatch.setattr(picture, "TILE_SIDE", 512)
    return to_bytes(photo.resize((1400, 600)), quality=3)


@pytest.fixture
def page(crop: Image.Image) -> Image.Image:
    """Text over the left third, and a caption on the photo."""
    image = crop.copy()
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 300, 400), fill="white")
    for y in range(4, 390, 12):
        draw.text((4, y), "the quick brown fox jumps over the lazy dog, twice", fill="black")
    return image


def off(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> int:
    """The most that two pictures differ by."""
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b).max())


def test_tiles_cost_next_to_nothing_and_look_the_same(crop: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = to_bytes(crop)
    monkeypatch.setattr(picture, "LARGE", 0)
    monkeypatch.setattr(picture, "TILE_SIDE", 256)
    data = to_bytes(crop)
    assert len(data) < 1.025 * len(whole)
    assert psnr(from_bytes(data), crop) > psnr(from_bytes(whole), crop) - 0.1
    assert container.peek(io.BytesIO(data)).tile_side == 256


def test_no_seam_shows(crop: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of brightness at the borders of tiles, 8 pixels from either side, are as wrong as without tiles."""
    original, steps = np.asarray(crop, int), list[float]()
    for large in (1 << 22, 0):
        monkeypatch.setattr(picture, "LARGE", large)
        monkeypatch.setattr(picture, "TILE_SIDE", 256)
        wrong = np.asarray(from_bytes(to_bytes(crop, quality=3)), int) - original
        parts = [wrong[:384, at : at + 8].mean((1, 2)) - wrong[:384, at - 8 : at].mean((1, 2)) for at in (256, 512)]
        steps.append(float(np.abs(np.concatenate(parts).reshape(-1, 16).mean(1)).mean()))
    assert steps[1] < steps[0] + 0.2  # grey levels


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA"])
def test_box_is_the_crop_of_the_whole(mode: str, scale: int, page: Image.Image, tiled: None, float32: None) -> None:
    image = page.convert(mode)
    if mode.endswith("A"):
        image.putalpha(page.convert("L"))
    data = to_bytes(image, quality=3)
    whole = pillow_mcquic.decode(data, scale=scale)
    for left, top, right, bottom in BOXES:
        expected = whole[top // scale : -(-bottom // scale), left // scale : -(-right // scale)]
        assert off(pillow_mcquic.decode(data, scale=scale, box=(left, top, right, bottom)), expected) <= 1


@pytest.mark.parametrize("options", [{}, {"lossless": True}])
def test_box_of_a_picture_without_tiles(options: dict[str, bool], page: Image.Image, float32: None) -> None:
    data = to_bytes(page.crop((200, 0, 500, 200)), **options)
    whole = pillow_mcquic.decode(data)
    assert off(pillow_mcquic.decode(data, box=(100, 50, 220, 60)), whole[50:60, 100:220]) <= 1


def test_only_tiles_near_a_box_are_parsed(large: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    data, parsed, read = large, list[object](), Decoder.read
    monkeypatch.setattr(Decoder, "read", lambda *given: parsed.append(given) or read(*given))
    for box, count in (((0, 0, 190, 190), 1), ((0, 0, 210, 190), 2), ((500, 500, 600, 520), 4), ((0, 0, 1400, 600), 6)):
        parsed.clear()
        pillow_mcquic.decode(data, box=box)
        assert len(parsed) == count, box


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 1), (-1, 0, 1, 1), (0, 0, 721, 1), (5, 5, 4, 6), (0, 0, 1), "box", (0, 0, 1.5, 1)]
)
def test_box_beyond_the_picture_is_refused(box: object, crop: Image.Image, tiled: None) -> None:
    data = to_bytes(crop)
    with pytest.raises(ValueError, match="box must"):
        pillow_mcquic.decode(data, box=box)  # type: ignore[arg-type]


def test_size_limit_counts_the_box(crop: Image.Image, tiled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    data = to_bytes(crop)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)
    with pytest.raises(Image.DecompressionBombError):
        pillow_mcquic.decode(data)
    assert pillow_mcquic.decode(data, box=(300, 300, 400, 400)).shape == (100, 100, 3)


def test_adapters_decode_boxes(page: Image.Image, tiled: None, float32: None) -> None:
    data, box = to_bytes(page), (200, 100, 420, 300)
    expected = pillow_mcquic.decode(data, box=box)
    assert off(decode_tensor(data, box=box, device="cpu").permute(1, 2, 0).numpy(), expected) <= 1
    assert off(mcq_decode(data, box=box), expected) <= 1
    assert off(mcq_decode(data + data, box=box)[1], expected) <= 1


def place(data: bytes, number: int) -> int:
    """Where the middle of a tile lies in a file."""
    file = container.read(io.BytesIO(data))
    sizes = [sum(map(len, tile.parts)) + 7 for tile in file.tiles if tile is not None]
    return len(data) - sum(sizes[number:]) + sizes[number] // 2


def test_damage_to_a_tile_stays_near_it(large: bytes, float32: None, monkeypatch: pytest.MonkeyPatch) -> None:
    data = large
    good, damaged = np.asarray(from_bytes(data)), bytearray(data)
    damaged[place(data, 5)] ^= 1  # columns from 1024, rows from 512 on
    with pytest.raises(OSError, match="the checksum of tile 5 is wrong"):
        from_bytes(bytes(damaged)).load()
    with pytest.raises(OSError, match="tile 5"):
        pillow_mcquic.decode(bytes(damaged))
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    found = np.asarray(from_bytes(bytes(damaged)))
    assert (found[512:, 1024:] == decoding.LOST).all()
    far = np.ones(good.shape[:2], np.bool_)
    far[512 - REACH :, 1024 - REACH :] = False
    assert np.array_equal(found[far], good[far])


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_download_that_was_cut_off_shows_what_came(
    share: float, page: Image.Image, tiled: None, float32: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = to_bytes(page)
    cut = data[: int(share * len(data))]
    with pytest.raises(OSError, match="truncated"):
        from_bytes(cut).load()
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    found = np.asarray(from_bytes(cut))
    lost = (found == decoding.LOST).all(-1)
    assert lost[256:, 512:].all()
    if share > 0.5:
        assert (found[:200, :200] != decoding.LOST).any()


def test_exact_squares_cross_the_borders_of_tiles(page: Image.Image, tiled: None) -> None:
    data = to_bytes(page, quality=6)
    tiles = container.read(io.BytesIO(data)).tiles
    assert tiles[0] is not None
    assert tiles[0].whole
    assert tiles[2] is not None
    assert tiles[2].exact is None
    assert psnr(from_bytes(data).crop((0, 0, 290, 400)), page.crop((0, 0, 290, 400))) > 30


def test_a_tile_far_from_learned_squares_has_no_codes(tiled: None, photo: Image.Image) -> None:
    image = Image.new("RGB", (1400, 240), "white")
    for y in range(4, 230, 12):
        ImageDraw.Draw(image).text((4, y), "the quick brown fox jumps over the lazy dog " * 5, fill="black")
    image.paste(photo.crop((300, 100, 600, 340)), (1100, 0))
    tiles = container.read(io.BytesIO(to_bytes(image, quality=6))).tiles
    found = [(tile.whole, tile.codes is not None) for tile in tiles if tile is not None]
    assert found[:2] == [(True, False), (True, False)]
    assert found[4][1]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P"])
def test_lossless_pictures_in_tiles_come_back(mode: str, page: Image.Image, tiled: None) -> None:
    image = page.convert(mode)
    if mode.endswith("A"):
        image.putalpha(page.convert("L"))
    decoded = from_bytes(to_bytes(image, lossless=True))
    assert decoded.info["lossless"]
    assert decoded.tobytes() == image.convert(decoded.mode).tobytes()


def test_a_side_that_webp_has_not_is_lossless_by_tiles() -> None:
    image = Image.linear_gradient("L").resize((16390, 3))
    decoded = from_bytes(to_bytes(image, lossless=True))
    assert decoded.tobytes() == image.tobytes()
    assert decoded.info["tile_side"] == 2048


def test_codes_of_all_tiles_give_the_picture(crop: Image.Image, tiled: None, float32: None) -> None:
    data = to_bytes(crop)
    codes = read_codes(data)
    assert codes[1].shape[2:] == (25, 45)
    decoded = decode_codes(codes, quality=4, size=(720, 400), tile_side=256, device="cpu")
    assert off(decoded.permute(1, 2, 0).numpy(), pillow_mcquic.decode(data)) <= 1


def test_tensors_are_coded_as_arrays_are(crop: Image.Image, tiled: None) -> None:
    import torch

    pixels = np.array(crop)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    assert encode_tensor(tensor) == pillow_mcquic.encode(pixels)
    assert encode_tensor(torch.stack([tensor, tensor]))[1] == pillow_mcquic.encode(pixels)


def test_budget_is_met(crop: Image.Image, tiled: None) -> None:
    assert 9_700 <= len(to_bytes(crop, max_bytes=10_000)) <= 10_000


def test_effort_makes_tiles_better(crop: Image.Image, tiled: None) -> None:
    image = crop.crop((100, 100, 500, 300))
    quick, slow = (to_bytes(image, quality=4, effort=effort) for effort in (1, 2))
    gained = psnr(from_bytes(slow), image) - psnr(from_bytes(quick), image)
    assert gained > 0.15
    assert len(slow) < 1.03 * len(quick)


def test_pickle_and_copy_of_a_picture_not_loaded(page: Image.Image, tiled: None) -> None:
    data = to_bytes(page, quality=3)
    expected = from_bytes(data).tobytes()
    for other in (pickle.loads(pickle.dumps(Image.open(io.BytesIO(data)))), copy.copy(Image.open(io.BytesIO(data)))):
        assert other.tobytes() == expected


def test_thumbnail_of_a_picture_in_tiles(page: Image.Image, tiled: None) -> None:
    with Image.open(io.BytesIO(to_bytes(page, quality=6))) as image:
        image.thumbnail((90, 50))
        assert psnr(image, page.resize(image.size, Image.Resampling.BICUBIC, reducing_gap=2)) > 26


def test_parser_shows_a_picture_in_tiles(page: Image.Image, tiled: None) -> None:
    data = to_bytes(page, quality=3)
    with ImageFile.Parser() as parser:
        for start in range(0, len(data), 1000):
            parser.feed(data[start : start + 1000])
        assert parser.close().tobytes() == from_bytes(data).tobytes()
