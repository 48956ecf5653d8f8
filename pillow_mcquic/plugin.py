"""Pillow plugin: registers format "MCQ", extension .mcq, MIME type image/x-mcq."""

from __future__ import annotations

import io
import math
from typing import IO, Any

from PIL import Image, ImageFile

from . import codec, decoding, weights_files
from .bitstream import container, file_header
from .bitstream.container import COMMENT, DPI, EXIF, ICC, METADATA, XMP
from .bitstream.reader import Reader
from .errors import BadFileError, NotMcqError

FORMAT = "MCQ"
# how a Pillow mode is stored; the rest is refused, since converting would lose what the caller has
MODES = {
    "1": "L",
    "L": "L",
    "LA": "LA",
    "La": "LA",
    "P": "RGB",
    "PA": "RGBA",
    "RGB": "RGB",
    "RGBX": "RGB",
    "RGBA": "RGBA",
    "RGBa": "RGBA",
    "CMYK": "RGB",
    "YCbCr": "RGB",
}

DEEP_MODES = frozenset(("I", "F", "I;16", "I;16B", "I;16L", "I;16N"))  # more than 8 bits a sample
# those that are stored without loss; a palette's colours are
EXACT_MODES = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA"))


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(file_header.MAGIC)


class McqImageFile(ImageFile.ImageFile):
    """A `.mcq` file opened by Pillow: header and metadata are read, pixels are decoded by `load`."""

    format = FORMAT
    format_description = "McQuic learned image"

    def _open(self) -> None:
        assert self.fp is not None
        reader = Reader(self.fp)
        try:
            header = file_header.read_header(reader)
        except NotMcqError as error:
            raise SyntaxError(str(error)) from error
        for chunk in container.read_metadata(reader, header):
            self._take(chunk)
        start = self.fp.tell() - len(reader.ahead)
        # Pillow allocates the picture before the decoder sees a byte, so the claim is checked here
        payload = container.measure_picture(reader, header)
        # Pillow itself limits width times height, but a picture one pixel wide takes sixteen times that to decode
        if math.prod(header.padded_size) > 2 * header.width * header.height:
            codec.check_sizes([header])
        if header.learned:
            weights_files.find_decoder(header.model)  # an unknown model is reported by open, not by load
        self._size = header.width, header.height
        self._mode = header.mode
        self.info["lossless"] = header.quality is None
        if header.tile_side is not None:
            self.info["tile_side"] = header.tile_side
        if header.quality is not None:
            self.info["quality"] = float(header.quality)
        self.tile = [ImageFile._Tile("mcq", (0, 0, *self._size), start, (header, payload, 1))]

    def verify(self) -> None:
        """Check what `open` left unread, by its checksums; OSError when it is damaged.  Closes the file."""
        if self.fp is None or not self.tile:
            raise RuntimeError("verify must be called directly after open")
        tile = self.tile[0]
        header: file_header.Header = tile.args[0]  # type: ignore[index, assignment]
        self.fp.seek(tile.offset)
        container.read_picture(Reader(self.fp), header)
        super().verify()

    def draft(self, mode: str | None, size: tuple[int, int] | None) -> tuple[str, tuple[int, int, float, float]] | None:
        """Decode to 1/2, 1/4 or 1/8 of the sides when that is still at least `size`, in less time.

        `Image.thumbnail` asks for this by itself.  The mode stays what it is.  Returns the mode and the box of the
        original in the new picture, or None when nothing is left to decide: no size, or pixels already loaded.
        """
        if size is None or len(self.tile) != 1:
            return None
        tile = self.tile[0]
        args: tuple[file_header.Header, int, int] = tile.args  # type: ignore[assignment]
        header, payload, _ = args
        wanted = min(header.width // max(1, size[0]), header.height // max(1, size[1]))
        scale = max(s for s in codec.SCALES if s <= max(1, wanted))
        self._size = -(-header.width // scale), -(-header.height // scale)
        self.tile = [tile._replace(extents=(0, 0, *self._size), args=(header, payload, scale))]
        return self.mode, (0, 0, header.width / scale, header.height / scale)

    def _take(self, chunk: container.Chunk) -> None:
        """Put a metadata chunk into `info`; chunks of unknown optional types are skipped."""
        if chunk.kind == DPI:
            self.info["dpi"] = container.unpack_dpi(chunk.payload)
        elif chunk.kind in METADATA:
            self.info[METADATA[chunk.kind]] = chunk.payload


class McqDecoder(ImageFile.PyDecoder):
    """Reads the chunks of the picture and decodes them at once."""

    _pulls_fd = True

    def decode(self, buffer: bytes | Any) -> tuple[int, int]:
        header, expected, scale = self.args
        if self.fd is not None:
            file = self.fd
        elif len(buffer) >= expected:
            file = io.BytesIO(buffer[:expected])  # of `ImageFile.Parser`, which has no file
        else:
            return 0, 0
        reader, tolerant = Reader(file), ImageFile.LOAD_TRUNCATED_IMAGES
        tiles = container.read_picture(reader, header, tolerant=tolerant)
        parsed = container.File(header, (), 0, tiles, reader.taken)
        # any buffer will do, and a copy of a large picture is large
        self.set_as_raw(decoding.decode_file(parsed, scale, tolerant=tolerant).data)  # type: ignore[arg-type]
        return -1, 0


def checked_metadata(given: dict[str, Any]) -> dict[bytes, bytes]:
    """Metadata chunks from save options; ValueError naming the option that cannot be stored."""
    chunks: dict[bytes, bytes] = {}
    for kind, name in METADATA.items():
        value = given.get(name)
        if kind == DPI:
            continue
        if kind == EXIF and isinstance(value, Image.Exif):
            value = value.tobytes()
        if value is None or value == b"" or value == "":
            continue
        if isinstance(value, str) and kind in (XMP, COMMENT):
            try:
                value = value.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"{name} must be text that UTF-8 can hold ({error})") from error
        if not isinstance(value, (bytes, bytearray)):
            raise ValueError(f"{name} must be bytes, got {type(value).__name__}")
        if len(value) > container.MAX_LENGTH:
            raise ValueError(f"{name} must be of at most {container.MAX_LENGTH} bytes, got {len(value)}")
        if kind == ICC and value[16:20] == b"CMYK":
            continue  # pixels are stored as RGB, which such a profile says nothing of
        chunks[kind] = bytes(value)
    dpi = given.get("dpi")
    if dpi is not None:
        try:
            x, y = (float(v) for v in dpi)
            chunks[DPI] = container.pack_dpi((x, y))
            container.unpack_dpi(chunks[DPI])
        except (TypeError, ValueError, OverflowError, BadFileError) as error:
            raise ValueError(f"dpi must be two positive numbers, got {dpi!r}") from error
    return chunks


def to_pixels(im: Image.Image) -> Any:
    """Image -> uint8 array in the mode it is stored in; ValueError for a mode that has none."""
    import numpy as np

    mode = MODES.get(im.mode)
    if mode is None:
        raise ValueError(
            f"cannot save mode {im.mode} as MCQ: convert to one of {', '.join(MODES)} first, "
            "for example with image.convert('RGB')"
        )
    if im.has_transparency_data and not mode.endswith("A"):
        mode = "RGBA" if mode == "RGB" else "LA"
    try:
        return np.array(im if im.mode == mode else im.convert(mode))
    except (TypeError, AttributeError) as error:
        raise ValueError(
            f"info['transparency'] is no colour of mode {im.mode}: {im.info.get('transparency')!r}"
        ) from error


def _save(im: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    options: dict[str, Any] = im.encoderinfo
    if im.width == 0 or im.height == 0:
        raise ValueError(f"cannot save an image of size {im.width}x{im.height} as MCQ")
    if im.mode in DEEP_MODES:
        # convert("RGB") and convert("L") would clip: nearly everything would be white
        raise ValueError(
            f"cannot save mode {im.mode} as MCQ, which has 8 bits a sample: make it 8 bits first, of 16 for example "
            "with Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))"
        )
    lossless = codec.check_lossless(options.get("lossless"))
    if lossless and im.mode not in EXACT_MODES:
        raise ValueError(
            f"cannot save mode {im.mode} losslessly as MCQ, whose pixels are grey or RGB: convert to RGB first, "
            f"or one of {', '.join(sorted(EXACT_MODES))}"
        )
    data = codec.encode(
        to_pixels(im),
        quality=options.get("quality"),
        target_bpp=options.get("target_bpp"),
        max_bytes=options.get("max_bytes"),
        lossless=lossless,
        effort=options.get("effort", codec.EFFORT_DEFAULT),
        chunks=checked_metadata({"icc_profile": im.info.get("icc_profile"), **options}),
    )
    fp.write(data)  # once, when nothing can fail any more


def _save_all(im: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    more = im.encoderinfo.get("append_images") or ()
    if not isinstance(more, (list, tuple)):
        raise ValueError(f"append_images must be a list of images, got {type(more).__name__}")
    frames = getattr(im, "n_frames", 1) + len(more)
    if frames != 1:
        raise ValueError(f"an .mcq file holds one image, got {frames} frames: save them one by one")
    _save(im, fp, filename)


def register() -> None:
    """Register the format with Pillow; doing it twice changes nothing."""
    Image.register_open(FORMAT, McqImageFile, _accept)
    Image.register_save(FORMAT, _save)
    Image.register_save_all(FORMAT, _save_all)
    Image.register_extension(FORMAT, ".mcq")
    Image.register_mime(FORMAT, "image/x-mcq")
    Image.register_decoder("mcq", McqDecoder)
