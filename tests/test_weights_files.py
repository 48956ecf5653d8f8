"""Where weights files are."""

from __future__ import annotations

from pathlib import Path

import pytest

from pillow_mcquic import weights_files


def test_unknown_model_is_named_with_advice() -> None:
    with pytest.raises(OSError, match=r"model 01020304, which is not here .*PILLOW_MCQUIC_WEIGHTS"):
        weights_files.find_decoder(b"\1\2\3\4")


def test_a_decoder_alone_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "01020304.safetensors").touch()
    monkeypatch.setenv("PILLOW_MCQUIC_WEIGHTS", str(tmp_path))
    assert weights_files.find_decoder(b"\1\2\3\4") == tmp_path / "01020304.safetensors"
    with pytest.raises(OSError, match=r"model 01020304 can only decode here: its encoder.*is missing"):
        weights_files.find_encoder(b"\1\2\3\4")


def test_known_models_are_decoders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("01020304.safetensors", "01020304.encoder.safetensors"):
        (tmp_path / name).touch()
    monkeypatch.setenv("PILLOW_MCQUIC_WEIGHTS", str(tmp_path))
    assert weights_files.known() == sorted({"01020304", weights_files.bundled_default()})


@pytest.mark.parametrize(("value", "message"), [("xyz", "8 hexadecimal digits"), ("01020304", "which is not here")])
def test_a_wrong_default_is_named(value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILLOW_MCQUIC_MODEL", value)
    with pytest.raises(ValueError, match=f"PILLOW_MCQUIC_MODEL .*{message}"):
        weights_files.default_id()
