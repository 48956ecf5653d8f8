"""Weights files: `ID.safetensors` holds what a decoder needs, `ID.encoder.safetensors` what only an encoder does.

A decoder's file is named by its id, the first four bytes (hex) of a SHA-256 over its configuration and tensors; `.mcq`
files carry the id, so every file finds the weights it was made with, and no other weights touch it.  An encoder names
the decoder it was made for, so a better one needs no new id (docs/format.md, section 7).
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..atomic_write import write_whole
from ..bitstream.range_coder import TOTAL_BITS
from ..bitstream.tables import BankTables, StageTables, unpack_counts
from ..errors import BadFileError
from ..model.codeword_search import BankSearch
from ..model.config import Config, EncoderConfig
from ..model.entropy_model import EntropyModel
from ..model.model import DecoderModel, EncoderModel
from ..weights_files import ENCODER_SUFFIX, SUFFIX, opened
from . import forks

Arrays = dict[str, NDArray[Any]]
ENTROPY_MODEL, TABLES, PREVIEWS = "entropy_model.", "tables.", "previews."
ESCAPE_TABLES = TABLES + "{}.escapes"  # of a bank
DIGEST_BYTES = 4


def digest(text: str, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """First 4 bytes of the SHA-256 over a text and every array's name, type, shape and bytes, in order of name."""
    sha = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        sha.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        sha.update(array.data)
    return sha.digest()[:DIGEST_BYTES]


def decoder_id(config_text: str, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The id of a decoder: the digest of all but the previews, on which no file depends."""
    return digest(config_text, {name: array for name, array in arrays.items() if not name.startswith(PREVIEWS)})


def _previews_digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    return digest("", {name: array for name, array in arrays.items() if name.startswith(PREVIEWS)}).hex()


def dump_config(config: Config | EncoderConfig) -> str:
    """The text of a configuration, as files hold it and digests are computed over it."""
    return json.dumps(config.to_dict(), sort_keys=True)


class DecoderBundle:
    """What a decoder needs: `model` decides pixels, `entropy_model` and `tables` decide the parse."""

    def __init__(self, id: bytes, config_text: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Build it from the tensors of a file; ValueError, KeyError or RuntimeError for others than these."""
        self.id, self.config = id, Config.from_dict(json.loads(config_text))
        parameters = {n: t for n, t in arrays.items() if not n.startswith((ENTROPY_MODEL, TABLES))}
        with fresh_parameters():
            self.model = load_parameters(DecoderModel(self.config), parameters)
        integers = {
            name.removeprefix(ENTROPY_MODEL): torch.from_numpy(array)
            for name, array in arrays.items()
            if name.startswith(ENTROPY_MODEL)
        }
        self.entropy_model = EntropyModel(self.config, integers)
        self.tables = [
            BankTables(
                [unpack_counts(arrays[f"{TABLES}{number}.{stage}"]) for stage in range(len(bank.stages))],
                unpack_counts(arrays[ESCAPE_TABLES.format(number)]),
            )
            for number, bank in enumerate(self.config.banks)
        ]
        self._on_device: dict[str, DecoderModel] = {}

    def on(self, device: torch.device) -> DecoderModel:
        """The model on a device; copied to it once."""
        model: DecoderModel = copied(self.model, self._on_device, device)
        return model


class EncoderBundle:
    """What only an encoder needs, beside its decoder: `model`, and what codewords cost."""

    def __init__(self, decoder: DecoderBundle, config_text: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Build it from the tensors of a file; errors as of `DecoderBundle`."""
        self.decoder, self.config = decoder, EncoderConfig.from_dict(json.loads(config_text))
        with fresh_parameters():
            self.model = load_parameters(EncoderModel(self.config, decoder.config), arrays)
        self._on_device: dict[str, EncoderModel] = {}
        self._searches: dict[str, list[BankSearch]] = {}

    def on(self, device: torch.device) -> EncoderModel:
        """The model on a device; copied to it once."""
        model: EncoderModel = copied(self.model, self._on_device, device)
        return model

    def searches(self, device: torch.device) -> list[BankSearch]:
        """The codeword search of every bank on a device; prepared once."""
        with forks.lock, torch.inference_mode(False):
            if str(device) not in self._searches:
                model = self.decoder.on(device)

                def bits(tables: StageTables) -> Tensor:
                    return (TOTAL_BITS - torch.from_numpy(tables.counts).float().log2()).to(device)

                self._searches[str(device)] = [
                    BankSearch(
                        model.books(number),
                        [bits(stage) for stage in tables.stages],
                        bits(tables.escapes)[0, 0],
                        self.config.error_per_bit,
                    )
                    for number, tables in enumerate(self.decoder.tables)
                ]
            return self._searches[str(device)]


@contextlib.contextmanager
def fresh_parameters() -> Iterator[None]:
    """Context in which models are made on the CPU, and draw no random numbers of the caller's."""
    # not on the meta device: that would make torch import its compiler, for a second
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        yield


def load_parameters(model: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Give a model the tensors of a file, float32, ready for inference."""
    model.load_state_dict({name: torch.from_numpy(array).float() for name, array in arrays.items()}, assign=True)
    return model.requires_grad_(False).eval().to(memory_format=torch.channels_last)


def copied(model: Any, copies: dict[str, Any], device: torch.device) -> Any:
    """A model, or its copy on another device."""
    if device.type == "cpu":
        return model
    # tensors made in a caller's inference mode could not take part in a refinement
    with forks.lock, torch.inference_mode(False):
        if str(device) not in copies:
            copies[str(device)] = copy.deepcopy(model).to(device)
        return copies[str(device)]


@dataclasses.dataclass(frozen=True)
class Stored:
    """A weights file, read and checked: `config` as stored, other texts in `metadata`, and its arrays."""

    config: str
    metadata: dict[str, str]
    arrays: Arrays


def _read(path: Path) -> Stored:
    with opened(path) as file:
        metadata = dict(file.metadata())
        return Stored(metadata["config"], metadata, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def read_decoder(path: Path) -> Stored:
    """A decoder's file; BadFileError when its content does not give its name."""
    stored = _read(path)
    found = decoder_id(stored.config, stored.arrays).hex()
    if found != path.stem or stored.metadata.get("previews") != _previews_digest(stored.arrays):
        raise BadFileError(f"weights file {path} is damaged (content id {found}); reinstall pillow_mcquic")
    return stored


def read_encoder(path: Path) -> Stored:
    """An encoder's file; BadFileError when its content does not give its digest, or its decoder is not its name's."""
    stored = _read(path)
    if stored.metadata.get("digest") != digest(stored.config, stored.arrays).hex():
        raise BadFileError(f"weights file {path} is damaged; reinstall pillow_mcquic")
    if stored.metadata.get("decoder", "") + ENCODER_SUFFIX != path.name:
        raise BadFileError(f"weights file {path} is for decoder {stored.metadata.get('decoder')}; rename it")
    return stored


def load_decoder(path: Path) -> DecoderBundle:
    """Read and build a decoder; BadFileError also where what the file holds is no model of this version."""
    stored = read_decoder(path)
    try:
        return DecoderBundle(bytes.fromhex(path.stem), stored.config, stored.arrays)
    except (
        KeyError,
        RuntimeError,
        ValueError,
        TypeError,
    ) as error:  # torch's own for networks of other names or shapes
        raise _of_another_version(path, error) from error


def load_encoder(path: Path, decoder: DecoderBundle) -> EncoderBundle:
    """Read and build the encoder of a decoder; errors as of `load_decoder`."""
    stored = read_encoder(path)
    try:
        return EncoderBundle(decoder, stored.config, stored.arrays)
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise _of_another_version(path, error) from error


def _of_another_version(path: Path, error: Exception) -> BadFileError:
    reason = " ".join(str(error).split())  # torch's has several lines
    return BadFileError(f"weights file {path} is not of this version ({reason}); upgrade pillow_mcquic")


def save(
    folder: str | os.PathLike[str],
    decoder: tuple[Config, Arrays],
    encoder: tuple[EncoderConfig, Arrays],
    settings_text: str,
) -> Path:
    """Write both files of a model into a folder; returns the decoder's.  `settings_text` is kept for the record."""
    config_text, encoder_text = dump_config(decoder[0]), dump_config(encoder[0])
    id = decoder_id(config_text, decoder[1]).hex()
    path = Path(folder) / (id + SUFFIX)
    texts = {"config": config_text, "previews": _previews_digest(decoder[1])}
    encoder_texts = {
        "config": encoder_text,
        "decoder": id,
        "digest": digest(encoder_text, encoder[1]).hex(),
        "settings": settings_text,
    }
    write_whole(path.with_name(id + ENCODER_SUFFIX), _serialise(encoder[1], encoder_texts), overwrite=True)
    write_whole(path, _serialise(decoder[1], texts), overwrite=True)
    return path


def _serialise(arrays: Arrays, metadata: dict[str, str]) -> bytes:
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata)
