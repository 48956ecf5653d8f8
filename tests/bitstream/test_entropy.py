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
ESCAPES = normalise_counts(np.tile(np.append(0.999, 0.001 / 2.0 ** np.arange(1, 9)), (CLASSES, 1)))
Codes, Classes = list[NDArray[np.int16]], list[NDArray[np.uint8]]  # an entry for each bank


def tables(seed: int = 0) -> list[BankTables]:
    """Of two banks: one of one stage, one of two stages."""
    rng = np.random.default_rng(seed)

    def table(contexts: int, k: int) -> NDArray[np.int32]:
        return normalise_counts(rng.dirichlet(np.full(k, 0.3), (1, contexts, CLASSES)) + 1e-9)

    return [BankTables([table(1, 7)], ESCAPES), BankTables([table(1, 5), table(2, 256)], ESCAPES)]


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


def decode_with_classes(data: bytes, classes: Classes, banks: list[BankTables]) -> tuple[Codes, Classes]:
    """classes: without escapes."""
    decoder = Decoder(data)
    found = [decoder.read(own, tables) for own, tables in zip(classes, banks, strict=True)]
    decoder.finish()
    return [codes for codes, _ in found], [own for _, own in found]


def decode(data: bytes, classes: Classes, banks: list[BankTables]) -> Codes:
    codes, found = decode_with_classes(data, classes, banks)
    assert equal(found, classes)
    return codes


def equal(a: Codes | Classes, b: Codes | Classes) -> bool:
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
    data = encode(codes, classes, [BankTables(rising[:1], ESCAPES), BankTables(rising[1:], ESCAPES)])
    assert data.hex() == "eb36374a3391b313ec869e8d57a1cae86bb11957"


def near_certain_tables(groups: int = 1) -> list[BankTables]:
    """A bank of two stages; tables of class 0 are almost sure of code 0, of class 1 nearly so, of class 2 not."""
    others = np.array([1e-6, 8e-4, 0.5])[:, None]
    sure = [np.concatenate([1 - others, np.repeat(others / (k - 1), k - 1, 1)], 1) for k in (5, 256)]
    stages = [np.stack([np.stack([sure[stage]] * (stage + 1))] * groups) for stage in (0, 1)]
    return [BankTables([normalise_counts(stage) for stage in stages], ESCAPES)]


def mostly_zeros(count: int) -> tuple[Codes, Classes]:
    """Code 0 but for every 700th position."""
    position = np.arange(count)
    codes = np.stack([position % 700 == 699, (position % 700 == 350) * 255]).astype(np.int16)
    return [codes[None]], [(position % 8 // 3).astype(np.uint8)[None]]


def test_runs_of_zeros_are_these_words() -> None:
    codes, classes = mostly_zeros(1100)
    assert encode(codes, classes, near_certain_tables()).hex() == (
        "378e87e4d065378b00000000000000000000000000000000000000000000000000000000984a348b30a0806400000000"
        "38030200407914280000000000000000000000000000000000000000"
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
    probabilities = [float(group[0, 1, 0]) for stage in banks[0].stages for group in stage.counts]
    ideal = sum(count * (24 - np.log2(p)) for p in probabilities) / 8
    assert ideal <= len(encode(codes, classes, banks)) <= ideal * 1.2


def escaping(classes: Classes, every: int) -> Classes:
    """Every so many vectors escape, 1 to 8 times in turn."""
    position = np.arange(classes[0].size)
    escapes = np.where(position % every == 0, 1 + position // every % 8, 0).astype(np.uint8)
    return [own + escapes.reshape(own.shape) * np.uint8(CLASSES) for own in classes]


def test_escapes_are_these_words() -> None:
    codes, classes = mostly_zeros(64)
    assert encode(codes, escaping(classes, 20), near_certain_tables()).hex() == "8ae9fdffc1975d0f9e4db074"


@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.integers(1, 50))
def test_escapes_come_back_with_the_codes(seed: int, count: int, every: int) -> None:
    codes, classes = sample(seed, count)
    found = decode_with_classes(encode(codes, escaping(classes, every), tables(seed)), classes, tables(seed))
    assert equal(found[0], codes)
    assert equal(found[1], escaping(classes, every))


def test_what_escapes_has_the_tables_of_the_last_class() -> None:
    codes, classes = sample(5, 300)
    written, read = tables(1), tables(2)
    for ours, others in zip(written, read, strict=True):
        for stage, other in zip(ours.stages, others.stages, strict=True):
            other.counts[:, :, -1] = stage.counts[:, :, -1]
    data = encode(codes, escaping(classes, 1), written)
    assert equal(decode_with_classes(data, classes, read)[0], codes)


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
    (first,), (second, third) = ([stage.counts for stage in bank.stages] for bank in tables())
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
        found, _ = decode_with_classes(data, classes, banks)
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
