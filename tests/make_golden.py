"""Write the golden files for a new default model and print the table for test_golden.py.

Only for a new model or format version: files already there belong to users' archives too.

    python -m tests.make_golden
"""

from __future__ import annotations

from typing import Any

from PIL import Image

from pillow_mcquic import runtime

from .conftest import PHOTO, from_bytes, to_bytes
from .test_golden import GOLDEN, codes_digest


def pictures(photo: Image.Image) -> dict[str, tuple[Image.Image, dict[str, Any]]]:
    """Name -> picture and save options: every mode, sizes on and off the grid, whole and fractional quality."""
    face = photo.crop((420, 120, 548, 232))
    alpha = face.convert("L").point(lambda v: min(255, 2 * v))
    rgba, la = face.copy(), face.convert("L")
    rgba.putalpha(alpha)
    la.putalpha(alpha)
    exif = Image.Exif()
    exif[0x0112] = 8
    quiet = Image.linear_gradient("L").resize((640, 480)).convert("RGB")
    quiet.paste(face, (250, 170))
    return {
        "one-pixel": (photo.crop((500, 200, 501, 201)), {"quality": 4}),
        "low": (face, {"quality": 1}),
        "fraction": (face.crop((3, 5, 100, 82)), {"quality": 4.3}),
        "high": (face, {"quality": 8}),
        "grey": (face.convert("L"), {"quality": 5}),
        "grey-alpha": (la.crop((0, 0, 65, 33)), {"quality": 3}),
        "alpha": (rgba, {"quality": 6.5}),
        "runs": (quiet, {"quality": 1}),  # tables with several runs of codeword 0
        "metadata": (
            face.crop((0, 0, 48, 32)),
            {"quality": 2, "exif": exif, "icc_profile": b"icc", "xmp": b"<x/>", "dpi": (72, 72), "comment": b"hi"},
        ),
    }


def main() -> None:
    with Image.open(PHOTO) as image:
        photo = image.convert("RGB")
    for name, (picture, options) in pictures(photo).items():
        path = GOLDEN / f"{name}.mcq"
        path.write_bytes(to_bytes(picture, **options))
        runtime.configure(precision="float32")  # the picture that other precisions come near to
        decoded = from_bytes(path.read_bytes())
        runtime.configure(precision="auto")
        decoded.save(path.with_suffix(".png"), optimize=True)
        print(
            f'    "{path.name}": ({decoded.size}, "{decoded.mode}", {decoded.info["quality"]}, "{codes_digest(path)}"),'
        )


if __name__ == "__main__":
    main()
