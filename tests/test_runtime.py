"""Device and precision as the process asks for them."""

from __future__ import annotations

import pytest

from pillow_mcquic import runtime


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cuda:²", 1, ""])
def test_bad_device_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match="device must be"):
        runtime.configure(device=device)


def test_bad_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="precision must be"):
        runtime.configure(precision="float64")


def test_the_environment_sets_defaults_that_the_process_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILLOW_MCQUIC_PRECISION", "bfloat16")
    assert runtime.configured_precision() == "bfloat16"
    runtime.configure(precision="float32")
    assert runtime.configured_precision() == "float32"


def test_a_wrong_environment_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILLOW_MCQUIC_DEVICE", "gpu")
    with pytest.raises(ValueError, match="PILLOW_MCQUIC_DEVICE: device must be"):
        runtime.configured_device()
