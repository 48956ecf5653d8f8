"""Weights files: checked before use, and each with advice when it is not what it should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pillow_mcquic import loading, weights_files
from pillow_mcquic.engine import bundle as bundles
from pillow_mcquic.engine.bundle import DecoderBundle
from pillow_mcquic.model.config import Config, EncoderConfig
from pillow_mcquic.weights_files import ENCODER_SUFFIX

FILES = {
    "decoder": (weights_files.find_decoder, bundles.read_decoder),
    "encoder": (weights_files.find_encoder, bundles.read_encoder),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_file_is_refused(kind: str, tmp_path: Path, bundle: DecoderBundle) -> None:
    find, read = FILES[kind]
    path = tmp_path / find(bundle.id).name
    data = bytearray(find(bundle.id).read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(OSError, match=r"is damaged.*reinstall"):
        read(path)
    path.write_bytes(data[:1000])
    with pytest.raises(OSError, match=r"cannot be read.*reinstall"):
        read(path)


@pytest.fixture(scope="module")
def stored(bundle: DecoderBundle) -> tuple[bundles.Stored, bundles.Stored]:
    return tuple(read(find(bundle.id)) for find, read in FILES.values())


def saved(folder: Path, decoder: dict[str, Any], encoder: dict[str, Any]) -> Path:
    return bundles.save(folder, (Config(), decoder), (EncoderConfig(), encoder), "{}")


@pytest.mark.parametrize("strange", ["a network missing", "tables of another packing", "a tensor too many"])
def test_a_decoder_of_another_version_says_so(strange: str, tmp_path: Path, stored: Any) -> None:
    arrays = dict(stored[0].arrays)
    if strange == "a network missing":
        del arrays["synthesis.output.weight"]
    elif strange == "tables of another packing":
        arrays["tables.0.0"] = np.ones_like(arrays["tables.0.0"])
    else:
        arrays["synthesis.more"] = np.ones(3, np.float32)
    path = saved(tmp_path, arrays, stored[1].arrays)
    with pytest.raises(OSError, match=r"is not of this version.*upgrade"):
        bundles.load_decoder(path)


def test_an_encoder_of_another_version_says_so(tmp_path: Path, stored: Any, bundle: DecoderBundle) -> None:
    arrays = dict(stored[1].arrays)
    del arrays["analysis.klt"]
    path = saved(tmp_path, stored[0].arrays, arrays)
    with pytest.raises(OSError, match=r"is not of this version.*upgrade"):
        bundles.load_encoder(path.with_name(path.stem + ENCODER_SUFFIX), bundle)


def test_the_id_is_of_what_a_decoder_needs(tmp_path: Path, stored: Any, bundle: DecoderBundle) -> None:
    """Another encoder, and other previews, make no new id; another synthesis does."""
    decoder, encoder = (dict(part.arrays) for part in stored)
    config = bundles.dump_config(bundle.config)
    assert bundles.decoder_id(config, decoder) == bundle.id
    decoder["previews.scales.2.bias"] = decoder["previews.scales.2.bias"] + 1
    assert bundles.decoder_id(config, decoder) == bundle.id
    decoder["synthesis.klt"] = decoder["synthesis.klt"] + 1
    assert bundles.decoder_id(config, decoder) != bundle.id
    assert not set(decoder) & set(encoder)


def test_an_encoder_under_the_name_of_another_decoder_is_refused(tmp_path: Path, bundle: DecoderBundle) -> None:
    path = tmp_path / f"01020304{ENCODER_SUFFIX}"
    path.write_bytes(weights_files.find_encoder(bundle.id).read_bytes())
    with pytest.raises(OSError, match=f"is for decoder {bundle.id.hex()}"):
        bundles.read_encoder(path)


def test_a_model_is_loaded_once(bundle: DecoderBundle) -> None:
    assert loading.load_decoder(bundle.id).bundle is bundle
    assert loading.load_encoder().bundle is loading.load_encoder("cpu").bundle
