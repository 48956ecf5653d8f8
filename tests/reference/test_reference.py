"""The reference decoder and the engine: the same pictures, previews and verdicts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pillow_mcquic import codec, weights_files
from pillow_mcquic.adapters.torch import read_codes
from pillow_mcquic.bitstream import container
from pillow_mcquic.bitstream.file_header import Header
from pillow_mcquic.errors import NotMcqError
from pillow_mcquic.quality import Quality
from pillow_mcquic.reference import decode, weights

from ..conftest import to_bytes
from ..files import file_of
from ..fuzzing import mutations, whole_file
from ..test_fuzz_corpus import CORPUS
from ..test_golden import FILES, GOLDEN
from .writer import code_stream

pytestmark = pytest.mark.usefixtures("float32")


def both(data: bytes, scale: int = 1) -> list[np.ndarray | str]:
    """What the reference decoder and the engine make of a file, or "not ours", or "damaged"."""
    found: list[np.ndarray | str] = []
    for decoder in (lambda: decode(data, scale), lambda: codec.decode(data, scale=scale)):
        try:
            found.append(decoder().astype(int))
        except NotMcqError:
            found.append("not ours")
        except OSError as error:
            found.append("damaged" if str(error) else "not said why")
    return found


def assert_alike(data: bytes, scale: int = 1, within: int = 1) -> None:
    ours, engines = both(data, scale)
    if isinstance(ours, str) or isinstance(engines, str):
        assert (ours, type(ours)) == (engines, str)
        return
    assert ours.shape == engines.shape
    assert abs(ours - engines).max() <= within


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
@pytest.mark.parametrize("name", FILES)
def test_golden_files_are_the_same_within_a_level(name: str, scale: int) -> None:
    assert_alike((GOLDEN / name).read_bytes(), scale)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("quality", [1, 2.7, 5, 8.4, 10])
def test_pictures_are_the_same_within_a_level(photo: Image.Image, mode: str, quality: float) -> None:
    place = int(10 * quality)
    image = photo.crop((place, 60, place + 97, 60 + 6 * place + 5))
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    assert_alike(to_bytes(image.convert(mode), quality=quality))


@pytest.mark.parametrize("name", ["high.mcq", "page-alpha.mcq", "tiles-page.mcq", "lossless.mcq", "metadata.mcq"])
def test_damaged_files_get_the_same_verdict(name: str) -> None:
    for damaged in mutations((GOLDEN / name).read_bytes(), 60, seed=1):
        assert_alike(damaged)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_what_a_fuzzer_found_gets_the_same_verdict(path: Path) -> None:
    """Codes of noise make pixels far beyond black and white, whose rounding shows."""
    data = path.read_bytes()
    assert_alike(data[1:] if data[:1] and data[0] % 2 else whole_file(data[1:]), within=3)


CHOICES = {
    "zero": lambda rng, shape, k: np.zeros(shape, np.int64),
    "uniform": lambda rng, shape, k: rng.integers(0, k, shape),
    "seldom": lambda rng, shape, k: rng.integers(0, k, shape) * (rng.random(shape) < 0.002),
    "last": lambda rng, shape, k: np.full(shape, k - 1),
}


@pytest.mark.parametrize("quality", [256, 900, 2560])
@pytest.mark.parametrize("choice", CHOICES)
def test_streams_that_no_encoder_makes_are_read_alike(choice: str, quality: int) -> None:
    rng, size, model = np.random.default_rng(quality), (77, 53), weights_files.default_id()
    known = weights.read(weights_files.find_decoder(model))
    stream, chosen = code_stream(known, quality, size, lambda shape, k: CHOICES[choice](rng, shape, k))
    header = Header(*size, "RGB", Quality(quality), model, False)
    data = file_of(header, {container.CODES: stream})
    found = read_codes(data)
    for level in (1, 2, 3):
        escapes = np.concatenate([chosen[number][1] for number in known.banks_of(level)])
        assert np.array_equal(found[level][:, -1], escapes)
        groups = 0
        for number in known.banks_of(level):
            codes = chosen[number][0]
            assert np.array_equal(found[level][groups : groups + len(codes), : codes.shape[1]], codes)
            groups += len(codes)
    assert_alike(data)


def test_it_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['constriction'] = None\n"
        "from pillow_mcquic.reference import decode\n"
        f"print(decode(open({str(GOLDEN / 'page.mcq')!r}, 'rb').read()).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(120, 200, 3)"
