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


# file: size, mode, quality (None: lossless), first 16 hex digits of the SHA-256 over the codes of levels 1, 2 and 3
FILES = {
    "one-pixel.mcq": ((1, 1), "RGB", 4.0, "d7bf6bcd4fa06b25"),
    "low.mcq": ((128, 112), "RGB", 1.0, "39de63ff6eb77843"),
    "fraction.mcq": ((97, 77), "RGB", 4.30078125, "8b340fa97f63b577"),
    "high.mcq": ((128, 112), "RGB", 8.0, "21bdd4d117270b34"),
    "grey.mcq": ((128, 112), "L", 5.0, "67efabd6f8197d14"),
    "grey-alpha.mcq": ((65, 33), "LA", 3.0, "1adb6bd720ef2eef"),
    "alpha.mcq": ((128, 112), "RGBA", 6.5, "ce345a0e44e63260"),
    "runs.mcq": ((640, 480), "RGB", 1.0, "b79716b0afa7443a"),
    "alpha-rows.mcq": ((48, 40), "RGBA", 2.0, "1e51b6d1b4a15780"),
    "alpha-vp8l.mcq": ((48, 40), "LA", 2.0, "62e4dc22fe63b4a5"),
    "page-box.mcq": ((128, 112), "RGB", 6.0, "dca5c36d9f8245e8"),
    "page.mcq": ((200, 120), "RGB", 5.0, "2543d58b9cbac65e"),
    "page-grey.mcq": ((200, 120), "L", 3.0, "4996b9e5fd7e15f8"),
    "page-alpha.mcq": ((200, 120), "RGBA", 6.0, "db7a147a7af25709"),
    "drawing.mcq": ((150, 90), "RGB", 4.0, ""),
    "lossless.mcq": ((91, 55), "RGBA", None, ""),
    "lossless-grey-alpha.mcq": ((91, 55), "LA", None, ""),
    "tiles.mcq": ((300, 280), "RGB", 3.0, "151739b192889cd9"),
    "tiles-page.mcq": ((800, 120), "RGBA", 5.0, "aab2b31d208c1ab8"),
    "tiles-lossless.mcq": ((300, 60), "LA", None, ""),
    "metadata.mcq": ((48, 32), "RGB", 2.0, "96b3c2af566aefe2"),
}


def codes_digest(path: Path) -> str:
    """SHA-256 over the little-endian int16 codes of a file; nothing where all squares are exact."""
    parsed = container.read(io.BytesIO(path.read_bytes()))
    if not parsed.header.learned:
        return ""
    decoder = loading.load_decoder(parsed.header.model)
    digest = hashlib.sha256()
    for number, tile in enumerate(parsed.tiles):
        if tile is None or tile.codes is None:
            continue
        codes = decoding.read_codes(parsed, number, decoder).codes
        for bank in [*codes[2:], codes[1], codes[0]]:  # level 1, then 2, then 3
            digest.update(bank[0].numpy().astype("<i2").tobytes())
    return digest.hexdigest()[:16]


def all_digests() -> dict[str, str]:
    return {name: codes_digest(GOLDEN / name) for name in FILES}


EXPECTED = {name: facts[3] for name, facts in FILES.items()}


# grey levels that a sample may be off the picture made in float32, and all of them in the mean: processors sum bfloat16
# in different orders and round at different places
TOLERANCES = {"float32": (1, 0.01), "bfloat16": (6, 1.0), "int8": (6, 1.0)}


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
    assert error.max() <= most
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
