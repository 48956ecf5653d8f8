"""The decoder: code streams -> codes -> pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..bitstream import entropy
from ..bitstream.container import Header
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

    codes (B, groups, stages, h, w) int16; classes (B, groups, h, w) uint8.  Of previews there are the first banks.
    """

    codes: list[Tensor]
    classes: list[Tensor]

    def pictures(self, numbers: Sequence[int]) -> Coded:
        """Some of the pictures."""
        at = list(numbers)
        if at == list(range(len(self.codes[0]))):
            return self
        return Coded([codes[at] for codes in self.codes], [classes[at] for classes in self.classes])


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

    def read(self, streams: Sequence[bytes], header: Header, scale: int = 1) -> Coded:
        """Code streams of pictures of one size and quality -> their codes and classes; BadFileError when damaged.

        For previews of 1/`scale` reading stops after the banks of level 1 that they are made of.  A bank's classes come
        from the device, and its codes go there, for all pictures at once.
        """
        try:
            return self._read([entropy.Decoder(stream) for stream in streams], header, self.config.banks_at(scale))
        except DamagedStreamError as error:
            raise BadFileError(f"damaged .mcq file: {error}") from error

    @torch.inference_mode()
    def _read(self, decoders: list[entropy.Decoder], header: Header, banks: int) -> Coded:
        coded, device = Coded([], []), self.device.where
        assert header.quality is not None
        state = self.bundle.entropy_model.begin(header.quality, header.grids, len(decoders), device)
        for number in range(banks):
            classes, tables = state.classes(number), self.bundle.tables[number]
            of_pictures = classes.flatten(2).cpu().numpy()
            found = [decoder.read(own, tables) for decoder, own in zip(decoders, of_pictures, strict=True)]
            codes = torch.from_numpy(np.stack(found)).unflatten(3, classes.shape[2:]).to(device)  # type: ignore[no-untyped-call]
            coded.codes.append(codes)
            coded.classes.append(classes)
            if number + 1 < banks:
                state.push(number, codes)
        if banks == len(self.config.banks):
            for decoder in decoders:
                decoder.finish()
        return coded

    @torch.inference_mode()
    def classes(self, codes: list[Tensor], quality: Quality, grids: Grids) -> list[Tensor]:
        """The classes that belong to codes of all banks."""
        state = self.bundle.entropy_model.begin(quality, grids, len(codes[0]), self.device.where)
        classes = []
        for number, known in enumerate(codes):
            classes.append(state.classes(number))
            state.push(number, known)
        return classes

    def pixels(self, coded: Coded, header: Header, scale: int = 1) -> NDArray[np.uint8]:
        """Codes and classes of one picture -> (H, W, 3), or (H, W) for grey modes.

        scale: 1, or 2, 4, 8 for a picture of a half, a quarter, an eighth of the sides, rounded up, which needs fewer
        codes (see `read`) and no synthesis.
        """
        assert header.quality is not None
        images = self.images(coded, self.quality_tensor(header.quality), grey=header.grey, scale=scale)
        cropped = images[0][:, : -(-header.height // scale), : -(-header.width // scale)].permute(1, 2, 0)
        pixels: NDArray[np.uint8] = cropped.contiguous().cpu().numpy()
        return pixels[:, :, 0] if header.grey else pixels

    @torch.inference_mode()
    def images(self, coded: Coded, quality: Tensor, *, grey: bool = False, scale: int = 1) -> Tensor:
        """Codes and classes, quality (B,) -> (B, 3 or 1, h * 16 / scale, w * 16 / scale) uint8 on the device."""
        model, (B, _, _, h, w) = self.model, coded.codes[-1].shape
        with self.device.networks():
            features = self.features(coded, quality)
            first = self.first_bank(coded, quality)
            side = SQUARE // scale
            # channels last in memory, so that an array comes out without another copy
            out = empty_planes(B, 1 if grey else 3, h * side, w * side, torch.uint8, self.device.where)
            reach = model.reach if scale == 1 else model.preview_reach
            for inner, outer in windows(h, w, self.device.window_positions // B, reach):
                own, seen, here = within(inner, outer), features[outer], out[magnified(inner, side)]
                z1 = self.latent(coded, outer, first[outer], seen, quality)
                if scale == 1:
                    self._synthesise(z1, seen, quality, own, here)
                else:
                    small = model.previews(z1, seen, scale)[magnified(own, side)]
                    small = small.mean(1, keepdim=True) if grey else small
                    here[:] = small.mul_(255).round_().clamp_(0, 255)
        return out

    def _synthesise(self, z1: Tensor, features: Tensor, quality: Tensor, own: Window, out: Tensor) -> None:
        """Put the pixels of a window into `out` (B, 3 or 1, ...): `own` is the window without its margin."""
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
            parts = [
                self.model.sum_codewords(number, coded.codes[number], coded.classes[number])
                for number in self.config.banks_of(level)
            ]
            cascade.push(level, torch.cat(parts, 1))
        assert cascade.features is not None
        return cascade.features

    def first_bank(self, coded: Coded, quality: Tensor) -> Tensor:
        """Residuals of the first bank of level 1 with their checkerboard means, in steps (B, channels, h, w)."""
        number = self.config.banks_of(1).start
        residuals = self.model.sum_codewords(number, coded.codes[number], coded.classes[number])
        return self.model.checkerboard.restore(residuals, quality)

    def latent(self, coded: Coded, window: Window, first: Tensor, features: Tensor, quality: Tensor) -> Tensor:
        """Quantised latent of level 1 in a window (B, channels, h, w), as far as there are codes.

        first, features: of `first_bank` and `features`, there.
        """
        model, banks = self.model, range(self.config.banks_of(1).start + 1, len(coded.codes))
        parts = [
            model.sum_codewords(number, coded.codes[number][window], coded.classes[number][window]) for number in banks
        ]
        z1 = torch.cat([first, *parts], 1)
        z1 /= model.gain(1, quality)[:, : z1.shape[1]]
        seen = min(self.config.network_channels, z1.shape[1])
        z1[:, :seen].addcmul_(model.means.mean_1(features)[:, :seen], model.unit[:, :seen])
        return z1
