"""Checkpoint to weights files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pillow_mcquic.bitstream.tables import normalise_counts, pack_counts
from pillow_mcquic.model.config import Config
from pillow_mcquic.training.checkpoints import load_objective
from pillow_mcquic.training.export import check_least_cost, export
from pillow_mcquic.training.settings import Settings

from ..conftest import from_bytes, psnr, to_bytes


def test_tables_that_make_files_too_short_are_refused() -> None:
    config = Config()

    def zeros_only(banks: range) -> dict[str, np.ndarray]:
        arrays = {}
        for number in banks:
            bank = config.banks[number]
            for stage, k in enumerate(bank.stages):
                counts = normalise_counts(np.eye(k)[0] + 1e-12)
                arrays[f"tables.{number}.{stage}"] = np.broadcast_to(pack_counts(counts), (bank.groups, 1, 1, k))
        return arrays

    check_least_cost(zeros_only(range(7)), config.banks_of(1))  # the least that tables of this model can cost
    with pytest.raises(ValueError, match="as little as"):
        check_least_cost(zeros_only(range(5)), config.banks_of(1))


def test_what_is_exported_is_the_running_mean(checkpoint: Path, settings: Settings) -> None:
    state = torch.load(checkpoint, weights_only=True)
    mean, live = (state[which]["decoder.synthesis.output.weight"] for which in ("objective", "live"))
    assert 0 < (mean - live).abs().max() < 0.1 * live.abs().max()
    assert torch.equal(load_objective(checkpoint)[0].decoder.synthesis.output.weight, mean)
    assert [settings.average_share(step) for step in (0, 8, 90, 10**6)] == pytest.approx([0.9, 0.5, 0.09, 0.001])


def test_exported_model_codes_pictures(
    checkpoint: Path, photos: Path, tmp_path: Path, small: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "not" / "there"
    path = export(checkpoint, folder, str(photos), val_folder=None, crops=4)
    monkeypatch.setenv("PILLOW_MCQUIC_WEIGHTS", str(folder))
    monkeypatch.setenv("PILLOW_MCQUIC_MODEL", path.stem)
    data = to_bytes(small, quality=8)
    assert data[12:16].hex() == path.stem
    assert psnr(from_bytes(data), small) > 20
    monkeypatch.delenv("PILLOW_MCQUIC_MODEL")
    assert psnr(from_bytes(data), small) > 20  # found by the id in the file


def test_export_passes_over_what_is_no_photo(checkpoint: Path, tmp_path: Path, photo: Image.Image) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(5):
        photo.resize((12, 12)).save(tmp_path / "photos" / f"icon{i}.png")
    photo.crop((0, 0, 100, 40)).save(tmp_path / "photos" / "photo.png")
    assert export(checkpoint, tmp_path / "out", str(tmp_path / "photos"), crops=7).exists()


def test_weights_that_fail_their_check_are_not_written(
    checkpoint: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pillow_mcquic.training.export.TOLERANCE", -1.0)
    with pytest.raises(ValueError, match="is not within"):
        export(checkpoint, tmp_path / "out", str(photos), val_folder=str(photos), crops=2)
    assert not list((tmp_path / "out").iterdir())
