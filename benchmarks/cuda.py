"""Megapixels per second on a CUDA device, batches of pictures and one at a time, and how far from the device's limits.

Learned peers come from CompressAI with random weights (see `peers`).  The networks are timed by the device's own clock,
gaps while Python launches included; their arithmetic and the least they must move through its memory stand beside what
the device reaches.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from pillow_mcquic import loading
from pillow_mcquic.adapters.torch import decode_tensor, encode_tensor
from pillow_mcquic.engine.encoder import Encoder
from pillow_mcquic.model.cost import measure
from pillow_mcquic.nn.layers import Block, Pointwise
from pillow_mcquic.quality import Quality

from .peers import untrained
from .speed import mosaic

ROUNDS = 3
PAPER = "the paper's figures (RTX 3090): 25.45 Mpx/s encoding, 22.03 decoding"


def seconds(work: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Median time, by the host's clock, after one that is not counted."""
    times = []
    for _ in range(rounds + 1):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def device_seconds(work: Callable[[], Any]) -> float:
    """Median time by the device's clock, after one that is not counted."""
    times = []
    for _ in range(ROUNDS + 1):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 1000)
    return statistics.median(times[1:])


def limits() -> tuple[float, float]:
    """What the device reaches, a second: bytes of a copy, read and written; bfloat16 operations of a product."""
    source = torch.randint(0, 255, (1 << 30,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copied = 2 * source.numel() / device_seconds(lambda: target.copy_(source))
    side = 8192
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return copied, 2 * side**3 / device_seconds(lambda: a @ b)


def moved(encoder: Encoder, run: Callable[[], Any]) -> int:
    """Bytes that layers must read and write if each goes through memory once: inputs and outputs, bfloat16."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal total
        total += 2 * (inputs[0].numel() + out.numel())

    handles = [
        module.register_forward_hook(count)
        for model in (encoder.model, encoder.decoder.model)
        for module in model.modules()
        if isinstance(module, (Block, Pointwise))
    ]
    run()
    for handle in handles:
        handle.remove()
    return total


def peer(name: str, images: Tensor) -> tuple[float, float]:
    """Megapixels a second of a model of CompressAI's zoo, encoding and decoding a batch."""
    network = untrained(name, "cuda")
    height, width = (n // 64 * 64 for n in images.shape[2:])
    x = images[:, :, :height, :width].float() / 255
    size = x.shape[0] * height * width / 1e6
    rounds = 1 if len(images) > 1 or "cheng" in name else ROUNDS
    with torch.inference_mode():
        coded = network.compress(x)
        encoding = seconds(lambda: network.compress(x), rounds)
        decoding = seconds(lambda: network.decompress(coded["strings"], coded["shape"]), rounds)
    return size / encoding, size / decoding


def run(args: argparse.Namespace) -> None:
    """Print the tables."""
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks cuda: torch finds no CUDA device here")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, quality {args.quality:g}; {PAPER}")
    print("\n| pixels | batch | codec | encode, Mpx/s | decode, Mpx/s |\n|---|---|---|---|---|")
    sizes = [float(size) for size in args.megapixels.split(",")]
    pictures = {size: torch.from_numpy(mosaic(args.images, size)).permute(2, 0, 1).cuda() for size in sizes}
    for size, picture in pictures.items():
        for batch in (1, 16):
            images = picture.expand(batch, -1, -1, -1).contiguous()
            megapixels = images[:, 0].numel() / 1e6
            files: Any = encode_tensor(images, quality=args.quality)
            encoding = seconds(lambda images=images: encode_tensor(images, quality=args.quality))
            decoding = seconds(lambda files=files: decode_tensor(files, device="cuda"))
            print(
                f"| {size:g} MP | {batch} | mcq | {megapixels / encoding:.1f} | {megapixels / decoding:.1f} |",
                flush=True,
            )
            if size > min(sizes):
                continue  # peers would take minutes
            for name in filter(None, args.learned.split(",")):
                rates = peer(name, images)
                print(f"| {size:g} MP | {batch} | {name} | {rates[0]:.2f} | {rates[1]:.2f} |", flush=True)
    print_limits(next(iter(pictures.values())), args.quality)


def print_limits(picture: torch.Tensor, q: float) -> None:
    """What of the device's speed the networks reach, on a batch of a picture (3, H, W)."""
    copied, multiplied = limits()
    print(f"\nThe device copies {copied / 1e9:.0f} GB/s and multiplies {multiplied / 1e12:.0f} TFLOP/s (bfloat16).")
    print("\n| networks, batch 16 | ms/MP | GFLOP/MP | GFLOP/s | MB/MP | GB/s | share of the limit |")
    print("|" + "---|" * 7)
    encoder, on_cpu = loading.load_encoder("cuda"), loading.load_encoder("cpu")
    cost = measure(on_cpu.decoder.model, on_cpu.model, on_cpu.bundle.decoder.entropy_model)
    images = (
        picture[:, : picture.shape[1] // 16 * 16, : picture.shape[2] // 16 * 16].expand(16, -1, -1, -1).contiguous()
    )
    megapixels = images[:, 0].numel() / 1e6
    fixed = Quality.parse(q)
    coded, _ = encoder.encode(images, fixed)
    quality = torch.full((16,), q, device="cuda")

    def analyse() -> None:
        model = encoder.decoder.model
        with torch.inference_mode(), encoder.device.networks():
            encoder.model.analysis(images, quality, model.synthesis.patch_mean, model.spread)

    def synthesise() -> None:
        encoder.decoder.images(coded, quality)

    for name, work, thousands in (
        ("analysis transform", analyse, cost.analysis),
        ("means and synthesis transform, codewords to pixels", synthesise, cost.means + cost.synthesis),
        ("analysis, search and entropy model", lambda: encoder.encode(images, fixed), None),
    ):
        took = device_seconds(work) / megapixels
        if thousands is None:
            print(f"| {name} | {1000 * took:.2f} | | | | | |")
            continue
        operations, size = 2 * thousands * 1e9, moved(encoder, work) / megapixels
        least = max(operations / multiplied, size / copied)
        print(
            f"| {name} | {1000 * took:.2f} | {operations / 1e9:.0f} | {operations / took / 1e9:.0f} "
            f"| {size / 1e6:.0f} | {size / took / 1e9:.0f} | {100 * least / took:.0f} % |"
        )
