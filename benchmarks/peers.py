"""Seconds of encoding and decoding beside other codecs, on the same picture, at equal bytes, in turn.

Every round runs every codec once (A B C A B C ...), so that a machine that slows down slows all; told are medians and
their ratios to `.mcq`.  The learned peers come from CompressAI with random weights: their speed does not depend on
them, their bytes would.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

from PIL import AvifImagePlugin, Image
from tqdm import tqdm

import pillow_mcquic  # noqa: F401  (registers the format)
from pillow_mcquic import compare
from pillow_mcquic.metrics import Pixels

from .speed import mosaic

LEARNED = ("bmshj2018-hyperprior", "mbt2018-mean", "cheng2020-anchor")
LEARNED_QUALITY = 3  # of CompressAI's zoo: 128 channels, about 0.3 bpp on Kodak when trained


@dataclasses.dataclass(frozen=True)
class Peer:
    """`encode` at a setting of 1 to 100, from small to large files, or at the only one there is."""

    encode: Callable[[Pixels, float], Any]
    decode: Callable[[Any], Any]
    settings: bool = True


def pillow(format: str, **options: Any) -> Peer:
    return Peer(
        lambda pixels, setting: compare.encode_pillow(Image.fromarray(pixels), format, quality=setting, **options),
        compare.decode_pillow,
    )


def jpeg_xl(threads: int) -> Peer:
    import imagecodecs

    return Peer(
        lambda pixels, setting: imagecodecs.jpegxl_encode(
            pixels, distance=compare.jxl_distance(setting), effort=7, numthreads=threads
        ),
        lambda data: imagecodecs.jpegxl_decode(data, numthreads=threads),
    )


def peers(threads: int) -> dict[str, Peer]:
    """The codecs of a run; JPEG and WebP have no threads to set."""
    AvifImagePlugin.DEFAULT_MAX_THREADS = threads
    return {
        "mcq": pillow("MCQ"),
        "jpeg": pillow("JPEG", optimize=True, progressive=True, subsampling="4:2:0"),
        "webp": pillow("WEBP", method=6),
        "avif": pillow("AVIF", speed=6, subsampling="4:2:0", max_threads=threads),
        "jpegxl": jpeg_xl(threads),
    }


def learned(name: str) -> Peer:
    """A model of CompressAI's zoo, untrained, with its own entropy coder."""
    import compressai.zoo
    import torch

    network = compressai.zoo.image_models[name](quality=LEARNED_QUALITY, pretrained=False).eval()
    network.update(force=True)

    def encode(pixels: Pixels, _: float) -> Any:
        height, width = (n // 64 * 64 for n in pixels.shape[:2])
        x = torch.from_numpy(pixels[:height, :width]).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            return network.compress(x)

    def decode(coded: Any) -> Any:
        with torch.inference_mode():
            return network.decompress(coded["strings"], coded["shape"])["x_hat"]

    return Peer(encode, decode, settings=False)


def measure(pixels: Pixels, threads: int, quality: float, rounds: int, names: list[str]) -> None:
    """Print the table of one picture and thread count."""
    import torch

    torch.set_num_threads(threads)
    all_peers = {**peers(threads), **{name: learned(name) for name in names}}
    size = len(all_peers["mcq"].encode(pixels, quality))
    settings = dict.fromkeys(all_peers, quality)
    for name, peer in all_peers.items():
        if name != "mcq" and peer.settings:
            settings[name], _ = compare.largest_within(functools.partial(peer.encode, pixels), size)
    spent: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in all_peers}
    sizes = {}
    for _ in tqdm(range(rounds), leave=False):
        for name, peer in all_peers.items():
            began = time.perf_counter()
            coded = peer.encode(pixels, settings[name])
            between = time.perf_counter()
            peer.decode(coded)
            spent[name][0].append(between - began)
            spent[name][1].append(time.perf_counter() - between)
            sizes[name] = len(coded) if isinstance(coded, bytes) else 0
    megapixels = pixels.shape[0] * pixels.shape[1] / 1e6
    ours = [statistics.median(times) for times in spent["mcq"]]
    for name, both in spent.items():
        encode, decode = (statistics.median(times) for times in both)
        cells = [f"{megapixels:.1f}", str(threads), name, f"{settings[name]:.4g}", str(sizes[name] or "-")]
        cells += [f"{encode / megapixels:.3f}", f"{encode / ours[0]:.2f}"]
        cells += [f"{decode / megapixels:.4f}", f"{decode / ours[1]:.3f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


def run(args: argparse.Namespace) -> None:
    """Print the table of all sizes and thread counts."""
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, medians of {args.rounds} rounds in turn"
    )
    print("| MP | threads | codec | setting | bytes | encode s/MP | of mcq's | decode s/MP | of mcq's |")
    print("|" + "---|" * 9)
    names = [name for name in args.learned.split(",") if name]
    unknown = set(names) - set(LEARNED)
    if unknown:
        raise SystemExit(f"--learned knows {', '.join(LEARNED)}, not {', '.join(sorted(unknown))}")
    for megapixels in map(float, args.megapixels.split(",")):
        for threads in map(int, args.threads.split(",")):
            measure(mosaic(args.images, megapixels), threads, args.quality, args.rounds, names)
