"""The range coder: exact probabilities, literal words, damage."""

from __future__ import annotations

import numpy as np
import pytest

from pillow_mcquic.bitstream.range_coder import TOTAL, RangeDecoder, RangeEncoder, categorical
from pillow_mcquic.errors import DamagedStreamError


def test_symbols_come_back_from_these_words() -> None:
    model = categorical(np.array([TOTAL - 300, 200, 100], np.int32))
    encoder = RangeEncoder()
    encoder.encode(1, model)
    encoder.encode(np.array([0, 0, 2], np.int32), model)
    data = encoder.finish()
    assert data.hex() == "fd9bffff28b9e0d9"
    decoder = RangeDecoder(data)
    assert decoder.decode(model) == 1
    assert decoder.decode(model, 3).tolist() == [0, 0, 2]
    decoder.finish()


def test_a_stream_is_whole_words() -> None:
    with pytest.raises(DamagedStreamError, match="32-bit"):
        RangeDecoder(b"abc")


def test_a_stream_that_goes_on_is_damaged() -> None:
    with pytest.raises(DamagedStreamError, match="end"):
        RangeDecoder(b"\x01\x02\x03\x04" * 5).finish()
