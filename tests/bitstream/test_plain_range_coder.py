"""The range coder in plain Python: the package's words, verdicts and ends, whatever the symbols and the words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pillow_mcquic.bitstream import plain_range_coder
from pillow_mcquic.bitstream.tables import normalise_counts

from ..test_golden import EXPECTED

constriction = pytest.importorskip("constriction")
ROOT = Path(__file__).parent.parent.parent

seeds = st.integers(0, 2**32 - 1)


def tables(seed: int, count: int) -> list[NDArray[np.int32]]:
    """Counts of all sorts: nearly certain, uneven, even."""
    rng = np.random.default_rng(seed)
    return [
        normalise_counts(rng.dirichlet(np.full(rng.integers(2, 300), rng.choice([0.01, 0.3, 9]))) + 1e-9)
        for _ in range(count)
    ]


def packages(counts: NDArray[np.int32]) -> Any:
    return constriction.stream.model.Categorical(counts.astype(np.float32) - np.float32(1), perfect=False)


@given(seeds, st.integers(0, 4), st.integers(0, 200))
def test_words_are_the_packages(seed: int, runs: int, length: int) -> None:
    rng = np.random.default_rng(seed)
    theirs, ours = constriction.stream.queue.RangeEncoder(), plain_range_coder.RangeEncoder()
    coded = []
    for counts in tables(seed, runs):
        likely = rng.random() < 0.5
        symbols = rng.choice(len(counts), length, p=counts / 2**24 if likely else None).astype(np.int32)
        coded.append((plain_range_coder.Categorical(counts), symbols))
        theirs.encode(symbols, packages(counts))
        ours.encode(symbols, coded[-1][0])
    words = ours.get_compressed()
    assert np.array_equal(words, theirs.get_compressed())
    decoder = plain_range_coder.RangeDecoder(words)
    assert all(np.array_equal(decoder.decode(model, length), symbols) for model, symbols in coded)
    assert decoder.maybe_exhausted()


def test_a_carry_goes_through_all_words_of_ones() -> None:
    """Symbols that close in on a number just above a quarter: at first the lower end is just below."""
    thirds = np.array([5592405, 5592406, 5592405], np.int32)
    model = plain_range_coder.Categorical(thirds)
    decoder = plain_range_coder.RangeDecoder(np.array([1 << 30, *[0] * 8, 5], np.uint32))
    theirs, ours, first_words = constriction.stream.queue.RangeEncoder(), plain_range_coder.RangeEncoder(), set[int]()
    for _ in range(205):
        symbol = decoder.decode(model)
        theirs.encode(symbol, packages(thirds))
        ours.encode(symbol, model)
        words = ours.get_compressed()
        assert np.array_equal(words, theirs.get_compressed())
        first_words.add(int(words[0]))
    assert (1 << 30) - 1 in first_words
    assert words[:9].tolist() == [1 << 30, *[0] * 8]


@given(st.lists(st.sampled_from([0, 1, 2**31, 2**32 - 2, 2**32 - 1]) | st.integers(0, 2**32 - 1), max_size=12), seeds)
def test_any_words_get_the_packages_verdict(words: list[int], seed: int) -> None:
    given = np.array(words, np.uint32)
    theirs, ours = constriction.stream.queue.RangeDecoder(given), plain_range_coder.RangeDecoder(given)
    for counts in tables(seed, 30):
        try:
            expected = theirs.decode(packages(counts))
        except (AssertionError, KeyError, ValueError):
            with pytest.raises(ValueError, match="no symbol"):
                ours.decode(plain_range_coder.Categorical(counts))
            return
        assert ours.decode(plain_range_coder.Categorical(counts)) == expected
        assert ours.maybe_exhausted() == theirs.maybe_exhausted()


WITHOUT = """
import sys
sys.modules["constriction"] = None  # as if it were not installed
import warnings
warnings.simplefilter("always")
import io
from PIL import Image
import pillow_mcquic
from pillow_mcquic import cli
from tests.test_golden import all_digests
print(all_digests())
image = Image.open("tests/images/parrots.png").crop((300, 80, 400, 180))
files = [io.BytesIO() for _ in range(2)]
for file in files:
    image.save(file, "MCQ", quality=9)
assert files[0].getvalue() == files[1].getvalue()
print(files[0].getvalue().hex())
cli.main(["version"])
"""


def test_without_the_package_files_are_the_same_and_it_is_said_once(tmp_path: Path) -> None:
    def output(code: str) -> tuple[list[str], str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines(), done.stderr

    without, said = output(WITHOUT)
    usual, _ = output(WITHOUT.replace('sys.modules["constriction"]', "_"))
    assert without[0] == usual[0] == str(EXPECTED)
    assert without[1] == usual[1]
    assert said.count("constriction is not installed") == 1
    assert any("constriction is not installed" in line for line in without[2:])
    assert any(line.startswith("constriction 0.") for line in usual[2:])
