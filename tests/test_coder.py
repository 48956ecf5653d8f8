"""Entropy coding: exact tables, literal compressed words, round trips, cost, damage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pillow_mcquic import coder

CLASSES = 3


def tables(seed: int = 0) -> coder.LevelTables:
    """Two groups: one of one stage, one of two stages."""
    rng = np.random.default_rng(seed)

    def table(contexts: int, k: int) -> NDArray[np.int32]:
        return coder.normalise_counts(rng.dirichlet(np.full(k, 0.3), (contexts, CLASSES)) + 1e-9)

    return coder.LevelTables([[table(1, 7)], [table(1, 5), table(2, 256)]])


def sample(seed: int, count: int) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, k, count) * (rng.random(count) < 0.5) for k in (7, 5, 256)])
    return codes.astype(np.int16), rng.integers(0, CLASSES, (2, count)).astype(np.uint8)


def encode(codes: NDArray[np.int16], classes: NDArray[np.uint8], tables: coder.LevelTables) -> bytes:
    encoder = coder.Encoder()
    encoder.write(codes, classes, tables)
    return encoder.finish()


def decode(data: bytes, classes: NDArray[np.uint8], tables: coder.LevelTables) -> NDArray[np.int16]:
    decoder = coder.Decoder(data)
    codes = decoder.read(classes, tables)
    decoder.finish()
    return codes


def test_compressed_words_are_these() -> None:
    """Any change of the bitstream fails here; the format would need a new version."""
    rising = [
        coder.normalise_counts(1.0 / np.arange(1, k + 1) * np.ones((contexts, CLASSES, 1))) for contexts, k in SHAPES
    ]
    position = np.arange(12)
    codes = np.stack([position % 7, position // 3 % 5, position**3 % 256]).astype(np.int16)
    classes = np.stack([position % 3, position % 2]).astype(np.uint8)
    data = encode(codes, classes, coder.LevelTables([rising[:1], rising[1:]]))
    assert data.hex() == GOLDEN


SHAPES = ((1, 7), (1, 5), (2, 256))
GOLDEN = "2dd4294f0196caf1778305fc0f8d0c484072c29d"


def quiet_tables() -> coder.LevelTables:
    """One group of two stages; tables of class 0 are almost sure of word 0, of class 1 nearly so, of class 2 not."""
    others = np.array([1e-6, 8e-4, 0.5])[:, None]
    sure = [np.concatenate([1 - others, np.repeat(others / (k - 1), k - 1, 1)], 1) for k in (5, 256)]
    return coder.LevelTables([[coder.normalise_counts(sure[0][None]), coder.normalise_counts(np.stack([sure[1]] * 2))]])


def quiet_sample(count: int) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Word 0 but for every 700th position."""
    position = np.arange(count)
    codes = np.stack([position % 700 == 699, (position % 700 == 350) * 255]).astype(np.int16)
    return codes, (position % 8 // 3).astype(np.uint8)[None]


def test_runs_of_word_0_are_these_words() -> None:
    codes, classes = quiet_sample(1100)
    assert encode(codes, classes, quiet_tables()).hex() == GOLDEN_RUNS


GOLDEN_RUNS = (
    "5a3e5df3ec96ea4a00000000000000000000000000000000000000000000000000000000a6ae1c95f0cc6af600000000"
    "03290200689d90ef0000000000000000000000000000000000000000"
)


@pytest.mark.parametrize("count", [1, 8 * 103 + 6, 8 * 104, 8 * 104 + 4, 5000])  # 311 positions are a run of class 1
def test_runs_of_word_0_come_back(count: int) -> None:
    codes, classes = quiet_sample(count)
    data = encode(codes, classes, quiet_tables())
    assert np.array_equal(decode(data, classes, quiet_tables()), codes)


def test_silence_costs_what_its_tables_say() -> None:
    """A short file cannot claim a large picture: a run is never cheaper than its positions one by one."""
    many = coder.LevelTables(quiet_tables().groups * 100)
    count = 20000
    classes, codes = np.ones((100, count), np.uint8), np.zeros((200, count), np.int16)
    ideal = sum(count * (24 - np.log2(float(stage[0, 1, 0]))) for stages in many.groups for stage in stages) / 8
    assert ideal <= len(encode(codes, classes, many)) <= ideal * 1.2


@given(st.integers(0, 2**32 - 1), st.integers(1, 400))
def test_what_is_encoded_is_decoded(seed: int, count: int) -> None:
    codes, classes = sample(seed, count)
    data = encode(codes, classes, tables(seed))
    assert np.array_equal(decode(data, classes, tables(seed)), codes)


def test_groups_may_be_read_one_by_one() -> None:
    codes, classes = sample(5, 300)
    decoder = coder.Decoder(encode(codes, classes, tables()))
    assert np.array_equal(decoder.read(classes[:1], tables()), codes[:1])
    assert np.array_equal(decoder.read(classes[1:], tables(), 1), codes[1:])
    decoder.finish()


def test_levels_follow_each_other_in_one_stream() -> None:
    """Of other sizes and tables each; cheaper than a stream for each by what every stream's end costs."""
    levels = [(*sample(1, 7), tables(1)), (*sample(2, 30), tables(2)), (*sample(3, 120), tables(3))]
    encoder = coder.Encoder()
    for level in levels:
        encoder.write(*level)
    data = encoder.finish()
    decoder = coder.Decoder(data)
    for codes, classes, mine in levels:
        assert np.array_equal(decoder.read(classes, mine), codes)
    decoder.finish()
    assert len(data) < sum(len(encode(*level)) for level in levels)


def test_cost_is_the_information_plus_a_word_or_two() -> None:
    codes, classes = sample(2, 5000)
    (first,), (second, third) = tables().groups
    busy = (codes[1] != 0).astype(int)
    counts = (first[0, classes[0], codes[0]], second[0, classes[1], codes[1]], third[busy, classes[1], codes[2]])
    ideal = float(sum((24 - np.log2(c.astype(float))).sum() for c in counts)) / 8
    assert ideal <= len(encode(codes, classes, tables())) <= ideal * 1.0001 + 8


@given(st.lists(st.floats(1e-12, 1e6), min_size=2, max_size=256))
def test_counts_sum_to_2_to_the_24_and_survive_packing(weights: list[float]) -> None:
    counts = coder.normalise_counts(np.array(weights))
    assert counts.min() >= 16
    assert counts.sum() == 1 << 24
    packed = coder.pack_counts(counts)
    assert packed.dtype == np.uint16
    assert np.array_equal(coder.unpack_counts(packed), counts)


def test_counts_follow_the_weights() -> None:
    assert coder.normalise_counts(np.array([2.0, 1.0, 1.0])).tolist() == [1 << 23, 1 << 22, 1 << 22]


@pytest.mark.parametrize(
    ("packed", "count"), [(16, 16), (8191, 8191), (8192, 8192), (8193, 8194), (12287, 16382), (12288, 16384)]
)
def test_packed_counts_are_short_floats(packed: int, count: int) -> None:
    """4 bits of exponent, 12 of mantissa; the largest count is what the others leave of 2^24."""
    assert coder.unpack_counts(np.array([65535, packed], np.uint16)).tolist() == [(1 << 24) - count, count]


@pytest.mark.parametrize("weights", [[8000000.0, 8000500.0, 1.0], [1.0, 1.0], [5.0, 5.0001, 5.0], [1.0] * 255])
def test_nearly_equal_largest_counts_survive_packing(weights: list[float]) -> None:
    counts = coder.normalise_counts(np.stack([np.array(weights), np.array(weights[::-1])]))
    assert counts.sum(-1).tolist() == [1 << 24] * 2
    assert np.array_equal(coder.unpack_counts(coder.pack_counts(counts)), counts)


@pytest.mark.parametrize("bad", [[65535, 65535], [65535, 15], [65535, 0]])
def test_counts_below_the_least_are_refused(bad: list[int]) -> None:
    with pytest.raises(ValueError, match="16777216"):
        coder.unpack_counts(np.array(bad, np.uint16))


NOISE = {  # tables, classes, K of the symbols
    "no runs": (tables(), sample(3, 50)[1], (7, 5, 256)),
    "runs": (quiet_tables(), quiet_sample(2000)[1], (5, 256)),
}


@pytest.mark.parametrize("kind", NOISE)
@given(data=st.binary(max_size=400))
def test_noise_decodes_or_says_damaged(kind: str, data: bytes) -> None:
    mine, classes, words = NOISE[kind]
    try:
        codes = decode(data, classes, mine)
    except coder.DamagedStreamError:
        return
    assert codes.shape == (len(words), classes.shape[1])
    assert (codes >= 0).all()
    assert (codes < np.array(words)[:, None]).all()


def test_a_stream_is_whole_words() -> None:
    _, classes = sample(3, 50)
    with pytest.raises(coder.DamagedStreamError, match="32-bit"):
        decode(b"abc", classes, tables())


def test_trailing_words_are_noticed() -> None:
    codes, classes = sample(4, 50)
    data = encode(codes, classes, tables())
    with pytest.raises(coder.DamagedStreamError, match="end"):
        decode(data + b"\x01\x02\x03\x04" * 3, classes, tables())
