"""Train a small classifier on codes, and the same on pixels: python examples/classify_codes.py FOLDER

FOLDER holds a folder of `.mcq` pictures, all of one size, for every class.
"""

import random
import sys
from pathlib import Path

import torch
from torch import nn

from pillow_mcquic.adapters.torch import decode_tensor, read_codes

WORDS = 1536  # of the largest codebook


def fit(x: torch.Tensor, y: torch.Tensor, network: nn.Module, steps: int = 100) -> float:
    """Train on four fifths of the pictures; accuracy on the rest."""
    cut = len(x) * 4 // 5
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3)
    for _ in range(steps):
        batch = torch.randint(cut, (64,))
        loss = nn.functional.cross_entropy(network(x[batch]), y[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return float((network(x[cut:]).argmax(1) == y[cut:]).float().mean())


class OnCodes(nn.Module):
    """Every code of a square is a codeword with a vector of its own; their sum is the square's."""

    def __init__(self, symbols: int, classes: int) -> None:
        super().__init__()
        self.vectors = nn.EmbeddingBag(symbols * WORDS, 32, mode="sum")
        nn.init.normal_(self.vectors.weight, std=0.01)  # what was never seen in training says little
        self.first = torch.arange(symbols) * WORDS
        self.rest = nn.Sequential(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(64, classes)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:  # (B, symbols, h, w)
        B, S, h, w = codes.shape
        codewords = (codes.permute(0, 2, 3, 1) + self.first).reshape(-1, S)
        squares = self.vectors(codewords).view(B, h, w, -1).permute(0, 3, 1, 2)
        return self.head(self.rest(squares))


def on_pixels(classes: int) -> nn.Module:
    layers = [nn.Conv2d(3, 64, 16, stride=16), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def main(folder: Path) -> None:
    torch.manual_seed(0)
    names = sorted(p.name for p in folder.iterdir() if p.is_dir())
    paths = sorted(folder.glob("*/*.mcq"))
    random.Random(0).shuffle(paths)
    y = torch.tensor([names.index(path.parent.name) for path in paths])
    codes = torch.stack([read_codes(path)[1].flatten(0, 1).int() for path in paths])
    pixels = torch.stack(decode_tensor([path.read_bytes() for path in paths], device="cpu")).float() / 255 - 0.5
    print(f"{len(paths)} pictures of {len(names)} classes")
    print(f"on codes: {fit(codes, y, OnCodes(codes.shape[1], len(names))):.1%}")
    print(f"on pixels: {fit(pixels, y, on_pixels(len(names))):.1%}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
