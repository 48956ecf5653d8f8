"""The encoder: pixels -> codes -> code streams."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..bitstream import entropy
from ..bitstream.coding_order import of_tables
from ..bitstream.grids import SQUARE, Box, grids_of
from ..model.coding_state import CodingState
from ..model.distortion import ANCHORS
from ..model.inversion import Inversion
from ..model.means import PASSES, positions_of
from ..model.model import Cascade
from ..model.nearest import group_of
from ..model.rate_distortion import Rates
from ..nn.layers import unit_range
from ..nn.reshape import empty_planes, pad_to_multiple
from ..quality import Quality
from .bundle import EncoderBundle
from .decoder import Coded, Decoder
from .device import Device
from .surroundings import Surroundings
from .windows import magnified, run_windowed, windows, within


@dataclasses.dataclass(frozen=True)
class Analysed:
    """The part of the analysis that all qualities share.

    shortcut (B, channels, h, w) float32; features (B, width, h, w).
    """

    shortcut: Tensor
    features: Tensor


class Encoded(NamedTuple):
    """What an encoder chose, and what `refinement.refine` needs: residuals of level 1, in steps, and what is around."""

    coded: Coded
    residuals: Tensor
    around: Surroundings

    def pictures(self, numbers: list[int]) -> Encoded:
        """Some of the pictures."""
        latent, features, inside = self.around.latent, self.around.features, self.around.inside
        around = Surroundings(latent[numbers], features[numbers], inside)
        return Encoded(self.coded.pictures(numbers), self.residuals[numbers], around)


class Encoder:
    """One model on one device: pixels -> codes, and codes -> streams."""

    def __init__(self, bundle: EncoderBundle, device: Device) -> None:
        self.bundle, self.device = bundle, device
        self.decoder = Decoder(bundle.decoder, device)
        self.config = self.decoder.config
        self.model = bundle.on(device.where)
        self.searches = bundle.searches(device.where)
        self.inversion = Inversion()

    def images(self, pixels: NDArray[np.uint8]) -> Tensor:
        """(H, W, 3) uint8 -> (1, 3, H, W) uint8 on the device."""
        if not pixels.flags.writeable or min(pixels.strides) < 0:
            pixels = pixels.copy()  # torch warns of memory it could write to and must not, and knows no such strides
        return torch.from_numpy(pixels).to(self.device.where).permute(2, 0, 1)[None]

    @torch.inference_mode()
    def analyse(self, images: Tensor) -> Analysed:
        """(B, 3, H, W) uint8 on the device -> what `encode` would find first, to save finding it again."""
        with self.device.networks():
            return self._analyse(pad_to_multiple(images, SQUARE))

    @torch.inference_mode()
    def encode(self, images: Tensor, quality: Quality, analysed: Analysed | None = None) -> Encoded:
        """Images -> their codes and classes, and what `refinement.refine` needs.

        Parameters
        ----------
        images : (B, 3, H, W) uint8 on the device.
        quality : of all of them.
        analysed : what `analyse` gave for these images.
        """
        q, grids = self.decoder.quality_tensor(quality), grids_of(images.shape[3], images.shape[2])
        padded, (h, w) = pad_to_multiple(images, SQUARE), grids[1]
        with self.device.networks():
            y = self.latents(padded, q, analysed)
            state = self.bundle.decoder.entropy_model.begin(quality, grids, len(images), self.device.where)
            cascade, coded = Cascade(self.decoder.model, q, grids), Coded([], [])
            for level in (3, 2):
                found = self.choose_coarse(level, y[level], cascade.mean, state, q)
                cascade.push(level, self.decoder.residuals(level, found))
                coded = coded.followed_by(found)
            assert cascade.features is not None
            around = Surroundings(y[1], cascade.features, Box(0, 0, w, h))
            return self.choose_fine(padded, y[1], around, coded, state, q)

    def latents(self, images: Tensor, q: Tensor, analysed: Analysed | None = None) -> dict[int, Tensor]:
        """Latents by level of images (B, 3, h * 16, w * 16) uint8."""
        known = self._analyse(images) if analysed is None else Analysed(analysed.shortcut.clone(), analysed.features)
        y1 = self._latent(known, q)
        y2, y3 = self._hyper_latents(y1, q)
        return {1: y1, 2: y2, 3: y3}

    def choose_coarse(
        self, level: int, y: Tensor, mean: Tensor | None, state: CodingState[Quality], q: Tensor
    ) -> Coded:
        """Codes and classes of level 3 or 2, for its latent and the mean of that; `state` goes on."""
        residuals = (y if mean is None else y - mean) * self.decoder.model.gain(level, q)
        return self.choose_level(level, residuals, state, q)

    def choose_fine(
        self, images: Tensor, y1: Tensor, around: Surroundings, coarse: Coded, state: CodingState[Quality], q: Tensor
    ) -> Encoded:
        """Codes and classes of level 1, behind those of the coarser levels.

        Parameters
        ----------
        images : what `around` knows of, (B, 3, h * 16, w * 16) uint8.
        y1 : the latent of the part inside, overwritten.
        coarse, state : all that is known of the coarser levels.
        """
        if bool((q > ANCHORS[1]).any()):
            y1 = self._inverted(images, y1, around, q)
        residuals = self._subtract_mean(y1, around).mul_(self.decoder.model.gain(1, q))
        return Encoded(coarse.followed_by(self.choose_level(1, residuals, state, q)), residuals, around)

    def write(self, coded: Coded, banks: range | None = None) -> list[bytes]:
        """Codes and classes -> the code stream of each picture; banks: of these alone, to know its length."""
        numbers = range(len(coded.codes)) if banks is None else banks
        codes = {number: coded.codes[number].flatten(3).cpu().numpy() for number in numbers}
        classes = {number: coded.classes[number].flatten(2).cpu().numpy() for number in numbers}
        streams = []
        for picture in range(len(coded.codes[0])):
            encoder = entropy.Encoder()
            for number in numbers:
                tables = self.bundle.decoder.tables[number]
                encoder.write(codes[number][picture], classes[number][picture], tables)
            streams.append(encoder.finish())
        return streams

    @torch.inference_mode()
    def bits(self, coded: Coded) -> Tensor:
        """About what the codes of one picture take, by position of level 1, (h, w); a coarser code counts in shares."""
        total = torch.zeros(coded.codes[-1].shape[3:], dtype=torch.float32, device=self.device.where)
        for number, bank in enumerate(self.config.banks):
            codes = coded.codes[number][0].transpose(0, 1).flatten(2).long()
            classes, search = coded.classes[number][0].flatten(1).long(), self.searches[number]
            bits = Rates(search.bits, group_of(classes), of_tables(classes, search.classes)).total(codes.unbind(0))
            bits += search.escape_bits[classes % search.classes, classes // search.classes]
            side, own = 2 ** (bank.level - 1), bits.sum(0).view(coded.codes[number].shape[3:])
            shares = own.repeat_interleave(side, 0).repeat_interleave(side, 1) / side**2
            total += shares[: total.shape[0], : total.shape[1]]
        return total

    def _analyse(self, images: Tensor) -> Analysed:
        """(B, 3, h * 16, w * 16) uint8; pixels are touched block by block."""
        analysis, device = self.model.analysis, self.device
        B, _, H, W = images.shape
        patch_mean = self.decoder.model.synthesis.patch_mean
        shortcut = empty_planes(B, self.config.channels(1), H // SQUARE, W // SQUARE, device=device.where)
        block = min(device.block_positions, device.window_positions)
        run_windowed(lambda x: analysis.shortcut(x, patch_mean), [(images, SQUARE)], shortcut, 1, 0, block)

        def features_of(window: Tensor) -> Tensor:
            height, width = window.shape[2:]
            first = empty_planes(B, analysis.width_8, height // 8, width // 8, device.feature_dtype, device.where)
            run_windowed(analysis.features_8, [(window, SQUARE)], first, 2, 0, device.block_positions)
            return analysis.features_16(first)

        features = empty_planes(B, analysis.width_16, H // SQUARE, W // SQUARE, device.feature_dtype, device.where)
        # of half a window: of a whole one, glibc would give memory back and take it again
        run_windowed(features_of, [(images, SQUARE)], features, 1, analysis.reach_8, device.window_positions // 2)
        return Analysed(shortcut, features)

    def _latent(self, analysed: Analysed, q: Tensor) -> Tensor:
        """Latent of level 1 (B, channels, h, w) float32, in place of the shortcut."""
        analysis, y1 = self.model.analysis, analysed.shortcut
        B, _, h, w = y1.shape
        for inner, outer in windows(h, w, self.device.window_positions // B, analysis.reach_16):
            deviations = analysis.deviations(analysed.features[outer], q)[within(inner, outer)]
            y1[inner].addcmul_(deviations.float(), self.decoder.model.spread)
        return y1

    def _hyper_latents(self, y1: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """Latents of levels 2 and 3."""
        hyper, model = self.model.hyper_analysis, self.decoder.model
        B, _, h, w = y1.shape
        features = empty_planes(B, hyper.width, -(-h // 2), -(-w // 2), device=self.device.where)
        positions = self.device.window_positions // 4
        run_windowed(lambda window: hyper.features(model.normalise(window), q), [(y1, 2)], features, 1, 1, positions)
        return hyper.latents(features, q)

    def _inverted(self, images: Tensor, y1: Tensor, around: Surroundings, q: Tensor) -> Tensor:
        """The latent of level 1 where synthesis gives the picture back (`model.inversion`)."""
        model, device = self.decoder.model, self.device
        width, height = (SQUARE * side for side in around.inside.size)

        def left_of(latent: Tensor) -> Tensor:
            left = empty_planes(len(y1), 3, height, width, device=device.where)
            for inner, outer in around.windows(device.window_positions // len(y1), model.synthesis.reach):
                seen = around.around(outer, latent[around.own(outer)])
                decoded = model.synthesise(seen, around.features[outer], q)
                own = magnified(around.own(inner), SQUARE)
                left[own] = unit_range(images[magnified(inner, SQUARE)])
                left[own] -= decoded[magnified(within(inner, outer), SQUARE)]
            return left

        return self.inversion(y1, model.synthesis.klt, left_of, q)

    def _subtract_mean(self, y1: Tensor, around: Surroundings) -> Tensor:
        """Residuals of level 1, in place of the latent."""
        model = self.decoder.model
        for inner, outer in around.windows(self.device.window_positions // len(y1), model.means.REACH_1):
            mean = model.means.mean_1(around.features[outer])[within(inner, outer)]
            y1[around.own(inner)][:, : self.config.network_channels].addcmul_(mean, model.unit, value=-1)
        return y1

    def choose_level(self, level: int, residuals: Tensor, state: CodingState[Quality], q: Tensor) -> Coded:
        """Residuals of a level in steps (B, channels, h, w) -> codes and classes of its banks; `state` goes on."""
        coded, parts = Coded([], []), self.decoder.model.split_banks(residuals, level)
        for number in self.config.banks_of(level):
            classes = state.classes(number)
            if number == self.config.banks_of(1).start:
                codes, classes = self.choose_checkerboard(number, parts[number], classes, q)
            else:
                codes, classes = self._search(number, parts[number], classes)
            state.push(number, codes)
            coded.codes.append(codes)
            coded.classes.append(classes)
        return coded

    def choose_checkerboard(self, number: int, x: Tensor, classes: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """`_search` of the first bank of level 1, pass by pass: each pass has means from those before it."""
        model, bank = self.decoder.model, self.config.banks[number]
        shape = len(x), bank.groups, len(bank.stages), *x.shape[2:]
        codes = torch.empty(shape, dtype=torch.int16, device=self.device.where)
        known, classes = torch.zeros_like(x), classes.clone()
        for pass_number in range(len(PASSES)):
            at = positions_of(pass_number)
            if 0 in x[at].shape:
                continue
            mean = model.checkerboard.mean(pass_number, known, q)
            codes[at], classes[at] = found = self._search(number, x[at] - mean, classes[at])
            known[at] = model.sum_codewords(number, *found) + mean
        return codes, classes

    def _search(self, number: int, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """`BankSearch.codes` of a bank, some rows at a time."""
        rows = max(1, self.device.search_positions // (len(x) * x.shape[3]))
        blocks = zip(torch.split(x, rows, 2), torch.split(classes, rows, 2), strict=True)
        codes, found = zip(*(self.searches[number].codes(*block) for block in blocks), strict=True)
        return torch.cat(codes, 3), torch.cat(found, 2)
