"""Coverage-guided fuzzing of container and decoder: `python -m benchmarks.fuzz CORPUS -max_total_time=1800`.

Needs `pip install atheris` and a clone (the target is `tests/fuzzing.py`); arguments are libFuzzer's.  Whatever is
not a picture or an OSError with a sentence stops the run and is a bug.
"""

from __future__ import annotations

import sys

import atheris
import numpy as np

with atheris.instrument_imports(include=["pillow_mcquic"]):
    from pillow_mcquic import codec
    from tests import fuzzing

    codec.decode(codec.encode(np.zeros((8, 8, 3), np.uint8)))  # imports the engine here, and loads what is loaded once


def main() -> None:
    atheris.Setup(sys.argv, fuzzing.one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
