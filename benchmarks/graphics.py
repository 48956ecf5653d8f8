"""Bytes that screens, text, plots and art take beside the best of AVIF and WebP lossless, by kind.

For each SSIMULACRA2 of `TARGETS`: the fewest bytes of any of our settings that reaches it, over the fewest of any
setting of a peer that does.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from .rd import CODECS, Codec, Row, Rows, lossless, pillow

TARGETS = 50, 60, 70, 80, 90
AVIF_QUALITIES = 20, 28, 36, 44, 52, 60, 68, 76, 84, 92, 96
METRICS = ["psnr", "ssimulacra2"]


def peers() -> dict[str, Codec]:
    """The codecs whose best file is the measure."""
    return {
        "avif-420": pillow("AVIF", AVIF_QUALITIES, speed=6, subsampling="4:2:0"),
        "avif-444": pillow("AVIF", AVIF_QUALITIES, speed=6, subsampling="4:4:4"),
        "webp-lossless": CODECS["webp-lossless"](),
    }


def ours(settings: Iterable[float]) -> dict[str, Codec]:
    """Whole qualities, and lossless."""
    return {"mcq": pillow("MCQ", settings), "mcq-lossless": CODECS["mcq-lossless"]()}


def fewest(rows: list[Row], target: float) -> float:
    """Bits per pixel of the smallest file that reaches a SSIMULACRA2."""
    return min((row["bpp"] for row in rows if row["ssimulacra2"] >= target), default=math.nan)


def ratio(rows: Iterable[float]) -> float:
    """Geometric mean."""
    logs = [math.log(value) for value in rows]
    return math.exp(float(np.mean(logs))) if logs else math.nan


def drops(rows: list[Row]) -> list[str]:
    """Where a picture gets worse from one whole quality to the next, by more than 0.2 of SSIMULACRA2 or 0.05 dB."""
    found = []
    own = sorted((row for row in rows if row["codec"] == "mcq"), key=lambda row: (row["image"], row["setting"]))
    for low, high in itertools.pairwise(own):
        if low["image"] != high["image"]:
            continue
        lost = low["ssimulacra2"] - high["ssimulacra2"], low["psnr"] - high["psnr"]
        if lost[0] > 0.2 or lost[1] > 0.05:
            found.append(f"{low['image']} {low['setting']:g}->{high['setting']:g}: -{lost[0]:.2f}, -{lost[1]:.2f} dB")
    return found


def table(rows: list[Row], ours_names: set[str]) -> str:
    """Ratios by kind and target, in Markdown."""
    images = dict.fromkeys(row["image"] for row in rows)
    ratios: dict[tuple[str, int], list[float]] = {}
    for image in images:
        own = [row for row in rows if row["image"] == image and row["codec"] in ours_names]
        theirs = [row for row in rows if row["image"] == image and row["codec"] not in ours_names]
        for target in TARGETS:
            value = fewest(own, target) / fewest(theirs, target)
            for kind in (image.split("_")[0], "all"):
                ratios.setdefault((kind, target), []).append(value)
    kinds = dict.fromkeys(kind for kind, _ in ratios)
    lines = [f"| kind | pictures | {' | '.join(map(str, TARGETS))} | mean |", f"|{'---|' * (len(TARGETS) + 3)}"]
    for kind in sorted(kinds, key=lambda kind: kind == "all"):
        columns = [ratios[kind, target] for target in TARGETS]
        cells = [*map(ratio, columns), ratio(value for column in columns for value in column)]
        lines.append(f"| {kind} | {len(columns[0])} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    return "\n".join(lines)


def run(args: argparse.Namespace) -> None:
    """Measure what is missing from the rows, and print where quality loses, and the table."""
    own = ours(args.quality)
    cache, rows = Rows(Path(args.rows) if args.rows else None), list[Row]()
    for path in tqdm(lossless(args.images)[:: args.every], unit="picture"):
        with Image.open(path) as opened:
            image = Image.fromarray(np.asarray(opened.convert("RGB")))
        digest = hashlib.sha256(image.tobytes()).hexdigest()[:16]
        for name, codec in {**peers(), **own}.items():
            for setting in codec.settings:
                rows.append({"image": path.name, **cache.get(image, name, digest, codec, setting, METRICS)})
    print("worse at a higher quality:", *(drops(rows) or ["none"]), sep="\n")
    print(table(rows, set(own)))
