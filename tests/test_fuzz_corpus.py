"""Inputs that the fuzzer found worth keeping (`python -m benchmarks.fuzz`) give a picture or an OSError, still."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import fuzzing

CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_kept_input(path: Path) -> None:
    fuzzing.one_input(path.read_bytes())
