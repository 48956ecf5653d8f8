"""Entropy coding: literal compressed words, round trips, cost, damage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pillow_mcquic.bitstream.entropy import Decoder, Encoder
from pillow_mcquic.bitstream.tables import BankTables, normalise_counts
from pillow_mcquic.errors import DamagedStreamError

CLASSES = 3
SIZES = (7,), (5, 256)  # codebooks of the stages of two banks of one group
Codes, Classes = list[NDArray[np.int16]], list[NDArray[np.uint8]]  # an entry for each bank


def tables(seed: int = 0) -> list[BankTables]:
    """Of two banks: one of one stage, one of two stages."""
    rng = np.random.default_rng(seed)

    def table(contexts: int, k: int) -> NDArray[np.int32]:
        return normalise_counts(rng.dirichlet(np.full(k, 0.3), (1, contexts, CLASSES)) + 1e-9)

    return [BankTables([table(1, 7)]), BankTables([table(1, 5), table(2, 256)])]


def sample(seed: int, count: int) -> tuple[Codes, Classes]:
    rng = np.random.default_rng(seed)
    codes = [rng.integers(0, k, count) * (rng.random(count) < 0.5) for k in (7, 5, 256)]
    first, second, third = (stage.astype(np.int16) for stage in codes)
    classes = rng.integers(0, CLASSES, (2, count)).astype(np.uint8)
    return [first[None, None], np.stack([second, third])[None]], [classes[:1], classes[1:]]


def encode(codes: Codes, classes: Classes, banks: list[BankTables]) -> bytes:
    encoder = Encoder()
    for bank in zip(codes, classes, banks, strict=True):
        encoder.write(*bank)
    return encoder.finish()


def decode(data: bytes, classes: Classes, banks: list[BankTables]) -> Codes:
    decoder = Decoder(data)
    codes = [decoder.read(own, tables) for own, tables in zip(classes, banks, strict=True)]
    decoder.finish()
    return codes


def equal(a: Codes, b: Codes) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_compressed_words_are_these() -> None:
    """Any change of the bitstream fails here; the format would need a new version."""
    rising = [
        normalise_counts(1.0 / np.arange(1, k + 1) * np.ones((1, contexts, CLASSES, 1)))
        for contexts, k in ((1, 7), (1, 5), (2, 256))
    ]
    position = np.arange(12)
    first, second, third = (c.astype(np.int16) for c in (position % 7, position // 3 % 5, position**3 % 256))
    classes = [(position % 3).astype(np.uint8)[None], (position % 2).astype(np.uint8)[None]]
    codes = [first[None, None], np.stack([second, third])[None]]
    data = encode(codes, classes, [BankTables(rising[:1]), BankTables(rising[1:])])
    assert data.hex() == "2dd4294f0196caf1778305fc0f8d0c484072c29d"


def near_certain_tables(groups: int = 1) -> list[BankTables]:
    """A bank of two stages; tables of class 0 are almost sure of code 0, of class 1 nearly so, of class 2 not."""
    others = np.array([1e-6, 8e-4, 0.5])[:, None]
    sure = [np.concatenate([1 - others, np.repeat(others / (k - 1), k - 1, 1)], 1) for k in (5, 256)]
    stages = [np.stack([np.stack([sure[stage]] * (stage + 1))] * groups) for stage in (0, 1)]
    return [BankTables([normalise_counts(stage) for stage in stages])]


def mostly_zeros(count: int) -> tuple[Codes, Classes]:
    """Code 0 but for every 700th position."""
    position = np.arange(count)
    codes = np.stack([position % 700 == 699, (position % 700 == 350) * 255]).astype(np.int16)
    return [codes[None]], [(position % 8 // 3).astype(np.uint8)[None]]


def test_runs_of_zeros_are_these_words() -> None:
    codes, classes = mostly_zeros(1100)
    assert encode(codes, classes, near_certain_tables()).hex() == (
        "e6cac3f384be1f0700000000000000000000000000000000000000000000000000000000d9dc9d9480b1b86800000000"
        "06270200f02fc0ae0000000000000000000000000000000000000000"
    )


@pytest.mark.parametrize("count", [1, 8 * 103 + 6, 8 * 104, 8 * 104 + 4, 5000])  # 311 positions are a run of class 1
def test_runs_of_zeros_come_back(count: int) -> None:
    codes, classes = mostly_zeros(count)
    data = encode(codes, classes, near_certain_tables())
    assert equal(decode(data, classes, near_certain_tables()), codes)


def test_silence_costs_what_its_tables_say() -> None:
    """A short file cannot claim a large picture: a run is never cheaper than its positions one by one."""
    banks, count = near_certain_tables(groups=100), 20000
    classes, codes = [np.ones((100, count), np.uint8)], [np.zeros((100, 2, count), np.int16)]
    probabilities = [float(group[0, 1, 0]) for stage in banks[0].stages for group in stage]
    ideal = sum(count * (24 - np.log2(p)) for p in probabilities) / 8
    assert ideal <= len(encode(codes, classes, banks)) <= ideal * 1.2


@given(st.integers(0, 2**32 - 1), st.integers(1, 400))
def test_what_is_encoded_is_decoded(seed: int, count: int) -> None:
    codes, classes = sample(seed, count)
    assert equal(decode(encode(codes, classes, tables(seed)), classes, tables(seed)), codes)


def test_banks_of_other_sizes_follow_each_other_in_one_stream() -> None:
    """Cheaper than a stream for each, by what every stream's end costs."""
    levels = [(*sample(1, 7), tables(1)), (*sample(2, 30), tables(2)), (*sample(3, 120), tables(3))]
    codes, classes, banks = ([bank for level in levels for bank in level[part]] for part in range(3))
    data = encode(codes, classes, banks)
    assert equal(decode(data, classes, banks), codes)
    assert len(data) < sum(len(encode(*level)) for level in levels)


def test_cost_is_the_information_plus_a_word_or_two() -> None:
    codes, classes = sample(2, 5000)
    (first,), (second, third) = (bank.stages for bank in tables())
    context = (codes[1][0, 0] != 0).astype(int)
    counts = (
        first[0, 0, classes[0][0], codes[0][0, 0]],
        second[0, 0, classes[1][0], codes[1][0, 0]],
        third[0, context, classes[1][0], codes[1][0, 1]],
    )
    ideal = float(sum((24 - np.log2(c.astype(float))).sum() for c in counts)) / 8
    assert ideal <= len(encode(codes, classes, tables())) <= ideal * 1.0001 + 8


NOISE = {
    "no runs": (tables(), sample(3, 50)[1], SIZES),
    "runs": (near_certain_tables(), mostly_zeros(2000)[1], ((5, 256),)),
}


@pytest.mark.parametrize("kind", NOISE)
@given(data=st.binary(max_size=400))
def test_noise_decodes_or_says_damaged(kind: str, data: bytes) -> None:
    banks, classes, sizes = NOISE[kind]
    try:
        found = decode(data, classes, banks)
    except DamagedStreamError:
        return
    for codes, own, stages in zip(found, classes, sizes, strict=True):
        assert codes.shape == (1, len(stages), own.shape[1])
        assert (codes >= 0).all()
        assert (codes < np.array(stages)[:, None]).all()


def test_trailing_words_are_noticed() -> None:
    codes, classes = sample(4, 50)
    data = encode(codes, classes, tables())
    with pytest.raises(DamagedStreamError, match="end"):
        decode(data + b"\x01\x02\x03\x04" * 3, classes, tables())
