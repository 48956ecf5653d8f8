"""Above quality 8: latents of level 1 moved until synthesis gives the picture back.

Analysis guesses what synthesis will make of the latents; what it misses, some 39 dB, is below the noise of quantisation
up to about quality 8.  Above, the picture that synthesis makes of the latents as they are is taken from the original,
and what is left, through the pseudo-inverse of its linear shortcut, is added to them.  On pictures unlike any photo
that may lead astray, so a square keeps what came nearest.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bitstream.grids import SQUARE
from ..nn.linear import CachedCast
from ..nn.reshape import to_patches
from .distortion import ANCHORS

ROUNDS = 2  # from which on there is little more to be had
RIDGE = 1e-4  # keeps out directions that synthesis hardly shows: the network answers those


def inversion_share(quality: Tensor) -> Tensor:
    """How much of what is left is added at each quality (B,): nothing up to 8, all of it from 9 on; (B, 1, 1, 1)."""
    return (quality - ANCHORS[1]).clamp(0, 1)[:, None, None, None]


class Inversion:
    """Moves latents to where synthesis gives the picture back."""

    def __init__(self) -> None:
        self._matrix = CachedCast[Tensor]()

    def __call__(self, latent: Tensor, klt: Tensor, left_of: Callable[[Tensor], Tensor], quality: Tensor) -> Tensor:
        """The latent of level 1 (B, channels, h, w), moved.

        Parameters
        ----------
        klt : the linear shortcut of synthesis, (768, channels).
        left_of : what a latent leaves of the original, (B, 3, h * 16, w * 16), 0..1.
        quality : (B,).
        """
        share = inversion_share(quality)
        best, moved, least = latent, latent, torch.full_like(latent[:, :1], torch.inf)
        for left_over in range(ROUNDS, -1, -1):
            left = left_of(moved)
            error = F.avg_pool2d(left.square().mean(1, keepdim=True), SQUARE)
            better = error < least
            best, least = torch.where(better, moved, best), torch.minimum(error, least)
            if left_over:
                moved = best + share * better * self._correction(klt, left)
        return best

    def _correction(self, klt: Tensor, left: Tensor) -> Tensor:
        """What of the pixels that are left latents lack, (B, channels, h, w)."""

        def matrix() -> Tensor:
            square = klt.double() @ klt.double().t()
            square.diagonal().add_(RIDGE)
            inverse: Tensor = torch.linalg.solve(square, klt.double())  # transposed: the square is symmetric
            return inverse.float()

        patches = to_patches(left.contiguous(memory_format=torch.channels_last), SQUARE)
        return (patches @ self._matrix(klt, torch.float32, matrix)).permute(0, 3, 1, 2)
