"""The engine: what the codec does with arrays on a device, window by window, and with streams."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from . import coder, container, runtime
from .container import BadFileError, Header
from .windows import magnified, tiled, windows, within

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .model.network import Model
    from .model.quantiser import Costs
    from .weights import Weights

TILE_POSITIONS = 8192  # of the level-1 grid, 2 MP, run through the networks at once on a CPU
WIDE_TILE_POSITIONS = 1 << 15  # on other devices: 8 MP
STRIP_POSITIONS = 1024  # whose pixels are touched at once on a CPU: fresh memory costs more than arithmetic
EVERY_POSITION = 1 << 60  # on other devices: a window in one strip

Codes = list[NDArray[np.int16]]  # of levels 1, 2, 3, each (symbols, rows, columns)
Classes = list[NDArray[np.uint8]]  # of levels 1, 2, 3, each (groups, rows, columns)


class Engine:
    """One model on one device: pixels -> codes -> streams, and back.

    The parse (classes, codes, streams) is integer arithmetic and the same everywhere; device, precision,
    threads and tiling move pixels by rounding only.
    """

    def __init__(self, weights: Weights, device: torch.device | None = None, tile_positions: int | None = None) -> None:
        """device: None is what is configured; tile_positions bounds what goes through the networks at once."""
        import torch

        self.torch = torch
        self.weights = weights
        self.device = runtime.device() if device is None else device
        self.precision = runtime.precision(self.device)
        self.dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32  # of features
        cpu = self.device.type == "cpu"
        self.tile_positions = tile_positions or (TILE_POSITIONS if cpu else WIDE_TILE_POSITIONS)
        self.search_positions = (2 if cpu else 1) * self.tile_positions
        self.strip_positions = STRIP_POSITIONS if cpu else EVERY_POSITION
        self.model, self.costs = weights.model, weights.costs
        if self.device.type != "cpu":
            self.model, self.costs = _on_device(weights, self.device)

    @contextlib.contextmanager
    def networks(self) -> Iterator[None]:
        """Context in which the networks run at the chosen precision, and what is float32 by design stays it."""
        from .model import int8

        autocast = self.torch.autocast(self.device.type, self.dtype, enabled=self.precision == "bfloat16")
        with runtime.full_products(), autocast, int8.products(self.precision == "int8"):
            yield

    def _quality(self, quality: int) -> Tensor:
        return self.torch.tensor([quality / container.QUALITY_ONE], dtype=self.torch.float32, device=self.device)

    def _floats(self, B: int, C: int, h: int, w: int, dtype: torch.dtype | None = None) -> Tensor:
        """(B, C, h, w) float32 or `dtype`, channels-last."""
        kind = self.torch.float32 if dtype is None else dtype
        return self.torch.empty((B, h, w, C), dtype=kind, device=self.device).permute(0, 3, 1, 2)

    def _image(self, pixels: NDArray[np.uint8]) -> Tensor:
        """(H, W, 3) uint8 -> (1, 3, h * 16, w * 16) uint8 on the device, edges replicated."""
        H, W = pixels.shape[:2]
        if H % 16 or W % 16:
            pixels = np.pad(pixels, ((0, -H % 16), (0, -W % 16), (0, 0)), mode="edge")
        elif not pixels.flags.writeable:
            pixels = pixels.copy()  # torch warns of memory it could write to and must not
        return self.torch.from_numpy(pixels).to(self.device).permute(2, 0, 1)[None]

    def analyse(self, pixels: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """The part of the analysis that all qualities share, for `quantise`: (H, W, 3) uint8 -> as of `_analyse`."""
        with self.torch.inference_mode(), self.networks():
            return self._analyse(self._image(pixels))

    def quantise(
        self,
        pixels: NDArray[np.uint8],
        quality: int,
        analysed: tuple[Tensor, Tensor] | None = None,
        rounds: int = 0,
    ) -> tuple[Codes, Classes]:
        """(H, W, 3) uint8 -> codes (symbols, rows, columns) int16 and classes of levels 1, 2, 3.

        `analysed`: what `analyse` gave for these pixels, to save doing it again.  rounds: of refinement.
        """
        with self.torch.inference_mode(), self.networks():
            if analysed is None:
                y1 = self._latent(self._image(pixels), quality)
            else:
                y1 = self._finish(analysed[0].clone(), analysed[1], quality)
            codes, classes = self._quantise(y1, quality)
        if rounds:
            codes, classes = self._refine(self._image(pixels), y1, codes, classes, quality, rounds)
        return [mine[0].cpu().numpy() for mine in codes], [mine[0].cpu().numpy() for mine in classes]

    def quantise_images(self, images: Tensor, quality: int, rounds: int = 0) -> tuple[list[Tensor], list[Tensor]]:
        """(B, 3, h * 16, w * 16) uint8 on the device -> codes and classes as of `quantise`, (B, ...), on the device."""
        with self.torch.inference_mode(), self.networks():
            y1 = self._latent(images, quality)
            codes, classes = self._quantise(y1, quality)
        if rounds:
            codes, classes = self._refine(images, y1, codes, classes, quality, rounds)
        return codes, classes

    def _refine(
        self, images: Tensor, scaled: Tensor, codes: list[Tensor], classes: list[Tensor], quality: int, rounds: int
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Codes and classes (B, ...) as `refine` leaves them."""
        from .refine import refine

        def picture(i: int, tensors: list[Tensor]) -> list[Tensor]:
            return [t[i : i + 1] for t in tensors]

        done = [
            refine(self, image[None], own[None], picture(i, codes), picture(i, classes), quality, rounds)
            for i, (image, own) in enumerate(zip(images, scaled, strict=True))
        ]
        codes, classes = (
            [self.torch.cat(level) for level in zip(*part, strict=True)] for part in zip(*done, strict=True)
        )
        return codes, classes

    def _latent(self, images: Tensor, quality: int) -> Tensor:
        """Analysis transform: (B, 3, h * 16, w * 16) uint8 -> y1 (B, channels, h, w) float32."""
        return self._finish(*self._analyse(images), quality)

    def _analyse(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images as of `_latent` -> linear shortcut (B, channels, h, w) float32, features (B, width, h, w).

        Pixels are touched strip by strip.
        """
        model, config = self.model, self.model.config
        B, _, H, W = images.shape
        linear = self._floats(B, model.quantiser1.channels, H // 16, W // 16)
        tiled(model.shortcut, [(images, 16)], linear, 1, 0, min(self.strip_positions, self.tile_positions))

        def analyse(window: Tensor) -> Tensor:
            height, width = window.shape[2:]
            entered = self._floats(B, config.analysis_width_8, height // 8, width // 8, self.dtype)
            tiled(model.enter, [(window, 16)], entered, 2, 0, self.strip_positions)
            return model.analyse_entered(entered)

        features = self._floats(B, config.analysis_width_16, H // 16, W // 16, self.dtype)
        tiled(analyse, [(images, 16)], features, 1, model.entered_reach, self.tile_positions // 2)
        return linear, features

    def _finish(self, linear: Tensor, features: Tensor, quality: int) -> Tensor:
        """What `_analyse` gave, the first of it overwritten -> y1 (B, channels, h, w) float32."""
        model, q = self.model, self._quality(quality)
        B, _, h, w = linear.shape
        for inner, outer in windows(h, w, self.tile_positions // B, model.analysis_reach):
            deviations = model.analyse_features(features[outer], q)[within(inner, outer)]
            linear[inner].addcmul_(deviations.float(), model.spread)
        return linear

    def _quantise(self, y1: Tensor, quality: int) -> tuple[list[Tensor], list[Tensor]]:
        """y1 (B, channels, h, w), overwritten -> codes and classes of levels 1, 2, 3."""
        model, q = self.model, self._quality(quality)
        B, _, h, w = y1.shape
        hyper = self._floats(B, model.config.hyper_width, -(-h // 2), -(-w // 2))
        tiled(lambda y1: model.hyper_features(y1, q), [(y1, 2)], hyper, 1, 1, self.tile_positions // 4)
        y2, y3 = model.hyper_analyse(hyper, q)
        sizes = [(y.shape[2], y.shape[3]) for y in (y1, y2, y3)]
        scaled: Sequence[Tensor] = [y3 * model.gain(3, q)]  # residuals of the banks of the level in turn, in steps
        features = mean = y3  # what levels 3 and 2 predict, once they are coded

        def code(level: int, bank: int, classes: Tensor) -> Tensor:
            nonlocal scaled, features, mean
            if level == 1:
                return self._assign_1(bank, scaled[bank], classes, q)
            codes = self._assign(level, bank, scaled[bank], classes)
            if level == 3:
                features, mean = self._predict_2(codes, classes, q, sizes[1])
                scaled = [(y2 - mean) * model.gain(2, q)]
            else:
                features = self._predict_1(codes, classes, features, mean, q, sizes[0])
                for inner, outer in windows(h, w, self.tile_positions // B, model.mean_reach):
                    mean_1 = model.mean_1(features[outer])[within(inner, outer)]
                    y1[inner][:, : model.deep].addcmul_(mean_1, model.unit, value=-1)
                y1.mul_(model.gain(1, q))
                scaled = self.torch.split(y1, model.quantiser1.channel_split, 1)
            return codes

        return self._parse(code, quality, sizes, B, len(model.config.level1))

    def _assign(self, level: int, bank: int, x: Tensor, classes: Tensor) -> Tensor:
        """Scaled residuals of a bank (B, channels, h, w) -> its codes, some rows at a time."""
        codebooks = self.model.banks(level)[bank]
        rows = max(1, self.search_positions // (len(x) * x.shape[3]))
        strips = [
            codebooks.assign(part, part_classes, self.costs[level - 1][bank])
            for part, part_classes in zip(self.torch.split(x, rows, 2), self.torch.split(classes, rows, 2), strict=True)
        ]
        return self.torch.cat(strips, 2)

    def _assign_1(self, bank: int, x: Tensor, classes: Tensor, quality: Tensor) -> Tensor:
        """`_assign` for a bank of level 1, the first one phase by phase."""
        from .model.network import at_phase

        if bank:
            return self._assign(1, bank, x, classes)
        books = self.model.banks(1)[0]
        codes = self.torch.empty(len(x), books.bank.symbols, *x.shape[2:], dtype=self.torch.int16, device=self.device)

        def assign(phase: int, mean: Tensor | float) -> Tensor:
            at = at_phase(phase)
            mine = classes[at]
            codes[at] = found = self._assign(1, 0, x[at] - mean, mine)
            return books.sum_words(found, mine)

        self.model.by_phase(assign, tuple(x.shape), quality)
        return codes

    def _hidden_1(self, codes3: Tensor, codes2: Tensor, quality: int) -> Tensor:
        """What the codes of levels 3 and 2 (B, ...) tell the classes of level 1, (width, B, ...)."""
        return self.weights.prior.hidden_1(codes3.transpose(0, 1), codes2.transpose(0, 1), quality)

    def _level_1(
        self,
        codes_of: Callable[[int, Tensor], Tensor],
        hidden: Tensor,
        quality: int,
        size: tuple[int, int],
        banks: int,
    ) -> tuple[Tensor, Tensor]:
        """Codes and classes of the first banks of level 1; `codes_of` gives a bank's codes once it has classes.

        hidden: of `_hidden_1`.
        """
        from .model.prior import pad

        torch, prior = self.torch, self.weights.prior
        h, w = size
        starts = [0, *itertools.accumulate(self.model.quantiser1.group_split[: banks - 1])]
        energy = torch.empty((starts[-1], hidden.shape[1], h + 2, w + 2), dtype=torch.uint8, device=self.device)
        codes: list[Tensor] = []
        classes: list[Tensor] = []
        for bank, start in enumerate(starts):
            if bank:
                energy[starts[bank - 1] : start] = pad(prior.log_energy(bank - 1, codes[-1].transpose(0, 1)))
            classes.append(prior.classes_1(bank, hidden, energy[:start], quality).transpose(0, 1))
            codes.append(codes_of(bank, classes[-1]))
        return torch.cat(codes, 1), torch.cat(classes, 1)

    def classes(self, codes: list[Tensor], quality: int) -> list[Tensor]:
        """The classes that belong to codes of levels 1, 2, 3 (B, symbols, rows, columns) on the device."""
        banks = self.torch.split(codes[0], self.model.quantiser1.symbol_split, 1)
        known = {1: banks, 2: codes[1:2], 3: codes[2:3]}
        sizes = [(mine.shape[2], mine.shape[3]) for mine in codes]
        return self._parse(lambda level, bank, _: known[level][bank], quality, sizes, len(codes[0]), len(banks))[1]

    def _parse(
        self,
        codes_of: Callable[[int, int, Tensor], Tensor],
        quality: int,
        sizes: Sequence[tuple[int, int]],
        images: int,
        banks: int,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Codes and classes of levels 1, 2, 3, coarse to fine, as far as the first banks of level 1.

        codes_of(level, bank, classes) gives a bank's codes once it has classes (images, groups, rows, columns).  Levels
        3 and 2 are one bank each.
        """
        torch, prior = self.torch, self.weights.prior
        with torch.inference_mode():
            classes3 = prior.classes_3(quality, sizes[2]).to(self.device).expand(images, -1, -1, -1)
            codes3 = codes_of(3, 0, classes3)
            classes2 = prior.classes_2(codes3.transpose(0, 1), quality, sizes[1]).transpose(0, 1)
            codes2 = codes_of(2, 0, classes2)
            hidden = self._hidden_1(codes3, codes2, quality)
            codes1, classes1 = self._level_1(partial(codes_of, 1), hidden, quality, sizes[0], banks)
        return [codes1, codes2, codes3], [classes1, classes2, classes3]

    def write_stream(self, codes: Codes, classes: Classes) -> bytes:
        """Codes and classes of levels 1, 2, 3 -> their code stream, coarse to fine."""
        encoder = coder.Encoder()
        for mine, kinds, tables in reversed(list(zip(codes, classes, self.weights.tables, strict=True))):
            encoder.write(mine.reshape(len(mine), -1), kinds.reshape(len(kinds), -1), tables)
        return encoder.finish()

    def read_stream(self, stream: bytes, header: Header, scale: int = 1) -> tuple[Codes, Classes]:
        """A code stream -> codes and classes of levels 1, 2, 3; BadFileError when it is damaged.

        For a preview of 1/`scale` reading stops after the banks of level 1 that it is made of.
        """
        codes, classes = self.read_streams([stream], header, scale)
        return [mine[0].cpu().numpy() for mine in codes], [mine[0].cpu().numpy() for mine in classes]

    def read_streams(
        self, streams: Sequence[bytes], header: Header, scale: int = 1
    ) -> tuple[list[Tensor], list[Tensor]]:
        """`read_stream` for pictures of one size and quality: codes and classes (B, ...), on the device.

        A bank's classes come from the device, and its codes go there, for all pictures at once.
        """
        from .model.network import PREVIEW_BANKS

        torch, every = self.torch, len(self.weights.config.level1)
        banks = every if scale == 1 else PREVIEW_BANKS[scale]

        def read(level: int, bank: int, classes: Tensor) -> Tensor:
            first = sum(before.groups for before in self.weights.config.banks(level)[:bank])
            kinds, tables = classes.flatten(2).cpu().numpy(), self.weights.tables[level - 1]
            codes = [decoder.read(mine, tables, first) for decoder, mine in zip(decoders, kinds, strict=True)]
            found: Tensor = torch.from_numpy(np.stack(codes)).view(len(codes), -1, *classes.shape[2:])
            return found.to(self.device)

        try:
            decoders = [coder.Decoder(stream) for stream in streams]
            codes, classes = self._parse(read, header.quality, header.grids, len(streams), banks)
            if banks == every:
                for decoder in decoders:
                    decoder.finish()
        except coder.DamagedStreamError as error:
            raise BadFileError(f"damaged .mcq file: {error}") from error
        return codes, classes

    def synthesise(self, codes: Codes, classes: Classes, header: Header, scale: int = 1) -> NDArray[np.uint8]:
        """Codes and classes of levels 1, 2, 3 -> pixels, (H, W, 3) or (H, W) uint8 for grey modes.

        scale: 1, or 2, 4, 8 for a picture of a half, a quarter, an eighth of the sides, rounded up, which needs less
        of level 1 (see `read_stream`) and no synthesis transform.
        """
        batches = [[self.torch.from_numpy(mine)[None].to(self.device) for mine in both] for both in (codes, classes)]
        quality = self._quality(header.quality)
        image = self.synthesise_images(batches[0], batches[1], quality, grey=header.grey, scale=scale)[0]
        cropped = image[:, : -(-header.height // scale), : -(-header.width // scale)].permute(1, 2, 0)
        pixels: NDArray[np.uint8] = cropped.contiguous().cpu().numpy()
        return pixels[:, :, 0] if header.grey else pixels

    def synthesise_images(
        self, codes: list[Tensor], classes: list[Tensor], quality: Tensor, *, grey: bool = False, scale: int = 1
    ) -> Tensor:
        """Codes and classes (B, ...), quality (B,) in 1..8, all on the device -> (B, 3 or 1, h * 16, w * 16) uint8."""
        from .model.layers import quarters_to_pixels

        torch, model = self.torch, self.model
        B, _, h, w = codes[0].shape
        with torch.inference_mode(), self.networks():
            features = self.features(codes, classes, quality)
            first = self.first_bank(codes[0], classes[0], quality)

            def leave(z1: Tensor, last: Tensor) -> Tensor:
                patches = model.leave(z1, last, one=255.0, offset=0.5)  # what is behind the point is cut off
                if grey:
                    patches = patches.view(*patches.shape[:3], 256, 3).mean(-1)
                return quarters_to_pixels(patches.clamp_(0, 255).to(torch.uint8)).permute(0, 3, 1, 2)

            def preview(z1: Tensor, seen: Tensor) -> Tensor:
                x = model.preview(z1, seen, scale)
                if grey:
                    x = x.mean(1, keepdim=True)
                return x.mul_(255).round_().clamp_(0, 255)

            side = 16 // scale
            # channels last in memory, so that an array comes out without another copy
            out: Tensor = torch.empty(B, h * side, w * side, 1 if grey else 3, dtype=torch.uint8, device=self.device)
            out = out.permute(0, 3, 1, 2)
            reach = model.synthesis_reach if scale == 1 else model.preview_reach
            for inner, outer in windows(h, w, self.tile_positions // B, reach):
                seen, own = features[outer], within(inner, outer)
                z1 = self.latent(codes[0][outer], classes[0][outer], first[outer], seen, quality)
                here = out[magnified(inner, side)]
                if scale == 1:
                    last = model.synthesise_features(z1, seen, quality)
                    parts = [(z1[own], 1), (last[magnified(own, 2)], 2)]
                    tiled(leave, parts, here, side, 0, self.strip_positions)
                else:
                    here[:] = preview(z1, seen)[magnified(own, side)]
        return out

    def features(self, codes: list[Tensor], classes: list[Tensor], quality: Tensor) -> Tensor:
        """What codes and classes of levels 2 and 3 say about level 1: features (B, hyper, h, w) on its grid."""
        size1, size2 = ((mine.shape[2], mine.shape[3]) for mine in codes[:2])
        features, mean = self._predict_2(codes[2], classes[2], quality, size2)
        return self._predict_1(codes[1], classes[1], features, mean, quality, size1)

    def _predict_2(
        self, codes: Tensor, classes: Tensor, quality: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Level 3 -> features and mean of level 2, on its grid."""
        z3 = self.model.quantiser3.sum_words(codes, classes) / self.model.gain(3, quality)
        return self.model.predict_2(z3, quality, size)

    def _predict_1(
        self, codes: Tensor, classes: Tensor, features: Tensor, mean: Tensor, quality: Tensor, size: tuple[int, int]
    ) -> Tensor:
        """Level 2 with what `_predict_2` gave -> features of level 1, on its grid."""
        z2 = self.model.quantiser2.sum_words(codes, classes) / self.model.gain(2, quality) + mean
        return self.model.predict_1(z2, features, quality, size)

    def first_bank(self, codes: Tensor, classes: Tensor, quality: Tensor) -> Tensor:
        """Codes and classes of level 1 -> residuals of its first bank, in steps (B, channels, h, w)."""
        from .model.network import at_phase

        books, groups = self.model.banks(1)[0], self.model.quantiser1.group_split[0]
        words = books.sum_words(codes[:, : books.bank.symbols], classes[:, :groups])
        return self.model.by_phase(lambda phase, _: words[at_phase(phase)], tuple(words.shape), quality)

    def latent(self, codes: Tensor, classes: Tensor, first: Tensor, features: Tensor, quality: Tensor) -> Tensor:
        """Codes and classes of (the first banks of) level 1 in a window -> quantised y1 (B, channels, h, w).

        first: of `first_bank`, there.
        """
        model = self.model
        z1 = model.quantiser1.sum_words(codes, classes, first)
        z1 /= model.gain(1, quality)[:, : z1.shape[1]]
        seen = min(model.deep, z1.shape[1])
        z1[:, :seen].addcmul_(model.mean_1(features)[:, :seen], model.unit[:, :seen])
        return z1


def _on_device(weights: Weights, where: torch.device) -> tuple[Model, list[list[Costs]]]:
    """A copy of the networks and the words' costs on another device, made once."""
    import copy

    import torch

    from .model.quantiser import Costs

    key = weights.id + str(where).encode()
    with runtime.lock, torch.inference_mode(False):  # see `codec.load_weights`
        if key not in _device_copies:
            model = copy.deepcopy(weights.model).to(where)
            costs = [
                [
                    Costs(bank, mine.bits, weights.config.error_per_bit)
                    for bank, mine in zip(model.banks(level), weights.costs[level - 1], strict=True)
                ]
                for level in (1, 2, 3)
            ]
            _device_copies[key] = model, costs
        return _device_copies[key]


_device_copies: dict[bytes, tuple[Model, list[list[Costs]]]] = {}
