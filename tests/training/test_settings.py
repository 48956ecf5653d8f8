"""Settings of a run: one TOML file, checked before an hour of training."""

from __future__ import annotations

from typing import Any

import pytest

from pillow_mcquic.training.settings import Settings


def test_settings_survive_and_unknown_ones_are_refused(settings: Settings) -> None:
    assert Settings.from_dict(settings.to_dict()) == settings
    with pytest.raises(ValueError, match="stepz"):
        Settings.from_dict({"stepz": 3})
    with pytest.raises(ValueError, match="widht"):
        Settings.from_dict({"model": {"widht": 3}})


def test_learning_rate_warms_up_holds_and_decays() -> None:
    s = Settings(steps=1000, warmup=100, hold=0.3, floor=0.01)
    assert s.rate_factor(0, 0.0) == 0.01
    assert s.rate_factor(200, 0.2) == 1
    assert s.rate_factor(1000, 1.0) == pytest.approx(0.01)
    assert s.rate_factor(20, 1.0) == pytest.approx(0.21 * 0.01)  # of a run that ends with its time, early


def test_the_decay_may_be_linear_and_end_at_nothing() -> None:
    s = Settings(steps=1000, warmup=1, hold=0.2, floor=0.0, decay="linear")
    assert [s.rate_factor(500, progress) for progress in (0.2, 0.6, 1.0)] == pytest.approx([1, 0.5, 0])
    with pytest.raises(ValueError, match="decay must be one of"):
        Settings(decay="square")


def test_every_stage_has_a_scale() -> None:
    with pytest.raises(ValueError, match="codebook_scales"):
        Settings(codebook_scales=((1.0,),))


@pytest.mark.parametrize(
    "wrong",
    [
        {"encoder": {"distortion": {"msssim": 1.1}}},
        {"encoder": {"distortion": {"msssim": 0.3, "msssim_growth": -0.05}}},
        {"shrink": 2.0},
        {"average": -1.0},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"0\.\.1"):
        Settings.from_dict(wrong)
