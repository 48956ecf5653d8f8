"""Pictures of a half, a quarter or an eighth of the sides."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import pillow_mcquic

from ..conftest import psnr, to_bytes


@pytest.fixture(scope="module")
def cut(photo: Image.Image) -> Image.Image:
    return photo.crop((200, 80, 200 + 301, 80 + 203))  # odd sides


def shrunk(pixels: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).reduce(scale))


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("quality", [1, 4, 8])
def test_preview_is_the_full_decode_made_smaller(scale: int, quality: int, cut: Image.Image) -> None:
    data = to_bytes(cut, quality=quality)
    preview = pillow_mcquic.decode(data, scale=scale)
    assert preview.shape == (-(-203 // scale), -(-301 // scale), 3)
    assert psnr(preview, shrunk(pillow_mcquic.decode(data), scale)) > 29


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA"])
def test_preview_of_other_modes(mode: str, cut: Image.Image) -> None:
    image = cut.convert(mode)
    if mode.endswith("A"):
        image.putalpha(Image.linear_gradient("L").resize(cut.size))
    data = to_bytes(image)
    preview = pillow_mcquic.decode(data, scale=4)
    full = Image.open(io.BytesIO(data))
    assert preview.shape == ((51, 76) if mode == "L" else (51, 76, len(mode)))
    expected = np.asarray(full.split()[-1].reduce(4))
    last = preview if mode == "L" else preview[:, :, -1]
    if mode == "L":
        assert psnr(last, expected) > 30
    else:
        np.testing.assert_array_equal(last, expected)  # alpha is lossless, so its preview is exact


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (16, 16), (17, 40)])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_preview_of_small_pictures(size: tuple[int, int], scale: int, photo: Image.Image) -> None:
    preview = pillow_mcquic.decode(to_bytes(photo.crop((0, 0, *size))), scale=scale)
    assert preview.shape == (-(-size[1] // scale), -(-size[0] // scale), 3)


@pytest.mark.parametrize("scale", [0, 3, 16, -1, 2.5, 2.0, True, "2", None])
def test_other_scales_are_refused(scale: object, cut: Image.Image) -> None:
    with pytest.raises(ValueError, match="scale must be one of"):
        pillow_mcquic.decode(to_bytes(cut), scale=scale)  # type: ignore[arg-type]
