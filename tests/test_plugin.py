"""The Pillow plugin behaves as Pillow's own formats do."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

import pillow_mcquic
from pillow_mcquic import container, plugin

from .conftest import PHOTO, from_bytes, psnr, to_bytes


def test_registered() -> None:
    assert Image.registered_extensions()[".mcq"] == "MCQ"
    assert Image.MIME["MCQ"] == "image/x-mcq"
    plugin.register()
    assert Image.ID.count("MCQ") == 1


def test_opening_needs_no_torch(tmp_path: Path, small_file: bytes) -> None:
    path = tmp_path / "x.mcq"
    path.write_bytes(small_file)
    code = (
        "import sys, pillow_mcquic; from PIL import Image; im = Image.open(sys.argv[1]);"
        "print(im.size, im.mode, im.format, [n for n in ('torch', 'constriction', 'safetensors') if n in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "(150, 101) RGB MCQ []"
    assert out.stderr == ""


@pytest.mark.parametrize("kind", ["str", "path", "bytesio", "file"])
def test_save_and_open_by(kind: str, tmp_path: Path, small: Image.Image) -> None:
    path = tmp_path / "picture.mcq"
    if kind == "bytesio":
        buffer = io.BytesIO()
        small.save(buffer, format="MCQ")
        opened = Image.open(buffer)
    elif kind == "file":
        with open(path, "wb") as file:
            small.save(file, "mcq")
        with open(path, "rb") as file:
            opened = Image.open(file)
            opened.load()
    else:
        small.save(str(path) if kind == "str" else path, quality=3)
        opened = Image.open(str(path) if kind == "str" else path)
    with opened:
        assert (opened.format, opened.size, opened.mode) == ("MCQ", (150, 101), "RGB")
        assert opened.get_format_mimetype() == "image/x-mcq"
        assert psnr(opened, small) > 26


def test_default_quality_is_4(small: Image.Image, small_file: bytes) -> None:
    assert to_bytes(small, quality=4) == small_file
    assert from_bytes(small_file).info["quality"] == 4


@pytest.mark.parametrize(
    ("mode", "stored"),
    [
        ("1", "L"),
        ("L", "L"),
        ("LA", "LA"),
        ("La", "LA"),
        ("P", "RGB"),
        ("PA", "RGBA"),
        ("RGB", "RGB"),
        ("RGBX", "RGB"),
        ("RGBA", "RGBA"),
        ("RGBa", "RGBA"),
        ("CMYK", "RGB"),
        ("YCbCr", "RGB"),
    ],
)
def test_mode_is_stored_as(mode: str, stored: str, small: Image.Image) -> None:
    if mode == "PA":
        image = small.convert("P").convert("PA")
        image.putalpha(small.convert("L"))
    elif mode in ("LA", "RGBA", "La", "RGBa"):
        image = small.convert(mode[:-1].upper() + "A")
        image.putalpha(small.convert("L"))
        image = image.convert(mode)
    else:
        image = small.convert(mode)
    reopened = from_bytes(to_bytes(image, quality=8))
    assert reopened.mode == stored
    if stored.endswith("A"):
        assert reopened.getchannel("A").tobytes() == small.convert("L").tobytes()
    elif mode not in ("1", "P"):  # dithered pictures are noise
        assert psnr(reopened, image.convert(stored)) > 30


@pytest.mark.parametrize(("mode", "stored"), [("P", "RGBA"), ("RGB", "RGBA"), ("L", "LA")])
def test_transparency_in_info_becomes_alpha(mode: str, stored: str, small: Image.Image) -> None:
    image = small.convert(mode)
    image.info["transparency"] = image.getpixel((5, 5))
    reopened = from_bytes(to_bytes(image))
    assert reopened.mode == stored
    assert reopened.getpixel((5, 5))[-1] == 0
    assert reopened.getchannel("A").getextrema() == (0, 255)


@pytest.mark.parametrize("mode", ["I", "I;16", "F", "LAB", "HSV"])
def test_mode_without_a_place_is_refused_by_name(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "x.mcq"
    with pytest.raises(ValueError, match=f"cannot save mode {mode} as MCQ"):
        Image.new(mode, (8, 8)).save(path)
    assert not path.exists()


@pytest.mark.parametrize("quality", [0, 9, -1, "high", None.__class__, float("inf")])
def test_bad_quality_says_the_range_and_leaves_no_file(quality: object, tmp_path: Path, small: Image.Image) -> None:
    path = tmp_path / "x.mcq"
    with pytest.raises(ValueError, match=r"quality must be .* 1 .* 8"):
        small.save(path, quality=quality)
    assert not path.exists()


def test_empty_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="size 0x5"):
        Image.new("RGB", (0, 5)).save(tmp_path / "x.mcq")


def test_metadata_is_kept(small: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a parrot"
    reopened = from_bytes(
        to_bytes(
            small,
            exif=exif,
            icc_profile=b"profile",
            xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>",
            dpi=(300, 72.5),
            comment="né",
        )
    )
    assert dict(reopened.getexif()) == {0x0112: 6, 0x010E: "a parrot"}
    assert reopened.info["exif"] == exif.tobytes()
    assert reopened.info["icc_profile"] == b"profile"
    assert "xmpmeta" in reopened.getxmp()
    assert reopened.info["dpi"] == (300.0, 72.5)
    assert reopened.info["comment"] == "né".encode()
    assert reopened.size == small.size  # never rotated


def test_icc_profile_of_the_image_is_the_default(small: Image.Image) -> None:
    image = small.copy()
    image.info["icc_profile"] = b"its own"
    assert from_bytes(to_bytes(image)).info["icc_profile"] == b"its own"
    assert from_bytes(to_bytes(image, icc_profile=b"other")).info["icc_profile"] == b"other"
    assert "icc_profile" not in from_bytes(to_bytes(image, icc_profile=None)).info


def test_exif_of_the_image_is_not_copied_unasked(small: Image.Image) -> None:
    image = small.copy()
    image.info["exif"] = b"Exif\0\0old"
    assert "exif" not in from_bytes(to_bytes(image)).info


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("exif", 5),
        ("icc_profile", "text"),
        ("xmp", 3.0),
        ("comment", ["a"]),
        ("dpi", 300),
        ("dpi", (0, 1)),
        ("dpi", (1, 2, 3)),
    ],
)
def test_bad_metadata_names_the_option(option: str, value: object, small: Image.Image) -> None:
    with pytest.raises(ValueError, match=option):
        to_bytes(small, **{option: value})


def test_save_all_with_one_frame_saves(small: Image.Image, small_file: bytes) -> None:
    assert to_bytes(small, save_all=True) == small_file


def test_save_all_with_more_frames_is_refused(tmp_path: Path, small: Image.Image) -> None:
    path = tmp_path / "x.mcq"
    with pytest.raises(ValueError, match="one image, got 2 frames"):
        small.save(path, save_all=True, append_images=[small])
    assert not path.exists()


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_parser_is_fed_in_pieces(piece: int, small_file: bytes) -> None:
    with ImageFile.Parser() as parser:
        for at in range(0, len(small_file), piece):
            parser.feed(small_file[at : at + piece])
        image = parser.close()
    assert image.tobytes() == from_bytes(small_file).tobytes()


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


def test_several_pictures_in_one_stream(small_file: bytes) -> None:
    stream = io.BytesIO(small_file + small_file)
    with Image.open(stream) as first:
        assert psnr(first, from_bytes(small_file)) == float("inf")


def test_crop_thumbnail_and_resize_before_load(small_file: bytes) -> None:
    full = from_bytes(small_file)
    with Image.open(io.BytesIO(small_file)) as image:
        assert image.crop((10, 10, 50, 40)).tobytes() == full.crop((10, 10, 50, 40)).tobytes()
    with Image.open(io.BytesIO(small_file)) as image:
        image.thumbnail((40, 40))
        assert image.size == (40, 27)
    with Image.open(io.BytesIO(small_file)) as image:
        assert image.resize((30, 20), box=(0, 0, 60, 40)).size == (30, 20)


def test_no_resource_is_leaked(tmp_path: Path, small: Image.Image) -> None:
    path = tmp_path / "x.mcq"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small.save(path)
        with Image.open(path) as image:
            image.load()
        path.unlink()


def forged(width: int, height: int, codes: int) -> bytes:
    header = container.Header(width, height, "RGB", 1024, bytes.fromhex(plugin_weights()))
    return container.write(header, (bytes(codes), b"", b""), {})


def plugin_weights() -> str:
    from pillow_mcquic import weights

    return weights.DEFAULT_ID


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
    header = container.Header(150, 101, "RGB", 1024, b"\1\2\3\4")
    with pytest.raises(OSError, match="made with model 01020304"):
        Image.open(io.BytesIO(container.write(header, (bytes(1000), b"", b""), {})))


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
    header = len(container.write_header(container.read(io.BytesIO(small_file)).header))
    step = len(chunks) // (2 if chunks[:1] == b"c" else 1)
    parts = [chunks[i : i + step] for i in range(0, len(chunks), step)]
    body = b"".join(part + container.crc(part) for part in parts)
    damaged = small_file[:header] + body + small_file[header:]
    with pytest.raises(OSError, match="damaged"):
        Image.open(io.BytesIO(damaged))
    with pytest.raises(OSError, match="damaged"):
        pillow_mcquic.decode(damaged)


def test_verify_and_other_formats_are_untouched(small_file: bytes) -> None:
    with Image.open(io.BytesIO(small_file)) as image:
        image.verify()
    with Image.open(PHOTO) as image:
        assert image.format == "PNG"


def test_decode_equals_pillow(small_file: bytes) -> None:
    assert np.array_equal(pillow_mcquic.decode(small_file), np.asarray(from_bytes(small_file)))
