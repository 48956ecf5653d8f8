"""`mcq info`, `verify` and `version`."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from PIL import Image

from pillow_mcquic import cli
from pillow_mcquic.bitstream import file_header
from pillow_mcquic.quality import Quality

from ..conftest import PHOTO
from ..files import file_of


def test_info_and_verify(tmp_path: Path, small_file: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.mcq"
    path.write_bytes(small_file)
    assert cli.main(["info", str(path)]) == 0
    printed = capsys.readouterr().out
    for part in ("150x101 RGB, quality 4", "model ", f"{len(small_file)} bytes", "  learned squares: ", "bpp"):
        assert part in printed
    assert cli.main(["verify", str(path)]) == 0
    path.write_bytes(small_file[:-3])
    assert cli.main(["verify", "--quick", str(tmp_path)]) == 1
    assert "truncated" in capsys.readouterr().err


def test_version_tells_versions_device_and_what_the_model_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version"]) == 0
    out = capsys.readouterr().out
    for part in (
        "pillow_mcquic 0.1.0",
        "torch",
        "device",
        "format 1.0",
        "MB to decode",
        "M parameters",
        "decode 9.96 kMAC",
    ):
        assert part in out


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("PILLOW_MCQUIC_MODEL", "00112233", "PILLOW_MCQUIC_MODEL is 00112233, which is not here (known: "),
        ("PILLOW_MCQUIC_MODEL", "best", "must be 8 hexadecimal digits"),
        ("PILLOW_MCQUIC_PRECISION", "half", "PILLOW_MCQUIC_PRECISION: precision must be one of"),
        ("PILLOW_MCQUIC_DEVICE", "gpu", "PILLOW_MCQUIC_DEVICE: device must be"),
    ],
)
def test_a_wrong_setting_of_the_environment_is_named(
    variable: str,
    value: str,
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(variable, value)
    assert cli.main(["encode", str(folder / "a.png"), "-o", str(folder / "new.mcq")]) == 1
    assert message in capsys.readouterr().err


def test_names_that_the_terminal_cannot_show(
    tmp_path: Path, small_file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "写真.mcq"
    path.write_bytes(small_file)
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "cp1252", write_through=True))
    assert cli.main(["verify", str(path)]) == 0
    assert rb"\u5199\u771f.mcq: ok" in raw.getvalue()
    assert cli.main(["info", str(path)]) == 0
    assert cli.main(["encode", str(PHOTO), "-o", str(tmp_path / "写.mcq")]) == 0


def test_a_comment_does_not_steer_the_terminal(
    tmp_path: Path, small: Image.Image, capsys: pytest.CaptureFixture[str]
) -> None:
    small.save(tmp_path / "a.mcq", comment=b"red \x1b[31m, \xc3\xa9t\xc3\xa9")
    assert cli.main(["info", str(tmp_path / "a.mcq")]) == 0
    assert r"comment: red \x1b[31m, été" in capsys.readouterr().out


def test_info_needs_no_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = file_header.Header(20, 10, "RGB", Quality(512), b"\1\2\3\4")
    (tmp_path / "x.mcq").write_bytes(file_of(header, {b"C": b"1234", b"c": b"hello", b"z": b"?"}))
    assert cli.main(["info", str(tmp_path / "x.mcq")]) == 0
    printed = capsys.readouterr().out
    for part in ("model 01020304", "comment: hello", "unknown, skipped"):
        assert part in printed


def test_info_tells_learned_and_exact_squares(capsys: pytest.CaptureFixture[str]) -> None:
    golden = Path(__file__).parent.parent / "golden"
    assert cli.main(["info", str(golden / "page.mcq")]) == 0
    printed = capsys.readouterr().out
    assert "50 learned squares, 54 exact" in printed
    assert "exact squares: 334 bytes" in printed
    assert cli.main(["info", str(golden / "lossless.mcq")]) == 0
    printed = capsys.readouterr().out
    assert "91x55 RGBA, lossless" in printed
    assert "no model, 0 learned squares, 24 exact" in printed
