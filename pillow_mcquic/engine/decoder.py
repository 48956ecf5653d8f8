"""The decoder: code streams -> codes -> pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..bitstream import entropy
from ..bitstream.grids import SQUARE, Grids
from ..errors import BadFileError, DamagedStreamError
from ..model.model import Cascade
from ..nn.reshape import empty_planes, quarters_to_pixels
from ..quality import Quality
from .bundle import DecoderBundle
from .device import Device
from .windows import Window, magnified, run_windowed, windows, within


@dataclasses.dataclass(frozen=True)
class Coded:
    """Codes and classes of pictures of one size and quality, a tensor for each bank in coding order, on a device.

    codes (B, groups, stages, h, w) int16; classes (B, groups, h, w) uint8, with escapes (`coding_order`).  Of previews
    there are the first banks.
    """

    codes: list[Tensor]
    classes: list[Tensor]

    def followed_by(self, others: Coded) -> Coded:
        """With further banks."""
        return Coded(self.codes + others.codes, self.classes + others.classes)

    def pictures(self, numbers: Sequence[int]) -> Coded:
        """Some of the pictures."""
        at = list(numbers)
        if at == list(range(len(self.codes[0]))):
            return self
        return Coded([codes[at] for codes in self.codes], [classes[at] for classes in self.classes])


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Pictures, or tiles, on the way to their pixels: all that does not see across the borders of tiles.

    features (B, hyper_width, h, w); first (B, channels, h, w): of `Decoder.features` and `Decoder.first_bank`.
    """

    coded: Coded
    features: Tensor
    first: Tensor


class Decoder:
    """One model on one device: streams -> codes, and codes -> pixels.

    The parse is integer arithmetic and the same everywhere; pixels differ by rounding.
    """

    def __init__(self, bundle: DecoderBundle, device: Device) -> None:
        self.bundle, self.device, self.config = bundle, device, bundle.config
        self.model = bundle.on(device.where)

    def quality_tensor(self, *qualities: Quality) -> Tensor:
        """Qualities as networks are given them, (n,) float32 on the device."""
        return torch.tensor([float(q) for q in qualities], dtype=torch.float32, device=self.device.where)

    def read(self, streams: Sequence[bytes], quality: Quality, grids: Grids, scale: int = 1) -> Coded:
        """Code streams of pictures of one size and quality -> their codes and classes; BadFileError when damaged.

        For previews of 1/`scale` reading stops after the banks of level 1 that they are made of.  A bank's classes come
        from the device, and its codes go there, for all pictures at once.
        """
        try:
            decoders = [entropy.Decoder(stream) for stream in streams]
            return self._read(decoders, quality, grids, self.config.banks_at(scale))
        except DamagedStreamError as error:
            raise BadFileError(f"damaged .mcq file: {error}") from error

    @torch.inference_mode()
    def _read(self, decoders: list[entropy.Decoder], quality: Quality, grids: Grids, banks: int) -> Coded:
        coded, device = Coded([], []), self.device.where
        state = self.bundle.entropy_model.begin(quality, grids, len(decoders), device)
        for number in range(banks):
            classes, tables = state.classes(number), self.bundle.tables[number]
            of_pictures = list(classes.flatten(2).cpu().numpy())
            found = [decoder.read(own, tables) for decoder, own in zip(decoders, of_pictures, strict=True)]
            stacked = np.stack([codes for codes, _ in found])
            codes = torch.from_numpy(stacked).unflatten(3, classes.shape[2:]).to(device)  # type: ignore[no-untyped-call]
            if any(after is not before for (_, after), before in zip(found, of_pictures, strict=True)):
                with_escapes = np.stack([after for _, after in found])
                classes = torch.from_numpy(with_escapes).view(classes.shape).to(device)
            coded.codes.append(codes)
            coded.classes.append(classes)
            if number + 1 < banks:
                state.push(number, codes)
        if banks == len(self.config.banks):
            for decoder in decoders:
                decoder.finish()
        return coded

    @torch.inference_mode()
    def without_codes(self, quality: Quality, grids: Grids, scale: int = 1) -> Coded:
        """A picture whose codes are all 0, as far as `scale` needs them."""
        state = self.bundle.entropy_model.begin(quality, grids, 1, self.device.where)
        coded = Coded([], [])
        for number in range(self.config.banks_at(scale)):
            bank = self.config.banks[number]
            shape = 1, bank.groups, len(bank.stages), *grids[bank.level]
            coded.classes.append(state.classes(number))
            coded.codes.append(torch.zeros(shape, dtype=torch.int16, device=self.device.where))
            state.push(number, coded.codes[number])
        return coded

    @torch.inference_mode()
    def classes(self, codes: list[Tensor], quality: Quality, grids: Grids) -> list[Tensor]:
        """The classes that belong to codes of all banks, without escapes."""
        state = self.bundle.entropy_model.begin(quality, grids, len(codes[0]), self.device.where)
        classes = []
        for number, known in enumerate(codes):
            classes.append(state.classes(number))
            state.push(number, known)
        return classes

    @torch.inference_mode()
    def images(self, coded: Coded, quality: Tensor, *, grey: bool = False, scale: int = 1) -> Tensor:
        """Codes and classes, quality (B,) -> (B, 3 or 1, h * 16 / scale, w * 16 / scale) uint8 on the device.

        scale: 1, or 2, 4, 8 for a picture of a half, a quarter, an eighth of the sides, which needs fewer codes (see
        `read`) and no synthesis.
        """
        B, _, _, h, w = coded.codes[-1].shape
        with self.device.networks():
            prepared, side = self.prepare(coded, quality), SQUARE // scale
            # channels last in memory, so that an array comes out without another copy
            out = empty_planes(B, 1 if grey else 3, h * side, w * side, torch.uint8, self.device.where)
            for inner, outer in windows(h, w, self.device.window_positions // B, self.reach(scale)):
                self.show(prepared, outer, within(inner, outer), quality, out[magnified(inner, side)], scale)
        return out

    def reach(self, scale: int) -> int:
        """Positions of level 1 around a window that its pixels, at 1/`scale` of the sides, depend on."""
        return self.model.reach if scale == 1 else self.model.preview_reach

    def prepare(self, coded: Coded, quality: Tensor) -> Prepared:
        """All that is done for a whole picture, or tile, at once."""
        return Prepared(coded, self.features(coded, quality), self.first_bank(coded, quality))

    def show(self, prepared: Prepared, window: Window, own: Window, quality: Tensor, out: Tensor, scale: int) -> None:
        """Put the pixels of a window into `out` (B, 3 or 1, ...), uint8.

        window: with all within reach; own: the window without that, in positions of it.
        """
        features = prepared.features[window]
        z1 = self.latent(prepared, window, self.model.means.mean_1(features), quality)
        if scale == 1:
            self._synthesise(z1, features, quality, own, out)
            return
        small = self.model.previews(z1, features, scale)[magnified(own, SQUARE // scale)]
        small = small.mean(1, keepdim=True) if out.shape[1] == 1 else small
        out[:] = small.mul_(255).round_().clamp_(0, 255)

    def _synthesise(self, z1: Tensor, features: Tensor, quality: Tensor, own: Window, out: Tensor) -> None:
        synthesis = self.model.synthesis

        def pixels(z1: Tensor, last: Tensor) -> Tensor:
            patches = synthesis.patches(z1, last, one=255.0, offset=0.5)  # what is behind the point is cut off
            if out.shape[1] == 1:
                patches = patches.view(*patches.shape[:3], SQUARE**2, 3).mean(-1)
            return quarters_to_pixels(patches.clamp_(0, 255).to(torch.uint8)).permute(0, 3, 1, 2)

        last = synthesis.features(self.model.normalise(z1), features, quality)
        inputs = [(z1[own], 1), (last[magnified(own, 2)], 2)]
        run_windowed(pixels, inputs, out, SQUARE, 0, self.device.block_positions)

    def features(self, coded: Coded, quality: Tensor) -> Tensor:
        """What levels 3 and 2 say about level 1: features (B, hyper_width, h, w) on its grid."""
        grids = {bank.level: codes.shape[3:] for bank, codes in zip(self.config.banks, coded.codes, strict=False)}
        cascade = Cascade(self.model, quality, {level: (grid[0], grid[1]) for level, grid in grids.items()})
        for level in (3, 2):
            banks = self.config.banks_of(level)
            own = Coded(coded.codes[banks.start : banks.stop], coded.classes[banks.start : banks.stop])
            cascade.push(level, self.residuals(level, own))
        assert cascade.features is not None
        return cascade.features

    def residuals(self, level: int, coded: Coded) -> Tensor:
        """Residuals of a level, in steps, from the codes of its banks: (B, channels, h, w)."""
        banks = zip(self.config.banks_of(level), coded.codes, coded.classes, strict=True)
        return torch.cat([self.model.sum_codewords(*bank) for bank in banks], 1)

    def first_bank(self, coded: Coded, quality: Tensor) -> Tensor:
        """Residuals of the first bank of level 1 with their checkerboard means, in steps (B, channels, h, w)."""
        number = self.config.banks_of(1).start
        residuals = self.model.sum_codewords(number, coded.codes[number], coded.classes[number])
        return self.model.checkerboard.restore(residuals, quality)

    def latent(self, prepared: Prepared, window: Window, mean: Tensor, quality: Tensor) -> Tensor:
        """Quantised latent of level 1 in a window (B, channels, h, w), as far as there are codes.

        mean: of `Means.mean_1`, in the window.
        """
        coded, first = prepared.coded, prepared.first[window]
        model, banks = self.model, range(self.config.banks_of(1).start + 1, len(coded.codes))
        parts = [
            model.sum_codewords(number, coded.codes[number][window], coded.classes[number][window]) for number in banks
        ]
        z1 = torch.cat([first, *parts], 1)
        z1 /= model.gain(1, quality)[:, : z1.shape[1]]
        seen = min(self.config.network_channels, z1.shape[1])
        z1[:, :seen].addcmul_(mean[:, :seen], model.unit[:, :seen])
        return z1
