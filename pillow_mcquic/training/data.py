"""Photos in memory as uint8, random crops from them, and the KLT of their patches."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..metrics import LEAST_MSSSIM_SIDE
from ..quality import HIGHEST, LOWEST
from ..runtime import cores

MOST_LOADERS = 8  # 128 crops of 384 take one 0.8 s
PHOTO_SUFFIXES = frozenset(Image.registered_extensions()) - {".mcq"}


def find_photos(folder: str | os.PathLike[str]) -> list[Path]:
    """All image files below a folder, sorted by path; ValueError when there is none."""
    paths = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in PHOTO_SUFFIXES)
    if not paths:
        raise ValueError(f"no image files in {folder}")
    return paths


def load_photo(path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) uint8."""
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def load_photos(folder: str | os.PathLike[str], min_side: int = 1) -> list[NDArray[np.uint8]]:
    """Decode every photo of a folder once; those with a side under `min_side` are left out."""
    with ThreadPoolExecutor() as pool:
        photos = [p for p in pool.map(load_photo, find_photos(folder)) if min(p.shape[:2]) >= min_side]
    if not photos:
        raise ValueError(f"no image in {folder} has both sides of at least {min_side} pixels")
    return photos


def load_validation(folder: str | os.PathLike[str]) -> list[NDArray[np.uint8]]:
    """`load_photos` of those that have an MS-SSIM; ValueError without the package that measures it."""
    if not importlib.util.find_spec("pytorch_msssim"):
        raise ValueError("validation needs pytorch-msssim: pip install 'pillow-mcquic[training]'")
    return load_photos(folder, LEAST_MSSSIM_SIDE)


def random_crop(
    photo: NDArray[np.uint8], size: tuple[int, int], shrink: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """A crop of (rows, columns); with probability `shrink` of the photo made smaller, by a factor of at most 2."""
    factor = 1.0
    if shrink and rng.random() < shrink:
        room = min(have / want for have, want in zip(photo.shape[:2], size, strict=True))
        factor = rng.uniform(1, min(2.0, room))
    rows, columns = (int(n * factor) for n in size)
    top, left = (int(rng.integers(0, have - n + 1)) for have, n in zip(photo.shape[:2], (rows, columns), strict=True))
    crop = photo[top : top + rows, left : left + columns]
    if (rows, columns) == size:
        return crop
    return np.asarray(Image.fromarray(crop).resize(size[::-1], Image.Resampling.LANCZOS))


Batch = tuple[Tensor, Tensor]  # uint8 crops (count, 3, size, size) and qualities (count,) in 1..10


class Crops(Dataset[Batch]):
    """Random crops, flipped half the time and transposed a quarter; a function of the arguments and the step alone."""

    def __init__(
        self, photos: Sequence[NDArray[np.uint8]], size: int, count: int, seed: int, rank: int = 0, shrink: float = 0.0
    ) -> None:
        """count: crops a step; shrink: see `random_crop`."""
        self.photos, self.size, self.count, self.seed, self.rank, self.shrink = photos, size, count, seed, rank, shrink
        weight = np.array([p.shape[0] * p.shape[1] for p in photos], float) ** 0.75
        self.weight = weight / weight.sum()

    def __getitem__(self, step: int) -> Batch:
        """The crops and qualities of a step."""
        rng = np.random.default_rng((self.seed, self.rank, step))
        crops = np.empty((self.count, self.size, self.size, 3), np.uint8)
        for j, i in enumerate(rng.choice(len(self.photos), self.count, p=self.weight)):
            crop = random_crop(self.photos[i], (self.size, self.size), self.shrink, rng)
            if rng.random() < 0.5:
                crop = crop[:, ::-1]
            if rng.random() < 0.25:
                crop = crop.transpose(1, 0, 2)
            crops[j] = crop
        # qualities within half a step beyond the ends count as the ends
        drawn = rng.uniform(LOWEST - 0.5, HIGHEST + 0.5, self.count)
        quality = np.clip(drawn, LOWEST, HIGHEST).astype(np.float32)
        return torch.from_numpy(crops).permute(0, 3, 1, 2), torch.from_numpy(quality)

    def batches(self, steps: range, device: torch.device, workers: int = 0) -> Iterator[Batch]:
        """The batches of some steps on a device; cut ahead of time by so many processes, or when they are asked for."""
        loader = DataLoader(
            self,
            None,
            sampler=steps,
            num_workers=workers,
            prefetch_factor=1 if workers else None,
            pin_memory=device.type == "cuda",
            multiprocessing_context="fork" if workers else None,  # as the photos must not be copied
        )
        for crops, quality in loader:
            yield crops.to(device, non_blocking=True), quality.to(device, non_blocking=True)


def loaders(device: torch.device) -> int:
    """How many processes cut crops: none for a CPU, which has to train; else of the cores what is there, and enough."""
    if device.type == "cpu" or not hasattr(os, "fork"):
        return 0
    return max(0, min(MOST_LOADERS, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) - 1))


def klt(photos: Sequence[NDArray[np.uint8]], channels: int, patches: int = 60000) -> tuple[Tensor, Tensor, Tensor]:
    """Principal components of 16x16x3 patches: basis (channels, 768), mean (768,), deviation (channels,)."""
    rng = np.random.default_rng(0)
    rows = np.empty((patches, 768), np.float32)
    for i in range(patches):
        photo = photos[int(rng.integers(len(photos)))]
        top, left = (int(rng.integers(0, n - 15)) for n in photo.shape[:2])
        rows[i] = photo[top : top + 16, left : left + 16].reshape(-1)
    x = torch.from_numpy(rows) / 255
    mean = x.mean(0)
    x = (x - mean).double()
    variance, vectors = torch.linalg.eigh(x.t() @ x / patches)
    order = torch.argsort(variance, descending=True)[:channels]
    return vectors[:, order].t().float().contiguous(), mean, variance[order].sqrt().float()
