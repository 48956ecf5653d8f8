"""Above quality 8: latents of level 1 moved until synthesis gives the picture back.

Analysis guesses what synthesis will make of the latents; what it misses, some 39 dB, is below the noise of quantisation
up to about quality 8.  Above, the picture that synthesis makes of the latents as they are is taken from the original,
and what is left, through the pseudo-inverse of its linear shortcut, is added to them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..nn.linear import CachedCast
from ..nn.reshape import to_patches
from .distortion import ANCHORS

ROUNDS = 2  # from which on there is little more to be had
RIDGE = 1e-4  # keeps out directions that synthesis hardly shows: the network answers those


def inversion_share(quality: Tensor) -> Tensor:
    """How much of what is left is added at each quality (any shape): nothing up to 8, all of it from 9 on."""
    return (quality - ANCHORS[1]).clamp(0, 1)


class Inversion:
    """The pseudo-inverse of the synthesis transform's linear shortcut."""

    def __init__(self) -> None:
        self._matrix = CachedCast[Tensor]()

    def correction(self, klt: Tensor, left: Tensor) -> Tensor:
        """What of the pixels that are left, (B, 3, H, W), latents lack, (B, channels, h, w).

        klt: of synthesis, (768, channels).
        """

        def matrix() -> Tensor:
            square = klt.double() @ klt.double().t()
            square.diagonal().add_(RIDGE)
            inverse: Tensor = torch.linalg.solve(square, klt.double())  # transposed: the square is symmetric
            return inverse.float()

        patches = to_patches(left.contiguous(memory_format=torch.channels_last), 16)
        return (patches @ self._matrix(klt, torch.float32, matrix)).permute(0, 3, 1, 2)
