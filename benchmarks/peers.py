"""Seconds of encoding and decoding beside other codecs, on the same picture, at similar bytes, in turn.

Every round runs every codec once (A B C A B C ...), so that a machine that slows down slows all; told are medians and
their ratios to `.mcq`.  The learned peers come from CompressAI with random weights: their speed does not depend on
them, their bytes would.  Of the original McQuic the convolutions alone are run.
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
from typing import Any, NamedTuple

from PIL import AvifImagePlugin, Image
from tqdm import tqdm

import pillow_mcquic  # noqa: F401  (registers the format)
from pillow_mcquic.cli import compare
from pillow_mcquic.metrics import Pixels

from .speed import mosaic

LEARNED = ("bmshj2018-hyperprior", "mbt2018-mean", "cheng2020-anchor", "mcquic")
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


def untrained(name: str, device: str = "cpu") -> Any:
    """A model of CompressAI's zoo with random weights, ready for its own entropy coder."""
    import compressai.zoo

    network = compressai.zoo.image_models[name](quality=LEARNED_QUALITY, pretrained=False).eval().to(device)
    network.update(force=True)
    return network


def learned(name: str) -> Peer:
    """A model of CompressAI's zoo, untrained, with its own entropy coder; or the original's layers."""
    if name == "mcquic":
        return mcquic()
    import torch

    network = untrained(name)

    def encode(pixels: Pixels, _: float) -> Any:
        height, width = (n // 64 * 64 for n in pixels.shape[:2])
        x = torch.from_numpy(pixels[:height, :width]).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            return network.compress(x)

    def decode(coded: Any) -> Any:
        with torch.inference_mode():
            return network.decompress(coded["strings"], coded["shape"])["x_hat"]

    return Peer(encode, decode, settings=False)


class Layer(NamedTuple):
    """A convolution: channels, kernel, and how many pixels a side of its output is apart."""

    inputs: int
    outputs: int
    kernel: int
    apart: int

    @property
    def macs(self) -> float:
        """Multiply-adds for each pixel of the picture."""
        return self.inputs * self.outputs * self.kernel**2 / self.apart**2


def mcquic_layers(width: int = 128) -> tuple[list[Layer], list[Layer]]:
    """The convolutions of the original McQuic's encoder and decoder (figure 3 of the paper and its supplement).

    Residual blocks of two 3x3, attention blocks of six residual blocks, strided ones with a shortcut and a
    normalisation (1x1), upsampling by 3x3 to four times the channels and a shuffle; three levels of quantiser, each
    with its own heads.
    """

    def conv(apart: int, kernel: int = 3) -> list[Layer]:
        return [Layer(width, width, kernel, apart)]

    def residual(apart: int) -> list[Layer]:
        return 2 * conv(apart)

    def attention(apart: int) -> list[Layer]:
        return 6 * residual(apart) + conv(apart, 1)

    def strided(apart: int) -> list[Layer]:
        return 3 * conv(apart) + conv(apart, 1)

    def shuffled(apart: int) -> list[Layer]:
        return 2 * [Layer(width, 4 * width, 3, 2 * apart)] + conv(apart) + conv(apart, 1)

    encoder = [Layer(3, width, 3, 2), *residual(2), *strided(4), *attention(4), *residual(4), *strided(8), *residual(8)]
    decoder = [*residual(8), *shuffled(4), *attention(4), *residual(4), *shuffled(2), *residual(2)]
    decoder.append(Layer(width, 12, 3, 2))
    for level in (16, 32, 64):
        head = residual(level) + attention(level) + conv(level)
        encoder += strided(level) + residual(level) + attention(level) + 2 * head
        decoder += 2 * head + attention(level) + residual(level) + shuffled(level // 2)
    return encoder, decoder


def mcquic() -> Peer:
    """The original's convolutions alone, one after the other, in bfloat16 where the processor has it."""
    import torch

    from pillow_mcquic.engine.device import bfloat16_native

    reduced = bfloat16_native(torch.device("cpu"))
    dtype = torch.bfloat16 if reduced else torch.float32
    made: dict[tuple[Layer, int, int], tuple[Any, Any]] = {}

    def run(layers: list[Layer], height: int, width: int) -> None:
        with torch.inference_mode():
            for layer in layers:
                key = layer, height, width
                if key not in made:
                    shape = 1, layer.inputs, height // layer.apart, width // layer.apart
                    x = torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last)
                    made[key] = x, torch.randn(layer.outputs, layer.inputs, layer.kernel, layer.kernel).to(dtype)
                x, weight = made[key]
                torch.nn.functional.silu(torch.conv2d(x, weight, padding=layer.kernel // 2), inplace=True)

    encoder, decoder = mcquic_layers()

    def encode(pixels: Pixels, _: float) -> Any:
        run(encoder, *pixels.shape[:2])
        return pixels.shape[:2]

    return Peer(encode, lambda size: run(decoder, *size), settings=False)


def measure(pixels: Pixels, threads: int, quality: float, rounds: int, names: list[str]) -> None:
    """Print the table of one picture and thread count."""
    import torch

    torch.set_num_threads(threads)
    all_peers = {**peers(threads), **{name: learned(name) for name in names}}
    size = len(all_peers["mcq"].encode(pixels, quality))
    settings = dict.fromkeys(all_peers, quality)
    for name, peer in all_peers.items():
        if name != "mcq" and peer.settings:
            settings[name], _ = compare.nearest_in_size(functools.partial(peer.encode, pixels), size)
    spent: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in all_peers}
    sizes = {}
    for number in tqdm(range(rounds + 1), leave=False):
        for name, peer in all_peers.items():
            began = time.perf_counter()
            coded = peer.encode(pixels, settings[name])
            between = time.perf_counter()
            peer.decode(coded)
            if number:  # the first time layers are laid out and memory is fetched
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
