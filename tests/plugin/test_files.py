"""Opening and saving: paths, streams, pieces, leftovers."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

import pillow_mcquic
from pillow_mcquic import plugin

from ..conftest import PHOTO, from_bytes, psnr


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


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_parser_is_fed_in_pieces(piece: int, small_file: bytes) -> None:
    with ImageFile.Parser() as parser:
        for at in range(0, len(small_file), piece):
            parser.feed(small_file[at : at + piece])
        image = parser.close()
    assert image.tobytes() == from_bytes(small_file).tobytes()


def test_several_pictures_in_one_stream(small_file: bytes) -> None:
    stream = io.BytesIO(small_file + small_file)
    with Image.open(stream) as first:
        assert psnr(first, from_bytes(small_file)) == float("inf")


def test_no_resource_is_leaked(tmp_path: Path, small: Image.Image) -> None:
    path = tmp_path / "x.mcq"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small.save(path)
        with Image.open(path) as image:
            image.load()
        path.unlink()


def test_verify_and_other_formats_are_untouched(small_file: bytes) -> None:
    with Image.open(io.BytesIO(small_file)) as image:
        image.verify()
    with Image.open(PHOTO) as image:
        assert image.format == "PNG"


def test_decode_equals_pillow(small_file: bytes) -> None:
    assert np.array_equal(pillow_mcquic.decode(small_file), np.asarray(from_bytes(small_file)))


class OneWay(io.RawIOBase):
    """A stream that only goes forward, like a pipe or a socket."""

    def __init__(self, data: bytes = b"") -> None:
        self.source, self.written = io.BytesIO(data), b""

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self.source.read(size)

    def write(self, data: Any) -> int:
        self.written += bytes(data)
        return len(data)


def test_stream_that_cannot_seek(small: Image.Image, small_file: bytes) -> None:
    with Image.open(OneWay(small_file)) as image:
        assert image.tobytes() == from_bytes(small_file).tobytes()
    pipe = OneWay()
    small.save(pipe, "MCQ")
    assert pipe.written == small_file


def test_through_an_operating_system_pipe(small_file: bytes) -> None:
    code = "import sys, pillow_mcquic; from PIL import Image; print(Image.open(sys.stdin.buffer).convert('L').size)"
    out = subprocess.run([sys.executable, "-c", code], input=small_file, capture_output=True, check=True)
    assert out.stdout.strip() == b"(150, 101)"


def test_file_of_the_caller_stays_open_and_usable(tmp_path: Path, small_file: bytes) -> None:
    path = tmp_path / "x.mcq"
    path.write_bytes(small_file)
    with open(path, "rb") as file:
        with Image.open(file) as image:
            image.load()
        assert not file.closed
        file.seek(0)
        assert file.read() == small_file
        file.seek(0)
        with Image.open(file) as again:
            assert again.tobytes() == from_bytes(small_file).tobytes()


def test_file_of_pillow_is_closed_by_load_and_by_the_context_manager(tmp_path: Path, small_file: bytes) -> None:
    path = tmp_path / "x.mcq"
    path.write_bytes(small_file)
    image = Image.open(path)
    opened = image.fp
    image.load()
    assert opened is not None
    assert opened.closed
    with Image.open(path) as image:
        opened = image.fp
    assert opened is not None
    assert opened.closed


@pytest.mark.parametrize("name", ["picture.MCQ", "picture.with.dots.mcq", "ünï cödé.mcq"])
def test_names(name: str, tmp_path: Path, small: Image.Image) -> None:
    small.save(tmp_path / name)
    with Image.open(tmp_path / name) as image:
        assert image.format == "MCQ"


def test_name_without_extension_needs_a_format(tmp_path: Path, small: Image.Image) -> None:
    small.save(tmp_path / "picture", format="MCQ")
    with Image.open(tmp_path / "picture") as image:
        assert image.format == "MCQ"
    with pytest.raises(ValueError, match="unknown file extension"):
        small.save(tmp_path / "other")


def test_save_into_a_missing_folder(tmp_path: Path, small: Image.Image) -> None:
    with pytest.raises(FileNotFoundError):
        small.save(tmp_path / "nowhere" / "x.mcq")


class FullDisk(io.BytesIO):
    def write(self, data: Any) -> int:
        raise OSError(28, "No space left on device")


def test_error_of_the_stream_comes_through(small: Image.Image) -> None:
    with pytest.raises(OSError, match="No space left"):
        small.save(FullDisk(), "MCQ")


def test_only_asked_for_formats_are_tried(small_file: bytes) -> None:
    with pytest.raises(Image.UnidentifiedImageError):
        Image.open(io.BytesIO(small_file), formats=["PNG", "JPEG"])


def test_parser_knows_the_size_before_the_picture_is_complete(small_file: bytes) -> None:
    parser = ImageFile.Parser()
    parser.feed(small_file[:100])
    assert parser.image is not None
    assert (parser.image.size, parser.image.mode) == ((150, 101), "RGB")
    with pytest.raises(OSError, match=r"incomplete|truncated|could not be parsed"):
        parser.close()
