"""Image objects: copies, pickles, operations before and after loading."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ..conftest import from_bytes, to_bytes


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("loaded", [False, True])
def test_pickle_copy_and_deepcopy(protocol: int, loaded: bool, small_file: bytes) -> None:
    with Image.open(io.BytesIO(small_file)) as image:
        if loaded:
            image.load()
        expected = from_bytes(small_file).tobytes()
        assert pickle.loads(pickle.dumps(image, protocol)).tobytes() == expected
        assert copy.copy(image).tobytes() == expected
        assert copy.deepcopy(image).tobytes() == expected


def test_crop_thumbnail_and_resize_before_load(small_file: bytes) -> None:
    full = from_bytes(small_file)
    with Image.open(io.BytesIO(small_file)) as image:
        assert image.crop((10, 10, 50, 40)).tobytes() == full.crop((10, 10, 50, 40)).tobytes()
    with Image.open(io.BytesIO(small_file)) as image:
        image.thumbnail((40, 40))
        assert image.size == (40, 27)
    with Image.open(io.BytesIO(small_file)) as image:
        assert image.resize((30, 20), box=(0, 0, 60, 40)).size == (30, 20)


def test_pickled_by_path_survives_another_process(tmp_path: Path, small_file: bytes) -> None:
    path = tmp_path / "x.mcq"
    path.write_bytes(small_file)
    with Image.open(path) as image:
        pickled = pickle.dumps(image)
    code = (
        "import sys, pickle, pillow_mcquic; im = pickle.loads(sys.stdin.buffer.read());"
        "print(im.size, im.mode, len(im.tobytes()))"
    )
    out = subprocess.run([sys.executable, "-c", code], input=pickled, capture_output=True, check=True)
    assert out.stdout.strip() == b"(150, 101) RGB 45450"


def test_info_goes_with_copies(small: Image.Image) -> None:
    image = from_bytes(to_bytes(small, quality=2.5, comment="kept"))
    for other in (image.copy(), image.crop((0, 0, 5, 5)), pickle.loads(pickle.dumps(image))):
        assert other.info["comment"] == b"kept"
        assert other.info["quality"] == 2.5


def test_operations_start_the_load(small_file: bytes) -> None:
    expected = from_bytes(small_file)
    for operation in (
        lambda image: image.convert("L").tobytes(),
        lambda image: image.getpixel((149, 100)),
        lambda image: image.transpose(Image.Transpose.ROTATE_90).tobytes(),
        lambda image: image.reduce(3).tobytes(),
        lambda image: image.histogram(),
        lambda image: np.asarray(image).sum(),
        lambda image: image.getchannel("G").tobytes(),
    ):
        with Image.open(io.BytesIO(small_file)) as image:
            assert operation(image) == operation(expected)


def test_one_frame(small_file: bytes) -> None:
    with Image.open(io.BytesIO(small_file)) as image:
        assert getattr(image, "n_frames", 1) == 1
        assert not getattr(image, "is_animated", False)
        image.seek(0)
        assert image.tell() == 0
        with pytest.raises(EOFError):
            image.seek(1)


def test_draft_keeps_the_mode_and_a_size_that_is_large_enough(small_file: bytes) -> None:
    with Image.open(io.BytesIO(small_file)) as image:
        image.draft("L", (20, 20))
        assert (image.size, image.mode) == ((38, 26), "RGB")
        assert len(image.tobytes()) == 38 * 26 * 3


def test_loading_twice_is_loading_once(small_file: bytes) -> None:
    with Image.open(io.BytesIO(small_file)) as image:
        image.load()
        first = image.tobytes()
        image.putpixel((0, 0), (1, 2, 3))
        image.load()
        assert image.getpixel((0, 0)) == (1, 2, 3)
        assert image.tobytes()[3:] == first[3:]


def test_images_compare(small_file: bytes) -> None:
    assert from_bytes(small_file) == from_bytes(small_file)


def test_reopened_picture_saves_as_other_formats(tmp_path: Path, small: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x010E] = "kept"
    image = from_bytes(to_bytes(small, exif=exif, icc_profile=b"profile", dpi=(72, 72), comment="hello"))
    for name in ("x.png", "x.jpg", "x.webp", "x.tif", "x.gif", "x.bmp"):
        image.save(tmp_path / name)
        with Image.open(tmp_path / name) as other:
            assert other.size == small.size
            other.load()
