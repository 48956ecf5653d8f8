"""Training as a user would train an own model, on a toy: resumable to the step."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pillow_mcquic.training.data import Crops
from pillow_mcquic.training.objective import Objective
from pillow_mcquic.training.settings import Settings
from pillow_mcquic.training.train import Run, relative_cost, train

from .conftest import SETTINGS


def test_every_quality_counts_alike(settings: Settings) -> None:
    """R-D of photos goes about as the root of lambda; a tenth less of it is the same gain at quality 1 and 8."""
    quality = torch.tensor([1.0, 8.0])
    typical = 10 * settings.encoder.distortion.weight(quality).sqrt()
    assert typical[1] > 5 * typical[0]
    gain = relative_cost(typical, quality, settings) - relative_cost(0.9 * typical, quality, settings)
    assert gain[0] == pytest.approx(float(gain[1]), rel=1e-3)
    slope = [
        float(relative_cost(rd + 1e-3 * typical, quality, settings)[0] - relative_cost(rd, quality, settings)[0])
        for rd in (0 * typical, typical, 4 * typical)
    ]
    assert slope[0] == pytest.approx(3 * slope[1], rel=0.01)  # an empty crop, one as usual, a busy one
    assert slope[1] == pytest.approx(3 * slope[2], rel=0.01)


def test_a_run_measures_what_errors_cost(checkpoint: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)["objective"]
    cost, unit = state["tables.2.error_cost"]
    assert unit.count_nonzero() > 20
    assert (cost[unit > 0] > 0).float().mean() > 0.8  # errors cost, but for noise
    assert state["decoder.log_gain.1"][:, 0].diff().count_nonzero() == 9


@pytest.mark.slow
def test_stopped_and_resumed_run_equals_an_unbroken_one(
    settings: Settings, photos: Path, checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "toy.pt"
    train(settings, str(photos), path, stop_after_minutes=0)
    assert torch.load(path, weights_only=True)["step"] == 0

    class StopError(Exception):
        pass

    original = Crops.__getitem__

    def stop_at_3(self: Crops, step: int) -> object:
        if step == 3:
            raise StopError
        return original(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Crops, "__getitem__", stop_at_3)
        with pytest.raises(StopError):
            train(settings, str(photos), path, checkpoint_minutes=0)
    assert torch.load(path, weights_only=True)["step"] == 3
    train(settings, str(photos), path)
    unbroken, resumed = (torch.load(p, weights_only=True) for p in (checkpoint, path))
    assert resumed["step"] == unbroken["step"] == settings.steps
    for which in ("objective", "live"):
        for name, tensor in unbroken[which].items():
            assert torch.allclose(tensor, resumed[which][name], atol=1e-5), name


def test_gains_move_every_few_steps(
    settings: Settings, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = list[float]()
    monkeypatch.setattr("pillow_mcquic.training.train.ALLOCATE_EVERY", 4)
    monkeypatch.setattr(Objective, "allocate", lambda self, speed: speeds.append(speed))
    train(settings, str(photos), tmp_path / "toy.pt")
    assert speeds == [4 * settings.allocation * settings.rate_factor(step, step / settings.steps) for step in (0, 4)]


def test_a_schedule_fitted_into_a_time_needs_one(settings: Settings, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--minutes"):
        train(settings, str(photos), tmp_path / "toy.pt", within=True)


@pytest.mark.slow
def test_a_schedule_fitted_into_a_time_goes_on_where_it_was(settings: Settings, photos: Path, tmp_path: Path) -> None:
    path, clock = tmp_path / "toy.pt", itertools.count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.monotonic", lambda: float(next(clock)))
        train(settings, str(photos), path, stop_after_minutes=10 / 60, within=True)
        done = torch.load(path, weights_only=True)
        assert done["seconds"] >= 10
        train(settings, str(photos), path, stop_after_minutes=10 / 60, within=True)
        assert torch.load(path, weights_only=True)["step"] == done["step"]
        train(settings, str(photos), path, stop_after_minutes=20 / 60, within=True)
    more = torch.load(path, weights_only=True)
    assert 3 <= more["step"] - done["step"] <= 5


@pytest.mark.slow
def test_a_schedule_may_be_fitted_into_a_time(settings: Settings, photos: Path, tmp_path: Path) -> None:
    path, clock = tmp_path / "toy.pt", itertools.count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.monotonic", lambda: float(next(clock)))  # which goes by two a step
        train(settings, str(photos), path, stop_after_minutes=20 / 60, within=True)
    state = torch.load(path, weights_only=True)
    assert state["step"] == 10 > settings.steps
    assert state["optimisers"][1]["param_groups"][0]["lr"] == pytest.approx(
        settings.muon_rate * settings.rate_factor(9, 19 / 20)
    )


def test_validation_without_its_package_is_refused_at_once(
    settings: Settings, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pillow-mcquic\[training\]"):
        train(settings, str(photos), tmp_path / "x.pt", val_folder=str(photos))


@pytest.mark.slow
def test_command_line_trains(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "toy.toml").write_text(SETTINGS)
    checkpoint = tmp_path / "new" / "toy.pt"
    command = [sys.executable, "-m", "pillow_mcquic.training", "train", photos, checkpoint]
    options = ["--settings", tmp_path / "toy.toml", "--val", photos, "--steps", "50", "--minutes", "0.05"]
    out = subprocess.run([*command, *options], capture_output=True, text=True, check=True, timeout=200)
    assert "val bpp" in out.stdout
    bad = subprocess.run([*command[:-2], tmp_path / "none", "x.pt"], capture_output=True, text=True, timeout=100)
    assert bad.returncode == 1
    assert "no image files" in bad.stderr
    (tmp_path / "notes.txt").write_text("no checkpoint")
    bad = subprocess.run(
        [*command[:3], "export", tmp_path / "notes.txt", tmp_path, photos], capture_output=True, text=True, timeout=100
    )
    assert bad.returncode == 1
    assert "notes.txt is not a checkpoint" in bad.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="torchrun with gloo")
def test_two_processes_under_torchrun(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "toy.toml").write_text(SETTINGS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [
        "-m",
        "pillow_mcquic.training",
        "train",
        photos,
        tmp_path / "toy.pt",
        "--settings",
        tmp_path / "toy.toml",
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert torch.load(tmp_path / "toy.pt", weights_only=True)["step"] == 6


def test_gradients_of_parts_are_those_of_the_batch(settings: Settings, photo: Image.Image, tmp_path: Path) -> None:
    crops = [np.array(photo.crop((left, 100, left + 64, 164))) for left in (0, 100, 200, 300)]
    x, quality = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2), torch.tensor([1.0, 3.0, 5.5, 8.0])
    gradients = []
    for at_once in (4, 1):
        torch.manual_seed(1)
        run = Run(dataclasses.replace(settings, batch=4, crops_at_once=at_once), torch.device("cpu"), None, None)
        run.begin(tmp_path / "unused.pt")
        run.take_step(run.objective, x, quality, 1.0)
        gradients.append({n: p.grad for n, p in run.objective.named_parameters() if p.grad is not None})
    whole, parts = gradients
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        assert torch.allclose(gradient, parts[name], rtol=1e-3, atol=1e-4 * float(gradient.abs().max())), name
