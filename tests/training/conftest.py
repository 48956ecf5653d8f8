"""A toy: settings, two photos, and a run of six steps."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from pillow_mcquic.training.settings import Settings
from pillow_mcquic.training.train import train

SETTINGS = """
steps = 6
batch = 2
crop = 64
warmup = 2
[model]
hyper_width = 16
means_blocks = 1
synthesis_width_16 = 16
synthesis_blocks_16 = 1
synthesis_width_8 = 8
synthesis_blocks_8 = 1
hyper_network_width = 16
context_width = 8
[encoder]
analysis_width_8 = 16
analysis_blocks_8 = 1
analysis_width_16 = 24
analysis_blocks_16 = 1
[encoder.distortion]
msssim = 0
msssim_growth = 0
"""


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory, photo: Image.Image) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    photo.crop((0, 0, 384, 256)).save(folder / "a.png")
    photo.crop((300, 200, 500, 400)).save(folder / "b.png")
    return folder


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    path = tmp_path_factory.mktemp("settings") / "toy.toml"
    path.write_text(SETTINGS)
    return Settings.read(path)


@pytest.fixture(scope="session")
def checkpoint(settings: Settings, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "toy.pt"
    train(settings, str(photos), path, log_every=2)
    return path
