"""Checkpoint -> weights file: class networks to integers, tables re-counted, previews fitted, real bytes checked.

The trained tables belong to fractional classes and a float network; the deployed ones to whole classes from
the integer network.  So the deployed encoder itself is run over training crops at all qualities, and what it
would write is counted; the learned tables enter as a prior for what was seen seldom.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from .. import weights
from ..coder import TOTAL_BITS, normalise_counts, pack_counts, unpack_counts
from ..container import MAX_SQUARES_PER_BYTE, QUALITY_ONE, Header
from ..engine import Engine
from ..model.class_networks import ContextNetwork
from ..model.layers import to_patches
from ..model.network import PREVIEW_BANKS
from ..model.prior import CLASS_ONE, export_class_network, export_context_network, export_embedding
from . import data
from .objective import BankTables, LevelTables, Objective
from .settings import Settings
from .start import read_checkpoint, restore
from .train import untrained, validate

PRIOR_WEIGHT = 200.0  # observations that the learned table of a class counts for
COUNT_CROP = 512
PREVIEW_EVERY = 6  # of the crops that are counted, one also serves the fit of the previews
TOLERANCE = 0.015  # between real bytes and the training-time estimate
FLOAT16_MAX = 65504.0

Arrays = dict[str, NDArray[Any]]


def load_objective(checkpoint: Path) -> tuple[Objective, Settings]:
    """Objective and settings of a checkpoint; ValueError when it is none of this version."""
    state = read_checkpoint(checkpoint)
    settings = Settings.from_dict(json.loads(state["settings"]))
    objective = untrained(settings)
    restore(objective, state["objective"], checkpoint)
    return objective.eval(), settings


def float_arrays(objective: Objective) -> Arrays:
    """Networks as float16, what needs it as float32."""
    arrays: Arrays = {}
    for name, tensor in objective.model.state_dict().items():
        full = any(part in name for part in weights.FULL_PRECISION)
        if not full and float(tensor.abs().max()) > FLOAT16_MAX:
            raise ValueError(f"{name} does not fit float16")
        arrays[f"net.{name}"] = tensor.to(torch.float32 if full else torch.float16).numpy()
    return arrays


def prior_arrays(objective: Objective) -> Arrays:
    """Class and context networks, static classes and embeddings as integers."""
    arrays: Arrays = {}
    for number, network in ((1, objective.class_network_1), (2, objective.class_network_2)):
        groups = sum(bank.groups for bank in objective.model.config.banks(number))
        for name, tensor in export_class_network(network, groups).items():
            arrays[f"prior.network_{number}.{name}"] = tensor.numpy()
    for number, context in enumerate(objective.context_networks, 1):
        for name, tensor in export_context_network(cast(ContextNetwork, context)).items():
            arrays[f"prior.context_{number}.{name}"] = tensor.numpy()
    static = torch.round(objective.class_3.detach().double() * CLASS_ONE)
    arrays["prior.class_3"] = static.to(torch.int32).numpy()
    for level in (1, 2, 3):
        for b, bank in enumerate(objective.model.banks(level)):
            for s, words in enumerate(bank.words):
                arrays[f"prior.embedding_{level}.{b}.{s}"] = export_embedding(words).numpy()
    return arrays


def learned_tables(level: int, tables: LevelTables) -> Arrays:
    """Probabilities (groups, contexts, classes, K) of every bank and stage, float64."""
    return {
        f"tables.{level}.{b}.{s}": torch.softmax(logits.detach().double(), -1).numpy()
        for b, bank in enumerate(cast(list[BankTables], list(tables.banks)))
        for s, logits in enumerate(bank.logits)
    }


class Counter:
    """Counts what the deployed encoder would write, table by table."""

    def __init__(self, engine: Engine, shapes: dict[str, tuple[int, ...]]) -> None:
        self.engine = engine
        self.counts = {name: np.zeros(shape) for name, shape in shapes.items()}

    def add(self, pixels: NDArray[np.uint8], quality: int) -> None:
        """Encode one picture at a quality (256ths) and count its codewords."""
        for level, (mine, classes) in enumerate(zip(*self.engine.quantise(pixels, quality), strict=True), 1):
            flat = mine.reshape(mine.shape[0], -1)
            row = group = 0
            for b, bank in enumerate(self.engine.weights.config.banks(level)):
                for g in range(bank.groups):
                    busy = np.zeros(flat.shape[1], np.int64)
                    for s in range(len(bank.stages)):
                        table = self.counts[f"tables.{level}.{b}.{s}"][g]
                        contexts, count, k = table.shape
                        at = classes[group].ravel().astype(np.int64) * k + flat[row]
                        if contexts > 1:
                            at += busy * (count * k)
                        table += np.bincount(at, minlength=table.size).reshape(table.shape)
                        busy |= flat[row] != 0
                        row += 1
                    group += 1


class PreviewFit:
    """Least squares for `Model.previews`: box-filtered full decodes from codes and features."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.products: dict[int, list[torch.Tensor]] = {}

    def add(self, pixels: NDArray[np.uint8], quality: int) -> None:
        """Decode one picture, of sides divisible by 16, at a quality (256ths) and take its squares in."""
        engine, model = self.engine, self.engine.model
        codes, classes = engine.quantise(pixels, quality)
        header = Header(pixels.shape[1], pixels.shape[0], "RGB", quality, b"")
        decoded = Image.fromarray(engine.synthesise(codes, classes, header))
        words, kinds = ([torch.from_numpy(mine)[None] for mine in both] for both in (codes, classes))
        with torch.inference_mode(), engine.networks():
            q = torch.tensor([quality / QUALITY_ONE])
            features = engine.features(words, kinds, q)
            z1 = engine.latent(words[0], kinds[0], engine.first_bank(words[0], kinds[0], q), features, q)
        for scale, banks in PREVIEW_BANKS.items():
            channels = sum(model.quantiser1.channel_split[:banks])
            x = model.preview_inputs(z1[:, :channels], features).double().flatten(0, 2)
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
            arrays[f"net.previews.{scale}.weight"] = fitted[:, :-1].contiguous().numpy()
            arrays[f"net.previews.{scale}.bias"] = fitted[:, -1].contiguous().numpy()
        return arrays


def check_least_cost(arrays: Arrays) -> None:
    """Raise ValueError unless a 16x16 square always costs what the container's claim check relies on.

    arrays: of a weights file, with the packed tables `tables.*`.
    """
    least = 0.0
    for name, packed in arrays.items():
        if name.startswith("tables.1."):
            per_group = TOTAL_BITS - np.log2(unpack_counts(packed).astype(np.float64).max(axis=(1, 2, 3)))
            least += float(per_group.sum())
    if least * MAX_SQUARES_PER_BYTE < 8:
        raise ValueError(f"a square can cost as little as {least:.3f} bits, the format promises more")


def export(
    checkpoint: Path,
    folder: Path,
    photos_folder: str,
    *,
    val_folder: str | None = None,
    crops: int = 600,
) -> Path:
    """Write the weights file of a checkpoint into `folder` and print the check on `val_folder`.

    Raises ValueError, and writes nothing, when real bytes on the validation photos differ from the estimate by more
    than 1.5 %, and when the tables could make files shorter than the format promises.
    """
    folder.mkdir(parents=True, exist_ok=True)  # before an hour of counting, not after
    objective, settings = load_objective(checkpoint)
    config_text = weights.dump_config(settings.model)
    arrays = {**float_arrays(objective), **prior_arrays(objective)}
    learned = {
        **learned_tables(1, objective.tables_1),
        **learned_tables(2, objective.tables_2),
        **learned_tables(3, objective.tables_3),
    }
    provisional = {name: pack_counts(normalise_counts(p + 1e-9)) for name, p in learned.items()}

    photos = data.load_photos(photos_folder, 16)  # of at least one square of the grid
    val = data.load_validation(val_folder) if val_folder else []
    # never written, so it has no id
    engine = Engine(weights.build(config_text, {**arrays, **provisional}, b""), torch.device("cpu"))
    counter = Counter(engine, {name: p.shape for name, p in learned.items()})
    previews = PreviewFit(engine)
    rng = np.random.default_rng(0)
    for i in range(crops):
        photo = photos[int(rng.integers(len(photos)))]
        size = min(COUNT_CROP, photo.shape[0]), min(COUNT_CROP, photo.shape[1])
        crop = np.ascontiguousarray(data.random_crop(photo, size, settings.shrink, rng))
        quality = int(rng.integers(256, 2049))
        counter.add(crop, quality)
        if i % PREVIEW_EVERY == 0:
            previews.add(crop[: size[0] // 16 * 16, : size[1] // 16 * 16], quality)
        if (i + 1) % 100 == 0:
            print(f"# counted {i + 1}/{crops} crops", flush=True)
    for name, counts in counter.counts.items():
        arrays[name] = pack_counts(normalise_counts(counts + PRIOR_WEIGHT * learned[name] + 1e-6))
    arrays.update(previews.arrays())
    check_least_cost(arrays)
    if val:
        check_bytes(objective, settings, weights.build(config_text, arrays, b""), val)
    path = weights.save(folder, config_text, arrays, json.dumps(settings.to_dict()))
    print(f"wrote {path}, {path.stat().st_size / 1e6:.1f} MB", flush=True)
    return path


def check_bytes(
    objective: Objective, settings: Settings, made: weights.Weights, photos: list[NDArray[np.uint8]]
) -> None:
    """Print estimated against real bits per pixel over photos; ValueError beyond the tolerance."""
    engine = Engine(made, torch.device("cpu"))
    qualities = (1, 3, 5, 8)
    estimate = validate(objective, settings, photos, torch.device("cpu"), qualities)["bpp"]
    rates = []
    for quality in qualities:
        for photo in photos:
            stream = engine.write_stream(*engine.quantise(photo, quality * 256))
            rates.append(8 * len(stream) / (photo.shape[0] * photo.shape[1]))
    real = float(np.mean(rates))
    print(f"bits per pixel over {len(photos)} photos: estimated {estimate:.4f}, real {real:.4f}", flush=True)
    if abs(real / estimate - 1) > TOLERANCE:
        raise ValueError(f"real rate {real:.4f} is not within {TOLERANCE:.1%} of the estimate {estimate:.4f}")
