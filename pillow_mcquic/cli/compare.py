"""One self-contained page that shows a picture as several codecs keep it in about as many bytes."""

from __future__ import annotations

import base64
import dataclasses
import functools
import importlib.util
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .. import metrics
from ..metrics import Pixels
from ..quality import describe
from ..target_search import bracket

SHOWN = (1600, 1200)  # width and height of the part of a picture that a page holds
TEMPLATE = Path(__file__).parent / "compare_page.html"
# codec: format of Pillow and its options beside `quality`, 1 to 100
PILLOW_CODECS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg": ("JPEG", {"optimize": True, "progressive": True}),
    "webp": ("WEBP", {"method": 6}),
    "avif": ("AVIF", {"speed": 6}),
}


@dataclasses.dataclass(frozen=True)
class Version:
    """A picture as one codec keeps it: its bytes, what they decode to, and how near that is."""

    codec: str
    setting: str
    size: int
    pixels: Pixels
    metrics: dict[str, float]


def encode_pillow(image: Image.Image, format: str, **options: Any) -> bytes:
    """The file Pillow writes."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def decode_pillow(data: bytes) -> Pixels:
    """(H, W, 3) uint8."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def jxl_distance(setting: float) -> float:
    """Distance of JPEG XL at a setting of 1 to 100: 14 to 0.1, in even ratios."""
    return float(15 * 0.951**setting)


def named(name: str) -> tuple[Callable[[Image.Image, int], bytes], Callable[[bytes], Pixels], str]:
    """How `name` encodes at a setting of 1 to 100, decodes, and calls its setting; ValueError for an unknown name."""
    if name in PILLOW_CODECS:
        format, options = PILLOW_CODECS[name]
        Image.init()
        if format not in Image.SAVE:
            raise ValueError(f"this Pillow cannot write {format}: leave {name} out, or upgrade Pillow")
        return lambda image, setting: encode_pillow(image, format, quality=setting, **options), decode_pillow, "quality"
    if name == "jxl":
        if not importlib.util.find_spec("imagecodecs"):
            raise ValueError("jxl needs imagecodecs: pip install imagecodecs")
        import imagecodecs

        def encode(image: Image.Image, setting: int) -> bytes:
            return bytes(imagecodecs.jpegxl_encode(np.asarray(image), distance=jxl_distance(setting), effort=7))

        return encode, lambda data: np.asarray(imagecodecs.jpegxl_decode(data)), "step"
    raise ValueError(f"codecs to compare with must be of {', '.join([*PILLOW_CODECS, 'jxl'])}, got {name!r}")


def nearest_in_size(encode: Callable[[int], bytes], size: int) -> tuple[int, bytes]:
    """The setting of 1 to 100 whose file is nearest to `size` bytes, on either side; and the file."""

    def tried(setting: int) -> tuple[float, bytes]:
        data = encode(setting)
        return len(data), data

    found = bracket(tried, 1, 100, size)
    best = min(found.tries, key=lambda one: abs(one.value - size))
    return best.setting, best.made


def measure(original: Pixels, decoded: Pixels) -> dict[str, float]:
    """PSNR in dB, and, where their packages are installed, MS-SSIM in dB and SSIMULACRA2."""
    found = {"PSNR (dB)": metrics.psnr(original, decoded)}
    if importlib.util.find_spec("pytorch_msssim") and min(original.shape[:2]) >= metrics.LEAST_MSSSIM_SIDE:
        found["MS-SSIM (dB)"] = metrics.msssim(original, decoded)
    if importlib.util.find_spec("ssimulacra2"):
        found["SSIMULACRA2"] = metrics.ssimulacra2(original, decoded)
    return found


def versions(image: Image.Image, quality: float | None, against: Sequence[str]) -> list[Version]:
    """An RGB picture as `.mcq` of a quality (None: lossless), and as other codecs in the nearest number of bytes."""
    original = np.asarray(image)
    image = Image.fromarray(original)  # pixels only: some formats would store the colour profile, others not
    data = encode_pillow(image, "MCQ", **({"lossless": True} if quality is None else {"quality": quality}))
    decoded = decode_pillow(data)
    found = [Version("mcq", describe(quality), len(data), decoded, measure(original, decoded))]
    for name in against:
        encode, decode, unit = named(name)
        setting, theirs = nearest_in_size(functools.partial(encode, image), len(data))
        decoded = decode(theirs)
        found.append(Version(name, f"{unit} {setting}", len(theirs), decoded, measure(original, decoded)))
    return found


def part(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """The middle of a picture, of at most that width and height."""
    height, width = pixels.shape[:2]
    top, left = max(0, (height - size[1]) // 2), max(0, (width - size[0]) // 2)
    return pixels[top : top + size[1], left : left + size[0]]


def data_url(pixels: Pixels) -> str:
    """A picture, losslessly, as a browser takes it."""
    data = encode_pillow(Image.fromarray(pixels), "WEBP", lossless=True, method=2)
    return "data:image/webp;base64," + base64.b64encode(data).decode()


def viewed(
    name: str, original: Pixels, groups: dict[str, list[Version]], size: tuple[int, int] = SHOWN
) -> dict[str, Any]:
    """A picture for `page`; groups: versions of similar bytes by their button's name; size: of what is shown."""
    height, width = original.shape[:2]
    shown = part(original, size)
    note = f"{width} x {height}"
    if shown.shape != original.shape:
        note += f"; the middle {shown.shape[1]} x {shown.shape[0]} is shown, bytes and figures are of the whole"
    return {
        "name": name,
        "note": note,
        "width": shown.shape[1],
        "height": shown.shape[0],
        "original": data_url(shown),
        "groups": [
            {
                "name": group,
                "versions": [
                    {
                        "codec": v.codec,
                        "setting": v.setting,
                        "bytes": v.size,
                        "bpp": round(8 * v.size / (width * height), 4),
                        "difference": round(100 * (v.size / found[0].size - 1), 1),  # percent, of the first one
                        "metrics": {k: "inf" if math.isinf(m) else round(m, 2) for k, m in v.metrics.items()},
                        "picture": data_url(part(v.pixels, size)),
                    }
                    for v in found
                ],
            }
            for group, found in groups.items()
        ],
    }


def page(title: str, pictures: Sequence[dict[str, Any]], introduction: str = "") -> str:
    """The page of some pictures (see `viewed`); introduction: HTML above them."""
    # a "<" could end the script element that holds the data
    content = json.dumps({"title": title, "pictures": pictures}).replace("<", "\\u003c")
    return TEMPLATE.read_text("utf-8").replace("__INTRODUCTION__", introduction).replace("__CONTENT__", content)
