"""Golden files: `.mcq` files decode for ever, from the first release on, to these very codes, on every device and
thread count.

A change that breaks one of these needs a new format version, and the old one has to keep decoding.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pillow_mcquic import codec, decoding, loading, runtime
from pillow_mcquic.bitstream import container
from pillow_mcquic.engine.device import int8_native

from .instruction_sets import INSTRUCTION_SETS

GOLDEN = Path(__file__).parent / "golden"


# file: size, mode, quality (None: lossless), first 16 hex digits of the SHA-256 over all codes and classes
FILES = {
    "one-pixel.mcq": ((1, 1), "RGB", 4.0, "80ec3a785a394f88"),
    "low.mcq": ((128, 112), "RGB", 1.0, "34cb62042ed7dbd8"),
    "fraction.mcq": ((97, 77), "RGB", 4.30078125, "7040355adf8d3549"),
    "high.mcq": ((128, 112), "RGB", 8.0, "2aa3a2c6b4c00b98"),
    "best.mcq": ((128, 112), "RGB", 10.0, "a8239a81b9909e95"),
    "escapes.mcq": ((64, 48), "RGB", 10.0, "ccbb75edde2e30dd"),
    "grey.mcq": ((128, 112), "L", 5.0, "3dde814b74f3789b"),
    "grey-alpha.mcq": ((65, 33), "LA", 3.0, "27406076da69113d"),
    "alpha.mcq": ((128, 112), "RGBA", 6.5, "74aaa073f2085d7c"),
    "runs.mcq": ((640, 480), "RGB", 1.0, "8e1961e7ab0e1d47"),
    "alpha-rows.mcq": ((48, 40), "RGBA", 2.0, "f859a1fb4b321613"),
    "alpha-vp8l.mcq": ((48, 40), "LA", 2.0, "9df6fe23270b9120"),
    "page-box.mcq": ((128, 112), "RGB", 6.0, "063ad9512b6f6bbe"),
    "page.mcq": ((200, 120), "RGB", 5.0, "c3e35d9b52899a5c"),
    "page-grey.mcq": ((200, 120), "L", 3.0, "88e3b2894c0c9e95"),
    "page-alpha.mcq": ((200, 120), "RGBA", 6.0, "929ea8bf906ae81c"),
    "drawing.mcq": ((150, 90), "RGB", 4.0, ""),
    "lossless.mcq": ((91, 55), "RGBA", None, ""),
    "lossless-grey-alpha.mcq": ((91, 55), "LA", None, ""),
    "tiles.mcq": ((300, 280), "RGB", 3.0, "6f2e381ded2e9657"),
    "tiles-page.mcq": ((800, 120), "RGBA", 5.0, "b1dcc89d08554df8"),
    "tiles-lossless.mcq": ((300, 60), "LA", None, ""),
    "metadata.mcq": ((48, 32), "RGB", 2.0, "a378aebf17522785"),
}


def codes_digest(path: Path) -> str:
    """SHA-256 over codes, little-endian int16, and classes of a file, bank by bank; nothing where all are exact."""
    parsed = container.read(io.BytesIO(path.read_bytes()))
    if not parsed.header.learned:
        return ""
    decoder = loading.load_decoder(parsed.header.model)
    digest = hashlib.sha256()
    for number, tile in enumerate(parsed.tiles):
        if tile is None or tile.codes is None:
            continue
        coded = decoding.read_codes(parsed, number, decoder)
        for codes, classes in zip(coded.codes, coded.classes, strict=True):
            digest.update(codes[0].numpy().astype("<i2").tobytes() + classes[0].numpy().tobytes())
    return digest.hexdigest()[:16]


def all_digests() -> dict[str, str]:
    return {name: codes_digest(GOLDEN / name) for name in FILES}


EXPECTED = {name: facts[3] for name, facts in FILES.items()}


# grey levels that a sample may be off the picture made in float32, and all of them in the mean: processors sum bfloat16
# in different orders and round at different places
TOLERANCES = {"float32": (1, 0.01), "bfloat16": (6, 1.0), "int8": (6, 1.0)}
WILD = {"escapes.mcq": 2}  # times as much where contrasts are stronger than in any photo


PRECISIONS = [
    "float32",
    "bfloat16",
    pytest.param("int8", marks=pytest.mark.skipif(not int8_native(torch.device("cpu")), reason="no VNNI")),
]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", FILES)
def test_file_decodes_to_its_picture(name: str, precision: str) -> None:
    size, mode, quality, _ = FILES[name]
    runtime.configure(precision=precision)
    with Image.open(GOLDEN / name) as image:
        assert (image.size, image.mode, image.info.get("quality")) == (size, mode, quality)
        decoded = np.asarray(image).astype(int)
    with Image.open(GOLDEN / Path(name).with_suffix(".png")) as image:
        expected = np.asarray(image)
    assert decoded.shape == expected.shape
    error = abs(decoded - expected)
    most, usual = TOLERANCES[precision]
    assert error.max() <= most * WILD.get(name, 1)
    assert error.mean() <= usual


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_codes_on_threads_and_precisions(threads: int, precision: str) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    runtime.configure(precision=precision)
    try:
        assert all_digests() == EXPECTED
    finally:
        torch.set_num_threads(before)


def test_codes_whatever_the_caller_set_for_torch() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert all_digests() == EXPECTED
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_codes_on_instruction_sets(name: str) -> None:
    code = "from tests.test_golden import all_digests; print(all_digests())"
    env = {**os.environ, **INSTRUCTION_SETS[name]}
    root = Path(__file__).parent.parent
    out = subprocess.run([sys.executable, "-c", code], env=env, cwd=root, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == str(EXPECTED)


@pytest.mark.cuda
def test_cuda_and_cpu_read_each_other(small: Image.Image) -> None:
    pixels = np.asarray(small)
    files, pictures = {}, {}
    for device in ("cpu", "cuda"):
        runtime.configure(device=device)
        files[device] = codec.encode(pixels)
    for reader in ("cpu", "cuda"):
        runtime.configure(device=reader)
        assert all_digests() == EXPECTED
        for writer, data in files.items():
            pictures[writer, reader] = codec.decode(data).astype(int)
    for writer in files:
        assert abs(pictures[writer, "cpu"] - pictures[writer, "cuda"]).max() <= 3  # products in another order
