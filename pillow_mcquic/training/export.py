"""Checkpoint -> weights files: entropy networks to integers, tables counted anew, previews fitted, real bytes checked.

The trained tables belong to fractional classes and float networks; the deployed ones to whole classes from integer
networks.  So the deployed encoder itself is run over training crops at all qualities, and what it would write is
counted; the learned tables enter as a prior for what was seen seldom.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..bitstream.coding_order import ESCAPES, next_context, of_tables
from ..bitstream.range_coder import TOTAL_BITS
from ..bitstream.tables import normalise_counts, pack_counts, unpack_counts
from ..bitstream.tiles import MAX_SQUARES_PER_BYTE
from ..engine.bundle import (
    ENTROPY_MODEL,
    ESCAPE_TABLES,
    PREVIEWS,
    TABLES,
    Arrays,
    DecoderBundle,
    EncoderBundle,
    dump_config,
    save,
)
from ..engine.decoder import Coded
from ..engine.device import Device
from ..engine.encoder import Encoder
from ..model.config import PREVIEW_BANKS
from ..nn.reshape import to_patches
from ..quality import HIGHEST, LOWEST, STEPS, Quality
from . import data
from .checkpoints import load_objective
from .integers import export_entropy_model
from .learned_tables import LearnedTables
from .objective import Objective
from .settings import Settings
from .validation import validate

ESCAPE_PRIOR = np.append(1 - 1e-5, 1e-5 * 0.5 ** np.arange(1, ESCAPES + 1))  # training has no escapes
PRIOR_WEIGHT = 200.0  # observations that the learned table of a class counts for
COUNT_CROP = 512
PREVIEW_EVERY = 6  # of the crops that are counted, one also serves the fit of the previews
TOLERANCE = 0.015  # between real bytes and the training-time estimate
CHECKED_QUALITIES = (1, 3, 5, 8)
FLOAT16_MAX = 65504.0
# one float32 tensor of these is small, and its rounding would be seen
FULL_PRECISION = ("klt", "patch_mean", "deviation", "codewords.", "log_gain.", "log_step", PREVIEWS)


def float_arrays(networks: torch.nn.Module) -> Arrays:
    """Networks as float16, what needs it as float32."""
    arrays: Arrays = {}
    for name, tensor in networks.state_dict().items():
        full = any(part in name for part in FULL_PRECISION)
        if not full and float(tensor.abs().max()) > FLOAT16_MAX:
            raise ValueError(f"{name} does not fit float16")
        arrays[name] = tensor.to(torch.float32 if full else torch.float16).numpy()
    return arrays


def learned_tables(objective: Objective) -> Arrays:
    """Probabilities (groups, contexts, classes, K) of every bank and stage, float64, by their names in a file."""
    found: Arrays = {}
    for number, tables in enumerate(objective.tables):
        assert isinstance(tables, LearnedTables)
        for stage, logits in enumerate(tables.logits):
            found[f"{TABLES}{number}.{stage}"] = torch.softmax(logits.detach().double(), -1).numpy()
        found[ESCAPE_TABLES.format(number)] = np.tile(ESCAPE_PRIOR, (objective.config.classes, 1))
    return found


class TableCounter:
    """Counts what the deployed encoder would write, table by table."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.counts = {name: np.zeros(shape) for name, shape in shapes.items()}

    def add(self, coded: Coded) -> None:
        """Count the codes of a picture."""
        for number, (codes, classes) in enumerate(zip(coded.codes, coded.classes, strict=True)):
            flat, own_classes = codes[0].flatten(2).numpy(), classes[0].flatten(1).numpy().astype(np.int64)
            of_escapes = self.counts[ESCAPE_TABLES.format(number)]
            escapes, plain = np.divmod(own_classes, len(of_escapes))
            np.add.at(of_escapes, (plain, escapes), 1)
            own_classes = of_tables(own_classes, len(of_escapes))
            for group in range(len(flat)):
                context = np.zeros(flat.shape[2], np.bool_)
                for stage in range(flat.shape[1]):
                    table = self.counts[f"{TABLES}{number}.{stage}"][group]
                    _, count, k = table.shape
                    row = own_classes[group] + (context * count if stage else 0)
                    seen = np.bincount(row * k + flat[group, stage], minlength=table.size)
                    table += seen.reshape(table.shape)
                    context = next_context(context, flat[group, stage])


class PreviewFit:
    """Least squares for `model.preview.Previews`: box-filtered full decodes from codes and features."""

    def __init__(self, encoder: Encoder) -> None:
        self.decoder = encoder.decoder
        self.products: dict[int, list[torch.Tensor]] = {}

    def add(self, coded: Coded, quality: Quality) -> None:
        """Decode one picture of whole squares, and take them in."""
        decoder, config = self.decoder, self.decoder.config
        q = decoder.quality_tensor(quality)
        decoded = Image.fromarray(decoder.images(coded, q)[0].permute(1, 2, 0).contiguous().numpy())
        with torch.inference_mode(), decoder.device.networks():
            prepared = decoder.prepare(coded, q)
            features, everything = prepared.features, (..., slice(None), slice(None))
            z1 = decoder.latent(prepared, everything, decoder.model.means.mean_1(features), q)
        for scale in PREVIEW_BANKS:
            x = decoder.model.previews.inputs(z1[:, : config.preview_channels(scale)], features).double().flatten(0, 2)
            x = torch.cat([x, torch.ones(len(x), 1)], 1)
            small = torch.from_numpy(np.array(decoded.reduce(scale))).permute(2, 0, 1)[None].double() / 255
            y = to_patches(small, 16 // scale).flatten(0, 2)
            sums = self.products.setdefault(scale, [torch.zeros(()), torch.zeros(())])
            sums[0], sums[1] = sums[0] + x.t() @ x, sums[1] + x.t() @ y

    def arrays(self) -> Arrays:
        """The fitted matrices, by their names in a weights file."""
        arrays: Arrays = {}
        for scale, (inputs, outputs) in self.products.items():
            ridge = torch.diag(inputs.diagonal() * 1e-6 + 1e-9)
            fitted = torch.linalg.solve(inputs + ridge, outputs).t().float()
            arrays[f"{PREVIEWS}scales.{scale}.weight"] = fitted[:, :-1].contiguous().numpy()
            arrays[f"{PREVIEWS}scales.{scale}.bias"] = fitted[:, -1].contiguous().numpy()
        return arrays


def check_least_cost(arrays: Arrays, level_1: range) -> None:
    """Raise ValueError unless a 16x16 square always costs what the container's claim check relies on.

    arrays: with packed tables; level_1: its banks.
    """
    least = 0.0
    for name, packed in arrays.items():
        if name.startswith(TABLES) and int(name.split(".")[1]) in level_1 and packed.ndim == 4:
            per_group = TOTAL_BITS - np.log2(unpack_counts(packed).astype(np.float64).max(axis=(1, 2, 3)))
            least += float(per_group.sum())
    if least * MAX_SQUARES_PER_BYTE < 8:
        raise ValueError(f"a square can cost as little as {least:.3f} bits, the format promises more")


def build(settings: Settings, decoder: Arrays, encoder: Arrays) -> Encoder:
    """The deployed encoder, on the CPU, of weights that were not written and so have no id."""
    bundle = DecoderBundle(b"", dump_config(settings.model), decoder)
    return Encoder(EncoderBundle(bundle, dump_config(settings.encoder), encoder), Device.choose("cpu"))


def export(
    checkpoint: Path, folder: Path, photos_folder: str, *, val_folder: str | None = None, crops: int = 600
) -> Path:
    """Write the weights files of a checkpoint into `folder`, print the check on `val_folder`; returns the decoder's.

    Raises ValueError, and writes nothing, when real bytes on the validation photos differ from the estimate by more
    than 1.5 %, and when the tables could make files shorter than the format promises.
    """
    folder.mkdir(parents=True, exist_ok=True)  # before an hour of counting, not after
    objective, settings = load_objective(checkpoint)
    of_encoder = float_arrays(objective.encoder)
    of_decoder: Arrays = float_arrays(objective.decoder) | {
        ENTROPY_MODEL + name: array
        for name, array in export_entropy_model(objective.entropy_networks, objective.decoder).items()
    }
    learned = learned_tables(objective)
    provisional = {name: pack_counts(normalise_counts(p + 1e-9)) for name, p in learned.items()}
    photos = data.load_photos(photos_folder, 16)  # of at least one square of the grid
    val = data.load_validation(val_folder) if val_folder else []
    encoder = build(settings, of_decoder | provisional, of_encoder)
    counter, previews = TableCounter({name: p.shape for name, p in learned.items()}), PreviewFit(encoder)
    rng = np.random.default_rng(0)
    for i in range(crops):
        photo = photos[int(rng.integers(len(photos)))]
        size = min(COUNT_CROP, photo.shape[0]), min(COUNT_CROP, photo.shape[1])
        crop = np.ascontiguousarray(data.random_crop(photo, size, settings.shrink, rng))
        quality = Quality(int(rng.integers(LOWEST * STEPS, HIGHEST * STEPS + 1)))
        counter.add(encode(encoder, crop, quality))
        if i % PREVIEW_EVERY == 0:
            whole = np.ascontiguousarray(crop[: size[0] // 16 * 16, : size[1] // 16 * 16])
            previews.add(encode(encoder, whole, quality), quality)
        if (i + 1) % 100 == 0:
            print(f"# counted {i + 1}/{crops} crops", flush=True)
    for name, counts in counter.counts.items():
        of_decoder[name] = pack_counts(normalise_counts(counts + PRIOR_WEIGHT * learned[name] + 1e-6))
    of_decoder |= previews.arrays()
    check_least_cost(of_decoder, settings.model.banks_of(1))
    if val:
        check_bytes(objective, settings, build(settings, of_decoder, of_encoder), val)
    path = save(folder, (settings.model, of_decoder), (settings.encoder, of_encoder), json.dumps(settings.to_dict()))
    print(f"wrote {path}, {path.stat().st_size / 1e6:.1f} MB, and its encoder", flush=True)
    return path


def encode(encoder: Encoder, pixels: NDArray[np.uint8], quality: Quality) -> Coded:
    """Codes of one picture, as the deployed encoder chooses them."""
    return encoder.encode(encoder.images(pixels), quality).coded


def check_bytes(objective: Objective, settings: Settings, encoder: Encoder, photos: list[NDArray[np.uint8]]) -> None:
    """Print estimated against real bits per pixel over photos; ValueError beyond the tolerance."""
    estimate = validate(objective, settings, photos, torch.device("cpu"), CHECKED_QUALITIES)["bpp"]
    rates = []
    for quality in CHECKED_QUALITIES:
        for photo in photos:
            (stream,) = encoder.write(encode(encoder, photo, Quality.parse(quality)))
            rates.append(8 * len(stream) / (photo.shape[0] * photo.shape[1]))
    real = float(np.mean(rates))
    print(f"bits per pixel over {len(photos)} photos: estimated {estimate:.4f}, real {real:.4f}", flush=True)
    if abs(real / estimate - 1) > TOLERANCE:
        raise ValueError(f"real rate {real:.4f} is not within {TOLERANCE:.1%} of the estimate {estimate:.4f}")
