"""Section 5: pixels.  Planes are (h, w, channels) float32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .codes import Codes, Integers
from .weights import Weights

Planes = NDArray[np.floating[Any]]  # float32, as far as numpy's types can tell


class Networks:
    """All networks of a decoder at a quality."""

    def __init__(self, weights: Weights, quality: int) -> None:
        self.weights, self.quality = weights, quality

    def table(self, name: str) -> Planes:
        """A per-quality table at the quality."""
        rows = self.weights.floats(name)
        low = min(self.quality // 256 - 1, len(rows) - 2)
        f = np.float32(self.quality / 256 - (low + 1))
        found: Planes = rows[low] + f * (rows[low + 1] - rows[low])
        return found

    def residuals(self, bank: int, codes: Codes, classes: Integers, escapes: Integers) -> Planes:
        """R of a bank, (h, w, groups * dim)."""
        groups = np.arange(len(codes))[:, None, None]
        name = f"codebooks.{bank}."
        total = sum(
            self.weights.floats(f"{name}codewords.{stage}")[groups, codes[:, stage]] for stage in range(codes.shape[1])
        )
        steps = np.exp(self.weights.floats(name + "log_step"))
        own = np.where(escapes > 0, self.weights.classes - 1, classes)
        step = steps[groups, np.maximum(own - 6, 0)] * np.exp2(escapes).astype(np.float32)
        found: Planes = (total * step[..., None]).transpose(1, 2, 0, 3).reshape(*codes.shape[2:], -1)
        return found

    def linear(self, name: str, x: Planes) -> Planes:
        """NAME x."""
        found: Planes = x @ self.weights.floats(name + ".weight").T + self.weights.floats(name + ".bias")
        return found

    def gain(self, name: str, x: Planes) -> Planes:
        """gain NAME (x)."""
        return x * np.exp(self.table(name + ".log_gain"))

    def block(self, name: str, x: Planes) -> Planes:
        """One block."""
        h, w = x.shape[:2]
        inner = np.pad(act(self.linear(name + ".input", x)), ((1, 1), (1, 1), (0, 0)))
        weight, bias = self.weights.floats(name + ".depthwise.weight"), self.weights.floats(name + ".depthwise.bias")
        total = np.broadcast_to(bias, x.shape).copy()
        for row in range(3):
            for column in range(3):
                total += inner[row : row + h, column : column + w] * weight[:, 0, row, column]
        x = x + self.linear(name + ".output", total)
        if name + ".expand.weight" in self.weights:
            x = x + self.linear(name + ".contract", act(self.linear(name + ".expand", x)))
        return x

    def blocks(self, name: str, x: Planes) -> Planes:
        """All blocks under a name."""
        if name + ".input.weight" in self.weights:
            return self.block(name, x)
        number = 0
        while f"{name}.{number}.input.weight" in self.weights:
            x = self.block(f"{name}.{number}", x)
            number += 1
        return x

    def up(self, name: str, x: Planes, grid: tuple[int, int] | None = None) -> Planes:
        """up NAME x, cropped to a grid."""
        found = patches(self.linear(name + ".projection", x), 2)
        return found if grid is None else found[: grid[0], : grid[1]]

    def checkerboard(self, residuals: Planes) -> Planes:
        """U of the first bank of level 1 from W, of a tile."""
        known = np.zeros_like(residuals)
        for number, (top, left) in enumerate([(0, 0), (1, 1), (0, 1), (1, 0)]):
            own = residuals[top::2, left::2]
            if number and own.size:
                name = f"checkerboard.passes.{number - 1}."
                padded, (h, w) = np.pad(known, ((1, 1), (1, 1), (0, 0))), known.shape[:2]
                around = np.concatenate(
                    [
                        padded[top + row : h + row : 2, left + column : w + column : 2]
                        for row in range(3)
                        for column in range(3)
                        if (row, column) != (1, 1)
                    ],
                    2,
                )
                hidden = act(self.linear(name + "input", around) + self.table(name + "hidden_bias"))
                mean = self.linear(name + "straight", around) + self.linear(name + "output", hidden)
                own = own + self.gain(name + "gain", mean)
            known[top::2, left::2] = own
        return known

    def features(self, residuals: dict[int, Planes], grids: dict[int, tuple[int, int]]) -> Planes:
        """f1 from the residuals of levels 3 and 2."""
        z = {level: residuals[level] / np.exp(self.table(f"log_gain.{level}")) for level in (3, 2)}
        f2 = self.blocks("means.blocks_3", self.linear("means.input_3", z[3] / 4))
        f2 = self.gain("means.gain_3", self.up("means.expand_3", f2, grids[2]))
        z2 = z[2] + 4 * self.linear("means.mean_output_2", self.blocks("means.mean_block_2", f2))
        f1 = self.blocks("means.blocks_2", self.linear("means.input_2", np.concatenate([z2 / 4, f2], 2)))
        return self.gain("means.gain_2", self.up("means.expand_2", f1, grids[1]))

    def latent(self, residuals: Planes, features: Planes) -> Planes:
        """z1, of as many channels as there are residuals."""
        channels = residuals.shape[2]
        seen = min(channels, self.weights.channels(1) - self.weights.config["linear_channels"])
        mean = self.linear("means.mean_output_1", self.blocks("means.mean_block_1", features))[..., :seen]
        z1 = residuals / np.exp(self.table("log_gain.1")[:channels])
        z1[..., :seen] += mean * self.weights.floats("deviation")[:seen]
        return z1

    def picture(self, z1: Planes, features: Planes) -> Planes:
        """Pixels about 0..1, (h * 16, w * 16, 3)."""
        seen = self.weights.channels(1) - self.weights.config["linear_channels"]
        t = np.concatenate([z1[..., :seen] / self.weights.floats("deviation")[:seen], features], 2)
        t = self.blocks("synthesis.blocks_16", self.linear("synthesis.input", t))
        t = self.gain("synthesis.gain_16", self.up("synthesis.expand", t))
        t = self.linear("synthesis.output", self.gain("synthesis.gain_8", self.blocks("synthesis.blocks_8", t)))
        shortcut = z1 @ self.weights.floats("synthesis.klt").T + self.weights.floats("synthesis.patch_mean")
        return patches(shortcut, 16) + patches(t, 8)

    def preview(self, z1: Planes, features: Planes, scale: int) -> Planes:
        """Pixels about 0..1 at 1/`scale` of the sides."""
        h, w = z1.shape[:2]
        padded = np.pad(z1[..., :32], ((1, 1), (1, 1), (0, 0)), mode="edge")
        near = [padded[row : row + h, column : column + w] for row in range(3) for column in range(3)]
        around = np.stack(near, -1).reshape(h, w, -1)
        x = np.concatenate([around, z1[..., 32:], features], 2)
        return patches(self.linear(f"previews.scales.{scale}", x), 16 // scale)


def act(x: Planes) -> Planes:
    """The activation."""
    return np.where(x > 0, x, np.float32(0.1) * x)


def patches(x: Planes, side: int) -> Planes:
    """(h, w, side * side * channels) laid out as (h * side, w * side, channels)."""
    h, w = x.shape[:2]
    return x.reshape(h, w, side, side, -1).transpose(0, 2, 1, 3, 4).reshape(h * side, w * side, -1)


def samples(picture: Planes, *, grey: bool) -> NDArray[np.uint8]:
    """Pixels about 0..1 -> samples (h, w, 1 or 3)."""
    picture = picture.mean(2, keepdims=True) if grey else picture
    return np.clip(np.rint(255 * picture), 0, 255).astype(np.uint8)
