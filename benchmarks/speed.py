"""Seconds per megapixel of encoding and decoding, the share of each stage, peak memory, and what a process waits for.

Every size and direction runs in a process of its own, so that peak memory is its own; times are the best of several.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

STAGES = ("networks", "tables", "range coder", "rest")
ONE_DIRECTION = "BENCHMARK_ONE_DIRECTION"  # environment variable of a process that does a size in one direction


def mosaic(folder: str, megapixels: float) -> NDArray[np.uint8]:
    """A 3:2 picture of that size from 512-pixel pieces of a folder's photos; SystemExit where none is so large."""
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    width = round(height * 1.5)
    pieces = []
    for path in sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg"))[:40]:
        with Image.open(path) as opened:
            if min(opened.size) >= 512:
                pieces.append(np.asarray(opened.convert("RGB"))[:512, :512].copy())  # not the whole photo kept for it
    if not pieces:
        raise SystemExit(f"{folder} has no PNG or JPEG photo of 512x512 pixels or more")
    picture = np.empty((height, width, 3), np.uint8)
    for i, top in enumerate(range(0, height, 512)):
        for j, left in enumerate(range(0, width, 512)):
            target = picture[top : top + 512, left : left + 512]
            target[:] = pieces[(7 * i + j) % len(pieces)][: target.shape[0], : target.shape[1]]
    return picture


def clocked(spent: dict[str, float], stage: str, function: Any) -> Any:
    def call(*args: Any, **options: Any) -> Any:
        began, before = time.perf_counter(), sum(spent.values())
        try:
            return function(*args, **options)
        finally:
            inner = sum(spent.values()) - before  # of the stages inside this one
            spent[stage] += time.perf_counter() - began - inner

    return call


def peak_mb() -> float:
    """The most memory this process has had, or since `forget_peak` where the system can."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def forget_peak() -> None:
    """Let `peak_mb` begin anew at what is taken now (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def one_direction(
    direction: str, path: Path, folder: str, megapixels: float, threads: int, quality: float, effort: int
) -> dict[str, Any]:
    """All figures of a size, "encode" to a file or "decode" of it, in this process."""
    import torch

    from pillow_mcquic import codec, decoding
    from pillow_mcquic.bitstream import container, entropy
    from pillow_mcquic.engine.decoder import Decoder
    from pillow_mcquic.engine.encoder import Encoder
    from pillow_mcquic.model.entropy_model import EntropyModel, HyperNetwork

    if threads:
        torch.set_num_threads(threads)
    warm = codec.encode(np.zeros((64, 64, 3), np.uint8), effort=effort)
    codec.decode(warm)
    spent = dict.fromkeys(STAGES, 0.0)
    # stages are told apart at the codec's own seams
    for stage, owner, methods in (
        ("networks", Encoder, ("analyse", "latents", "choose_coarse", "choose_fine")),
        ("networks", Decoder, ("residuals", "features", "first_bank", "latent", "show")),
        ("tables", EntropyModel, ("static_classes", "embedding", "log_energies", "bank_classes")),
        ("tables", HyperNetwork, ("hidden",)),
        ("range coder", entropy.Encoder, ("write",)),
        ("range coder", entropy.Decoder, ("read",)),
    ):
        for method in methods:
            setattr(owner, method, clocked(spent, stage, getattr(owner, method)))
    if direction == "encode":
        picture = mosaic(folder, megapixels)
        work = functools.partial(codec.encode, picture, quality=quality, effort=effort)
    else:
        file = container.read(io.BytesIO(path.read_bytes()))
        work = functools.partial(decoding.decode_file, file)
    forget_peak()
    idle = peak_mb()
    best: dict[str, float] = {}
    for _ in range(3 if megapixels < 20 else 1):
        spent.update(dict.fromkeys(STAGES, 0.0))
        began = time.perf_counter()
        made = work()
        total = time.perf_counter() - began
        if not best or total < best["total"]:
            best = {"total": total, **spent, "rest": total - sum(spent.values())}
    peak = peak_mb() - idle
    if isinstance(made, bytes):
        path.write_bytes(made)
    else:
        picture = made
        peak -= picture.nbytes / 2**20  # which the caller has anyway
    size = picture.shape[0] * picture.shape[1] / 1e6
    bpp = 8 * path.stat().st_size / size / 1e6
    return {"megapixels": size, "threads": torch.get_num_threads(), "bpp": bpp, "peak": peak, **best}


FIRST_CALLS = """
import io, json, sys, time
data, times = open(sys.argv[1], "rb").read(), {}
def clock(name, function):
    began = time.perf_counter()
    result = function()
    times[name] = time.perf_counter() - began
    return result
Image = clock("import PIL.Image", lambda: __import__("PIL.Image").Image)
clock("import pillow_mcquic", lambda: __import__("pillow_mcquic"))
image = clock("open", lambda: Image.open(io.BytesIO(data)))
if "torch first" in sys.argv:
    clock("import torch", lambda: __import__("torch"))
clock("first decode", image.load)
clock("second decode", Image.open(io.BytesIO(data)).load)
print(json.dumps(times))
"""


def first_calls(folder: str) -> None:
    """Print what a new process waits for before its first picture, of 0.4 MP; medians of five processes."""
    from pillow_mcquic import encode

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "x.mcq"
        path.write_bytes(encode(mosaic(folder, 0.4)))
        for order in ("torch inside the first decode", "torch first"):
            command = [sys.executable, "-c", FIRST_CALLS, str(path), order]
            runs = [
                json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(5)
            ]
            cells = [f"{name} {statistics.median(r[name] for r in runs):.3f} s" for name in runs[0]]
            print(f"new process, {order}: " + ", ".join(cells), flush=True)


def run(args: argparse.Namespace) -> None:
    """Print the table of all sizes."""
    if one := os.environ.get(ONE_DIRECTION):
        direction, path = one.split(" ", 1)
        size = float(args.megapixels)
        figures = one_direction(direction, Path(path), args.images, size, args.threads, args.quality, args.effort)
        print(json.dumps(figures))
        return
    mosaic(args.images, 0.1)  # what is wrong with the folder is said here, not by a child
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    print(f"{machine}, quality {args.quality:g}, effort {args.effort}")
    print(
        "| MP | threads | bpp | encode s | s/MP | networks, tables, coder, rest | decode s | s/MP "
        "| networks, tables, coder, rest | peak MB over idle: encode, decode |"
    )
    print("|" + "---|" * 10)
    for megapixels in args.megapixels.split(","):
        command = [sys.executable, "-m", "benchmarks", "speed", "--images", args.images, "--megapixels", megapixels]
        command += ["--threads", str(args.threads), "--quality", str(args.quality)]
        command += ["--effort", str(args.effort)]
        both = []
        with tempfile.TemporaryDirectory() as scratch:
            for direction in ("encode", "decode"):
                env = {**os.environ, ONE_DIRECTION: f"{direction} {scratch}/x.mcq"}
                out = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
                both.append(json.loads(out))
        cells = [f"{both[0]['megapixels']:.1f}", str(both[0]["threads"]), f"{both[0]['bpp']:.3f}"]
        for r in both:
            shares = ", ".join(f"{100 * r[stage] / r['total']:.0f} %" for stage in STAGES)
            cells += [f"{r['total']:.2f}", f"{r['total'] / r['megapixels']:.3f}", shares]
        cells.append(", ".join(f"{r['peak']:.0f}" for r in both))
        print("| " + " | ".join(cells) + " |", flush=True)
    first_calls(args.images)
