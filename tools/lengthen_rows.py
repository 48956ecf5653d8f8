"""Weights for qualities 9 and 10 from weights for 1 to 8: rows of per-quality tables go on as rows 6 to 8 went.

    python tools/lengthen_rows.py pillow_mcquic/weights/OLD.safetensors FOLDER

A row is so many times half the difference of rows 6 and 8 behind row 8.  Nothing else changes, so files of qualities up
to 8 stay the same but for the model's id.  The numbers are those that reached a SSIMULACRA2 in the fewest bytes on val
(docs/log/training-log.md, 2026-11-30): the banks of level 1 whose codewords end first go on more slowly.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from pathlib import Path

import numpy as np

from pillow_mcquic.bitstream.coding_order import Bank
from pillow_mcquic.engine.bundle import Arrays, read_decoder, read_encoder, save
from pillow_mcquic.model.config import Config, EncoderConfig
from pillow_mcquic.weights_files import ENCODER_SUFFIX

PER_QUALITY = re.compile(r"(^|\.)(log_gain(\.\d)?|hidden_bias|class_bias|class_3)$")  # names of tables
# how far rows 9 and 10 go: the banks of level 1, and everything else
STEPS = "1.2,1.2,1.2,1.2,1.2,1.2", "3.4,3.4,2.4,2.4,2.4,2.4"


def lengthen(name: str, table: np.ndarray, banks: list[Bank], steps: list[list[float]]) -> np.ndarray:
    """A table (qualities, columns) with a row more for each of `steps`."""
    rows, known = [table.astype(np.float64)], table.astype(np.float64)
    one = np.zeros_like(known[-1]) if "hyper_analysis" in name else (known[-1] - known[-3]) / 2
    for of_banks in steps:
        far = np.full(len(one), of_banks[-1])
        if name in ("log_gain.1", "entropy_model.hyper.1.class_bias"):
            sizes = [bank.channels if name == "log_gain.1" else bank.groups for bank in banks]
            far[: sum(sizes)] = np.repeat(of_banks[:-1], sizes)
        rows.append((known[-1] + far * one)[None])
    whole = np.concatenate(rows)
    return (np.round(whole) if table.dtype.kind == "i" else whole).astype(table.dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--row-9", default=STEPS[0])
    parser.add_argument("--row-10", default=STEPS[1])
    args = parser.parse_args()
    steps = [[float(number) for number in row.split(",")] for row in (args.row_9, args.row_10)]
    decoder, encoder = read_decoder(args.weights), read_encoder(args.weights.with_suffix(ENCODER_SUFFIX))
    config = Config.from_dict(json.loads(decoder.config))
    banks = [config.banks[number] for number in config.banks_of(1)]

    def longer(arrays: Arrays) -> Arrays:
        return {
            name: lengthen(name, array, banks, steps) if PER_QUALITY.search(name) else array
            for name, array in arrays.items()
        }

    of_decoder = dataclasses.replace(config, qualities=config.qualities + len(steps)), longer(decoder.arrays)
    of_encoder = EncoderConfig.from_dict(json.loads(encoder.config)), longer(encoder.arrays)
    args.folder.mkdir(parents=True, exist_ok=True)
    print(save(args.folder, of_decoder, of_encoder, encoder.metadata["settings"]))


if __name__ == "__main__":
    main()
