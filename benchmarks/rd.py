"""Rate and distortion of real files through Pillow, and BD-rates between codecs."""

from __future__ import annotations

import argparse
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.interpolate import PchipInterpolator
from tqdm import tqdm

import pillow_mcquic  # noqa: F401  (registers the format)

# codec: Pillow format, save options that stay, settings from small to large files
CODECS: dict[str, tuple[str, dict[str, Any], list[int]]] = {
    "mcq": ("MCQ", {}, [1, 2, 3, 4, 5, 6, 7, 8]),
    "jpeg": (
        "JPEG",
        {"optimize": True, "progressive": True, "subsampling": "4:2:0"},
        [4, 7, 10, 15, 20, 30, 40, 50, 60, 70, 80, 88, 93],
    ),
    "webp": ("WEBP", {"method": 6}, [1, 5, 10, 20, 30, 45, 60, 75, 82, 88, 93]),
    "avif": ("AVIF", {"speed": 6, "subsampling": "4:2:0"}, [10, 20, 28, 36, 44, 52, 60, 68, 76, 84]),
    "avif-psnr": (
        "AVIF",
        {"speed": 6, "subsampling": "4:2:0", "advanced": {"tune": "psnr"}},
        [10, 20, 28, 36, 44, 52, 60, 68, 76, 84],
    ),
}
METRICS = ("psnr", "msssim")


def psnr(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """dB, over all samples."""
    mse = float(np.square(a.astype(np.float64) - b).mean())
    return 10 * math.log10(255**2 / max(mse, 1e-10))


def msssim(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """Multi-scale SSIM over RGB as -10 log10(1 - x), dB."""
    import torch
    from pytorch_msssim import ms_ssim

    x, y = (torch.from_numpy(v.copy()).permute(2, 0, 1)[None].float() for v in (a, b))
    return -10 * math.log10(max(1e-10, 1 - float(ms_ssim(x, y, data_range=255))))


def measure(image: Image.Image, format: str, options: dict[str, Any]) -> dict[str, float]:
    """Save, reopen, compare."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    with Image.open(buffer) as reopened:
        a, b = np.asarray(image), np.asarray(reopened.convert("RGB"))
    bpp = 8 * len(buffer.getvalue()) / (image.width * image.height)
    return {"bpp": bpp, "psnr": psnr(a, b), "msssim": msssim(a, b)}


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


def means(rows: list[dict[str, Any]], codec: str) -> list[dict[str, float]]:
    """One row per setting: the mean over images of every figure."""
    settings = list(dict.fromkeys(r["setting"] for r in rows if r["codec"] == codec))
    table = []
    for setting in settings:
        mine = [r for r in rows if r["codec"] == codec and r["setting"] == setting]
        table.append({"setting": setting, **{k: float(np.mean([r[k] for r in mine])) for k in ("bpp", *METRICS)}})
    return table


def run(args: argparse.Namespace) -> None:
    """Measure, print tables and BD-rates (curves of means over images), write JSON and a plot if asked."""
    paths = sorted(p for p in Path(args.images).iterdir() if p.suffix.lower() in (".png", ".tif", ".bmp", ".webp"))
    codecs = args.codecs.split(",")
    rows: list[dict[str, Any]] = []
    with tqdm(total=len(paths) * sum(len(CODECS[c][2]) for c in codecs), unit="file") as bar:
        for path in paths:
            with Image.open(path) as opened:
                image = opened.convert("RGB")
            for codec in codecs:
                format, options, settings = CODECS[codec]
                for setting in settings:
                    figures = measure(image, format, {**options, "quality": setting})
                    rows.append({"image": path.name, "codec": codec, "setting": setting, **figures})
                    bar.update()
    for codec in codecs:
        print(f"\n{codec} over {len(paths)} images\n| quality | bpp | PSNR dB | MS-SSIM dB |\n|---|---|---|---|")
        for row in means(rows, codec):
            print(f"| {row['setting']} | {row['bpp']:.4f} | {row['psnr']:.3f} | {row['msssim']:.3f} |")
    if "mcq" in codecs:
        print("\nBD-rate of mcq\n| against | " + " | ".join(METRICS) + " |\n|---|" + "---|" * len(METRICS))
        for anchor in (c for c in codecs if c != "mcq"):
            cells = []
            for metric in METRICS:
                curves = [[(r["bpp"], r[metric]) for r in means(rows, c)] for c in (anchor, "mcq")]
                cells.append(f"{100 * bd_rate(*curves):+.1f} %")
            print(f"| {anchor} | " + " | ".join(cells) + " |")
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=0))
    if args.plot:
        plot(rows, codecs, args.plot)


def plot(rows: list[dict[str, Any]], codecs: list[str], path: str) -> None:
    """PSNR and MS-SSIM against bits per pixel."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5))
    for axis, metric, name in zip(axes, METRICS, ("PSNR (dB)", "MS-SSIM (dB)"), strict=True):
        for codec in codecs:
            table = [r for r in means(rows, codec) if r["bpp"] < 1.6]
            axis.plot([r["bpp"] for r in table], [r[metric] for r in table], "o-", ms=3, label=codec)
        axis.set_xlabel("bits per pixel")
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
