"""Weights for qualities 1 to 8 (f610fc22 and before) -> weights for 1 to 10, with escapes; networks stay as they are.

    python tools/extend_model.py f610fc22.safetensors PHOTOS FOLDER

Rows of per-quality tables go on as rows 6 to 8 went: a new row is so many times half the difference of rows 6 and 8
behind row 8.  The numbers are those that reached a SSIMULACRA2 in the fewest bytes on val (docs/log/training-log.md,
2026-12-01).  What escapes cost is counted on crops of training photos; all other tables stay, so files of qualities up
to 8 differ from those of the old weights by a few bytes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from pathlib import Path

import numpy as np

from pillow_mcquic.bitstream.coding_order import Bank
from pillow_mcquic.bitstream.tables import normalise_counts, pack_counts
from pillow_mcquic.engine.bundle import (
    ESCAPE_TABLES,
    TABLES,
    Arrays,
    DecoderBundle,
    EncoderBundle,
    dump_config,
    read_decoder,
    read_encoder,
    save,
)
from pillow_mcquic.engine.device import Device
from pillow_mcquic.engine.encoder import Encoder
from pillow_mcquic.model.config import Config, EncoderConfig
from pillow_mcquic.model.distortion import Distortion
from pillow_mcquic.quality import HIGHEST, LOWEST, STEPS, Quality
from pillow_mcquic.training import data, export
from pillow_mcquic.weights_files import ENCODER_SUFFIX

PER_QUALITY = re.compile(r"(^|\.)(log_gain(\.\d)?|hidden_bias|class_bias|class_3)$")  # names of tables
# how far rows 9 and 10 go: the banks of level 1, and everything else
STEPS_OF_ROWS = "1.7,1.6,1.25,1.0,0.8,1.2", "3.8,3.4,2.9,2.4,2.0,2.8"


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
    parser.add_argument("photos", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--row-9", default=STEPS_OF_ROWS[0])
    parser.add_argument("--row-10", default=STEPS_OF_ROWS[1])
    parser.add_argument("--lambda-highest", type=float, default=Distortion.lambda_highest)
    parser.add_argument("--crops", type=int, default=600)
    args = parser.parse_args()
    steps = [[float(number) for number in row.split(",")] for row in (args.row_9, args.row_10)]
    decoder, encoder = read_decoder(args.weights), read_encoder(args.weights.with_suffix(ENCODER_SUFFIX))
    config = Config.from_dict(json.loads(decoder.config))
    config = dataclasses.replace(config, qualities=config.qualities + len(steps))
    of_encoder = EncoderConfig.from_dict(json.loads(encoder.config))
    distortion = dataclasses.replace(of_encoder.distortion, lambda_highest=args.lambda_highest)
    of_encoder = dataclasses.replace(of_encoder, distortion=distortion)
    banks = [config.banks[number] for number in config.banks_of(1)]

    def longer(arrays: Arrays) -> Arrays:
        return {
            name: lengthen(name, array, banks, steps) if PER_QUALITY.search(name) else array
            for name, array in arrays.items()
        }

    arrays, encoder_arrays = longer(decoder.arrays), longer(encoder.arrays)
    prior = {
        ESCAPE_TABLES.format(number): np.tile(export.ESCAPE_PRIOR, (config.classes, 1))
        for number in range(len(config.banks))
    }
    arrays |= {name: pack_counts(normalise_counts(table)) for name, table in prior.items()}
    bundle = DecoderBundle(b"", dump_config(config), arrays)
    deployed = Encoder(EncoderBundle(bundle, dump_config(of_encoder), encoder_arrays), Device.choose("cpu"))
    shapes = {name: table.shape for name, table in prior.items()}
    for number, bank in enumerate(bundle.tables):
        shapes |= {f"{TABLES}{number}.{stage}": tables.counts.shape for stage, tables in enumerate(bank.stages)}
    counter = export.TableCounter(shapes)
    photos, rng = data.load_photos(str(args.photos), 512) if args.crops else [], np.random.default_rng(0)
    for done in range(args.crops):
        crop = np.ascontiguousarray(data.random_crop(photos[int(rng.integers(len(photos)))], (512, 512), 0.5, rng))
        quality = Quality(int(rng.integers(LOWEST * STEPS, HIGHEST * STEPS + 1)))
        counter.add(export.encode(deployed, crop, quality))
        if (done + 1) % 50 == 0:
            print(f"# counted {done + 1}/{args.crops} crops", flush=True)
    for name, table in prior.items():
        arrays[name] = pack_counts(normalise_counts(counter.counts[name] + export.PRIOR_WEIGHT * table))
    args.folder.mkdir(parents=True, exist_ok=True)
    print(save(args.folder, (config, arrays), (of_encoder, encoder_arrays), encoder.metadata["settings"]))


if __name__ == "__main__":
    main()
