"""Rate and distortion of real files beside other codecs, and BD-rates between them.

Every measurement is a row (image, codec, setting) in a JSON-lines file and is never made twice: an interrupted run
continues, another codec or image adds its rows.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import hashlib
import importlib.util
import itertools
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import PIL
from PIL import Image
from scipy.interpolate import PchipInterpolator
from tqdm import tqdm

import pillow_mcquic
from pillow_mcquic import weights_files
from pillow_mcquic.cli import compare
from pillow_mcquic.metrics import Pixels, msssim, psnr, ssimulacra2

Row = dict[str, Any]
METRICS = {"psnr": "PSNR (dB)", "msssim": "MS-SSIM (dB)", "ssimulacra2": "SSIMULACRA2"}


@dataclasses.dataclass(frozen=True)
class Codec:
    """One way to make files: `encode` an image at a setting, `decode` the bytes; settings from small to large files."""

    settings: tuple[float, ...]
    encode: Callable[[Image.Image, float], bytes]
    decode: Callable[[bytes], Pixels]
    version: str


def ours() -> str:
    """What the bytes of our files depend on: weights, precision, and a hash of the code that writes them."""
    import torch

    from pillow_mcquic.engine.device import find_precision

    package = Path(pillow_mcquic.__file__).parent
    layers = [
        path for layer in ("bitstream", "nn", "model", "engine") for path in sorted(package.glob(f"{layer}/*.py"))
    ]
    code = b"".join(path.read_bytes() for path in [package / "codec.py", package / "plugin.py", *layers])
    precision = find_precision(torch.device("cpu"))
    model = weights_files.default_id()
    return f"{model.hex()} {weights_files.encoder_digest(model)} {hashlib.sha256(code).hexdigest()[:8]} {precision}"


def pillow(format: str, settings: Iterable[float], option: str = "quality", **options: Any) -> Codec:
    """A format Pillow writes and reads; the setting is its option `option`."""

    def encode(image: Image.Image, setting: float) -> bytes:
        value = [setting] if option == "quality_layers" else setting
        return compare.encode_pillow(image, format, **{**options, option: value})

    version = ours() if format == "MCQ" else f"pillow {PIL.__version__}"
    return Codec(tuple(settings), encode, compare.decode_pillow, f"{version} {sorted(options.items())}")


def jpeg_xl() -> Codec:
    """JPEG XL, effort 7, by distance (imagecodecs)."""
    import imagecodecs

    return Codec(
        (15, 10, 7, 5, 3.5, 2.5, 1.7, 1.2, 0.8, 0.5),
        lambda image, distance: imagecodecs.jpegxl_encode(np.asarray(image), distance=distance, effort=7),
        imagecodecs.jpegxl_decode,
        f"imagecodecs {imagecodecs.__version__}",
    )


def heic() -> Codec:
    """HEIC (x265) through pillow-heif."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    codec = pillow("HEIF", HEIC)
    return dataclasses.replace(codec, version=f"{codec.version} pillow-heif {pillow_heif.__version__}")


OURS = ("mcq", "mcq-e2", "mcq-e3", "mcq-high")
AVIF = HEIC = (10, 20, 28, 36, 44, 52, 60, 68, 76, 84)
CODECS: dict[str, Callable[[], Codec]] = {
    "mcq": lambda: pillow("MCQ", (1, 2, 3, 4, 5, 6, 7, 8)),
    "mcq-e2": lambda: pillow("MCQ", (1, 2, 3, 4, 5, 6, 7, 8), effort=2),
    "mcq-e3": lambda: pillow("MCQ", (1, 2, 3, 4, 5, 6, 7, 8), effort=3),
    "mcq-high": lambda: pillow("MCQ", (8, 9, 10)),  # apart: BD-rates are of qualities 1 to 8
    "mcq-lossless": lambda: pillow("MCQ", (True,), "lossless"),
    "webp-lossless": lambda: pillow("WEBP", (100,), lossless=True, method=6, exact=True),
    "jpeg": lambda: pillow(
        "JPEG", (4, 7, 10, 15, 20, 30, 40, 50, 60, 70, 80, 88, 93), optimize=True, progressive=True, subsampling="4:2:0"
    ),
    "webp": lambda: pillow("WEBP", (1, 5, 10, 20, 30, 45, 60, 75, 82, 88, 93), method=6),
    "avif": lambda: pillow("AVIF", AVIF, speed=6, subsampling="4:2:0"),
    "avif-high": lambda: pillow("AVIF", (72, 76, 80, 84, 88, 92), speed=6, subsampling="4:2:0"),
    "avif-s2": lambda: pillow("AVIF", AVIF, speed=2, subsampling="4:2:0"),
    "avif-psnr": lambda: pillow("AVIF", AVIF, speed=6, subsampling="4:2:0", advanced={"tune": "psnr"}),
    "jpegxl": jpeg_xl,
    "heic": heic,
    "jpeg2000": lambda: pillow(
        "JPEG2000", (24, 26, 28, 30, 32, 34, 36, 38, 40), "quality_layers", quality_mode="dB", irreversible=True, mct=1
    ),
}


PSNR_MAX = 10 * math.log10(255**2 / 1e-10)  # of equal pictures: a mean shall stay finite
MEASURES: dict[str, Callable[[Pixels, Pixels], float]] = {
    "psnr": lambda a, b: min(PSNR_MAX, psnr(a, b)),
    "msssim": msssim,
    "ssimulacra2": ssimulacra2,
}


class Rows:
    """The measurements made so far, kept in a file of one JSON object a line."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows: dict[tuple[str, str, float], Row] = {}
        if path and path.exists():
            for line in path.read_text().splitlines():
                row = json.loads(line)
                self.rows[row["digest"], row["version"], row["setting"]] = row

    def get(self, image: Image.Image, name: str, digest: str, codec: Codec, setting: float, metrics: list[str]) -> Row:
        """The row of one file, measured now where it, or a metric of it, is missing."""
        key = digest, f"{name} {codec.version}", setting
        row = self.rows.get(key, {})
        missing = [metric for metric in metrics if metric not in row]
        if missing:
            data = codec.encode(image, setting)
            a, b = np.asarray(image), codec.decode(data)
            bpp = 8 * len(data) / (image.width * image.height)
            if row.get("bpp", bpp) != bpp:
                row, missing = {}, metrics  # of other bytes, by another machine or library
            figures = {metric: MEASURES[metric](a, b) for metric in missing}
            row = {**row, "digest": digest, "version": key[1], "setting": setting, "bpp": bpp, **figures}
            self.rows[key] = row
            if self.path:
                with open(self.path, "a") as file:
                    file.write(json.dumps(row) + "\n")
        return {**row, "codec": name}


def bd_rate(anchor: list[tuple[float, float]], test: list[tuple[float, float]]) -> float:
    """Bjontegaard rate difference of (bpp, quality) curves, PCHIP over the common range, as a fraction."""

    def curve(points: list[tuple[float, float]]) -> tuple[Callable[..., Any], float, float]:
        points = sorted(points, key=lambda p: p[1])
        quality = [p[1] for p in points]
        return PchipInterpolator(quality, np.log([p[0] for p in points])), quality[0], quality[-1]

    (a, a0, a1), (t, t0, t1) = curve(anchor), curve(test)
    low, high = max(a0, t0), min(a1, t1)
    if low >= high:
        return math.nan
    x = np.linspace(low, high, 1000)
    return math.exp(float(np.trapezoid(t(x) - a(x), x)) / (high - low)) - 1


def means(rows: list[Row], codec: str, metrics: list[str]) -> list[dict[str, float]]:
    """One row per setting: the mean over images of every figure."""
    settings = list(dict.fromkeys(r["setting"] for r in rows if r["codec"] == codec))
    table = []
    for setting in settings:
        mine = [r for r in rows if r["codec"] == codec and r["setting"] == setting]
        table.append({"setting": setting, **{k: float(np.mean([r[k] for r in mine])) for k in ("bpp", *metrics)}})
    return table


def monotone(rows: list[Row], codec: str, metrics: list[str]) -> list[str]:
    """Where a figure of a codec does not rise with its setting, image by image."""
    found = []
    for name in dict.fromkeys(r["image"] for r in rows):
        mine = [r for r in rows if r["image"] == name and r["codec"] == codec]
        for lower, upper in itertools.pairwise(mine):
            found += [f"{name}: {f} at {upper['setting']:g}" for f in ("bpp", *metrics) if upper[f] <= lower[f]]
    return found


def measure(args: argparse.Namespace) -> tuple[list[Row], list[str], list[str]]:
    """Rows of every image, codec and setting, codecs and metrics, as the arguments say."""
    paths = lossless(args.images)
    codecs = {name: CODECS[name]() for name in args.codecs.split(",")}
    metrics = args.metrics.split(",")
    if "ssimulacra2" in metrics and not importlib.util.find_spec("ssimulacra2"):
        raise SystemExit("SSIMULACRA2 needs `pip install ssimulacra2` (or leave it out of --metrics)")
    cache, rows = Rows(Path(args.rows) if args.rows else None), list[Row]()
    with tqdm(total=len(paths) * sum(len(c.settings) for c in codecs.values()), unit="file") as bar:
        for path in paths:
            with Image.open(path) as opened:
                image = Image.fromarray(np.asarray(opened.convert("RGB")))  # pixels only, no metadata
            digest = hashlib.sha256(image.tobytes()).hexdigest()[:16]
            for name, codec in codecs.items():
                for setting in codec.settings:
                    row = cache.get(image, name, digest, codec, setting, metrics)
                    rows.append({"image": path.name, **row})
                    bar.update()
    return rows, list(codecs), metrics


def lossless(folder: str) -> list[Path]:
    """The pictures of a folder, in formats that keep every pixel."""
    found = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in (".png", ".tif", ".bmp", ".webp"))
    if not found:
        raise SystemExit(f"no PNG, TIFF, BMP or WebP pictures in {folder}")
    return found


def bd_table(rows: list[Row], codec: str, codecs: list[str], metrics: list[str]) -> str:
    """BD-rates of a codec against every other, curves of means over images, in Markdown."""
    lines = [f"| {codec} against | " + " | ".join(METRICS[m] for m in metrics) + " |", f"|---|{'---|' * len(metrics)}"]
    for anchor in (name for name in codecs if name != codec):
        cells = []
        for metric in metrics:
            curves = [[(r["bpp"], r[metric]) for r in means(rows, c, metrics)] for c in (anchor, codec)]
            cells.append(f"{100 * bd_rate(*curves):+.1f} %")
        lines.append(f"| {anchor} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def means_table(rows: list[Row], codec: str, metrics: list[str]) -> str:
    """Means over images of a codec at every setting, in Markdown."""
    heads = " | ".join(METRICS[m] for m in metrics)
    lines = [f"| setting | bpp | {heads} |", f"|{'---|' * (2 + len(metrics))}"]
    for mean in means(rows, codec, metrics):
        figures = " | ".join(f"{mean[m]:.3f}" for m in metrics)
        lines.append(f"| {mean['setting']:g} | {mean['bpp']:.4f} | {figures} |")
    return "\n".join(lines)


def run(args: argparse.Namespace) -> None:
    """Measure, print tables and BD-rates, write CSV and a plot if asked."""
    rows, codecs, metrics = measure(args)
    for name in codecs:
        print(f"\n{name} over {len(lossless(args.images))} images\n{means_table(rows, name, metrics)}")
    for name in (name for name in codecs if name in OURS):
        print(f"\nBD-rates\n{bd_table(rows, name, codecs, metrics)}")
        falls = monotone(rows, name, metrics)
        print(f"\nfigures that do not rise with quality on an image: {'; '.join(falls) or 'none'}")
    if args.csv:
        columns = ["image", "codec", "setting", "bpp", *metrics]
        with open(args.csv, "w", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
    if args.plot:
        plot(rows, args.plot)


def read_csv(path: str) -> list[Row]:
    """The rows that `--csv` wrote."""
    with open(path, newline="") as file:
        table = list(csv.DictReader(file))
    words = ("image", "codec")
    return [{k: v if k in words else float(v) for k, v in row.items() if v} for row in table]


def run_plot(args: argparse.Namespace) -> None:
    """Write the plot of rows that were measured before."""
    plot(read_csv(args.csv), args.out)


# what a plot shows, ours last and on top: colour, width, name
LINES = {
    "jpeg": ("#a0a0a0", 1.2, "JPEG"),
    "webp": ("#6f9c6b", 1.2, "WebP"),
    "jpegxl": ("#8f7fb8", 1.2, "JPEG XL"),
    "avif": ("#c98a3d", 1.2, "AVIF"),
    "mcq": ("#1f4fa8", 2.8, "mcq"),
}
MOST_BPP, LEAST_SCORE = 1.2, {"ssimulacra2": -20.0}  # of what is shown
LABEL_GAP = 0.06  # between names at the right edge, of the height


def plot(rows: list[Row], path: str | IO[bytes]) -> None:
    """Every metric against bits per pixel, each line named at its end."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    metrics = [metric for metric in METRICS if metric in rows[0]]
    figure, axes = plt.subplots(1, len(metrics), figsize=(4.6 * len(metrics), 4.2), squeeze=False)
    for axis, metric in zip(axes[0], metrics, strict=True):
        ends = []
        for codec, (colour, width, _) in LINES.items():
            least = LEAST_SCORE.get(metric, -math.inf)
            table = [r for r in means(rows, codec, [metric]) if r["bpp"] <= MOST_BPP and r[metric] >= least]
            if table:
                axis.plot([r["bpp"] for r in table], [r[metric] for r in table], color=colour, linewidth=width)
                ends.append((table[-1][metric], table[-1]["bpp"], codec))
        bottom, top = axis.get_ylim()
        place = math.inf
        for value, bpp, codec in sorted(ends, reverse=True):  # names one under the other, none over another
            colour, width, name = LINES[codec]
            place = min(value, place - LABEL_GAP * (top - bottom))
            axis.plot([bpp, MOST_BPP + 0.04], [value, place], color=colour, linewidth=0.6, alpha=0.6)
            weight = "bold" if codec == "mcq" else "normal"
            axis.text(MOST_BPP + 0.05, place, name, color=colour, fontweight=weight, va="center", fontsize=9)
        axis.set_xlim(0, MOST_BPP + 0.25)
        axis.set_xlabel("bits per pixel")
        axis.set_title(METRICS[metric], loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    figure.tight_layout()
    figure.savefig(path, dpi=110, format="png")
