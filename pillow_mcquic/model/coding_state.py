"""The coding state: what is known of a picture's codes, and which table codes what comes next.

Encoder, decoder, export, refinement and training go through a picture in the same loop::

    state = entropy_model.begin(quality, grids, batch)
    for number, bank in enumerate(config.banks):     # level 3, level 2, the banks of level 1
        classes = state.classes(number)              # which table codes each group at each position
        codes = ...                                  # chosen, read, or known already
        state.push(number, codes)                    # what later banks may know
"""

from __future__ import annotations

import copy
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from ..bitstream.grids import LEVELS, Grids
from ..nn.reshape import repeat_2x2
from .config import Config

Q = TypeVar("Q", contravariant=True)  # a Quality, or in training a tensor of them


class EntropyNetworks(Protocol[Q]):
    """What a coding state asks: integer networks when coding, float ones that stand for them in training.

    Planes are (B, channels, h, w).  "Known" is what `push` was given: codes when coding, in training codewords.
    """

    def static_classes(self, quality: Q, grid: tuple[int, int], batch: int) -> Tensor:
        """Classes of level 3, which depend on the quality alone."""

    def embedding(self, number: int, known: Tensor) -> Tensor:
        """Codewords of a bank, as the hyper networks see them."""

    def log_energies(self, number: int, known: Tensor) -> Tensor:
        """log2(1 + |c|^2) of the codewords of a bank's groups, as the context networks see them."""

    def hyper(self, level: int, embedding: Tensor, quality: Q) -> Tensor:
        """What all coarser levels say about a level, on the grid of the next coarser one."""

    def bank_classes(
        self, number: int, hyper: Tensor, energies: list[Tensor], quality: Q, grid: tuple[int, int]
    ) -> Tensor:
        """Classes of a bank from `hyper` and the log energies of the level's banks before it."""


class CodingState(Generic[Q]):
    """Classes of the next bank from the codes of all banks before it."""

    def __init__(self, networks: EntropyNetworks[Q], config: Config, quality: Q, grids: Grids, batch: int) -> None:
        self.networks, self.config, self.quality, self.grids, self.batch = networks, config, quality, grids, batch
        self._energies: list[Tensor] = []  # of the banks of this level so far
        self._embeddings: list[Tensor] = []  # of the banks of this level so far
        self._coarser: Tensor | None = None  # embedding of all coarser levels, on the grid of the next coarser one
        self._hyper: Tensor | None = None  # what they say of this level

    def classes(self, number: int) -> Tensor:
        """Classes (B, groups, h, w) of the next bank: uint8, or fractions in training."""
        level = self.config.banks[number].level
        if self._hyper is None:
            return self.networks.static_classes(self.quality, self.grids[level], self.batch)
        return self.networks.bank_classes(number, self._hyper, self._energies, self.quality, self.grids[level])

    def push(self, number: int, known: Tensor) -> None:
        """Take in the codes of the bank whose turn it was: (B, groups, stages, h, w); in training its codewords."""
        level = self.config.banks[number].level
        last = self.config.banks_of(level)[-1]
        if number != last:
            self._energies = [*self._energies, self.networks.log_energies(number, known)]
        if level != LEVELS[-1]:
            self._embeddings = [*self._embeddings, self.networks.embedding(number, known)]
            if number == last:
                self._descend(level)

    def _descend(self, level: int) -> None:
        """Go on to the next finer level."""
        embedding = self._embeddings
        if self._coarser is not None:
            embedding = [*embedding, repeat_2x2(self._coarser, self.grids[level])]
        self._coarser = torch.cat(embedding, 1)
        self._hyper = self.networks.hyper(level - 1, self._coarser, self.quality)
        self._energies, self._embeddings = [], []

    def copy(self) -> CodingState[Q]:
        """A state that goes its own way from here."""
        return copy.copy(self)
