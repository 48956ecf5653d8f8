"""Device and precision: what is found, and nothing of the caller changes or is changed."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import pillow_mcquic
from pillow_mcquic import runtime
from pillow_mcquic.engine import device
from pillow_mcquic.engine.device import find_device, find_precision, int8_native

from ..conftest import psnr

CPU = torch.device("cpu")
needs_int8 = pytest.mark.skipif(not int8_native(CPU), reason="no int8 matrix products on this processor")


def test_reduced_precision_costs_no_more_than_rounding(photo: Image.Image) -> None:
    crop = photo.crop((200, 100, 520, 356))
    found = {}
    for precision in ("float32", "bfloat16"):
        runtime.configure(precision=precision)
        data = pillow_mcquic.encode(np.asarray(crop), quality=8)
        found[precision] = len(data), psnr(crop, Image.fromarray(pillow_mcquic.decode(data)))
    (size, best), (size_16, psnr_16) = found["float32"], found["bfloat16"]
    assert size_16 == pytest.approx(size, rel=0.005)
    assert psnr_16 > best - 0.08


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert str(find_device("cuda:1")) == "cuda:1"
    with pytest.raises(ValueError, match="'cuda:2' was asked for, but torch finds 2 here"):
        find_device("cuda:2")


@pytest.mark.parametrize("effort", [1, 2])
def test_inference_leaves_torch_as_it_was(small: Image.Image, effort: int) -> None:
    def state() -> list[object]:
        return [
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            torch.is_autocast_enabled("cpu"),
            torch.get_float32_matmul_precision(),
            torch.backends.cuda.matmul.allow_tf32,
            torch.random.get_rng_state().tolist(),
        ]

    before = state()
    pillow_mcquic.decode(pillow_mcquic.encode(np.asarray(small), effort=effort))
    assert state() == before


@pytest.mark.parametrize(("effort", "dtype"), [(1, "float64"), (2, "float64"), (1, "bfloat16"), (2, "float16")])
def test_default_dtype_of_the_caller_changes_nothing(small: Image.Image, effort: int, dtype: str) -> None:
    pixels = np.asarray(small)
    data = pillow_mcquic.encode(pixels, effort=effort)
    decoded = pillow_mcquic.decode(data)
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        assert pillow_mcquic.encode(pixels, effort=effort) == data
        assert np.array_equal(pillow_mcquic.decode(data), decoded)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("effort", [1, 2])
@pytest.mark.parametrize("legacy", [True, False])
def test_matmul_precision_of_the_caller_changes_nothing(legacy: bool, effort: int, small: Image.Image) -> None:
    """With products of bfloat16 the search would find one of the best few codewords, not the best."""
    pixels = np.asarray(small)
    data = pillow_mcquic.encode(pixels, effort=effort)
    decoded = pillow_mcquic.decode(data)
    matmul = torch.backends.mkldnn.matmul
    before = torch.get_float32_matmul_precision(), matmul.fp32_precision
    try:
        if legacy:
            torch.set_float32_matmul_precision("medium")
        else:
            matmul.fp32_precision = "bf16"
        during = matmul.fp32_precision
        assert pillow_mcquic.encode(pixels, effort=effort) == data
        assert np.array_equal(pillow_mcquic.decode(data), decoded)
        assert matmul.fp32_precision == during == "bf16"
    finally:
        torch.set_float32_matmul_precision(before[0])
        matmul.fp32_precision = before[1]


@pytest.mark.slow
def test_default_device_of_the_caller_changes_nothing(small: Image.Image) -> None:
    """In a new process, so that the weights are read under it, too."""
    code = (
        "import hashlib, sys, numpy, torch, pillow_mcquic; from PIL import Image;"
        "torch.set_default_device(sys.argv[1]); pixels = numpy.asarray(Image.open(sys.stdin.buffer));"
        "data = pillow_mcquic.encode(pixels, effort=2); pillow_mcquic.decode(data, scale=4);"
        "print(hashlib.sha256(data + pillow_mcquic.decode(data).tobytes()).hexdigest())"
    )
    png = io.BytesIO()
    small.save(png, "PNG")
    runs = [
        subprocess.run([sys.executable, "-c", code, name], input=png.getvalue(), capture_output=True, check=True)
        for name in ("cpu", "meta")
    ]
    assert runs[0].stdout == runs[1].stdout


@needs_int8
@pytest.mark.parametrize(("effort", "quality"), [(1, 1), (1, 4), (1, 8), (2, 4)])
def test_int8_costs_little(effort: int, quality: int, photo: Image.Image) -> None:
    crop = photo.crop((200, 100, 520, 356))
    found = {}
    for precision in ("float32", "int8"):
        runtime.configure(precision=precision)
        data = pillow_mcquic.encode(np.asarray(crop), quality=quality, effort=effort)
        found[precision] = len(data), psnr(crop, Image.fromarray(pillow_mcquic.decode(data)))
    (size, best), (size_8, psnr_8) = found["float32"], found["int8"]
    assert size_8 == pytest.approx(size, rel=0.01)
    assert best - 0.15 < psnr_8 < best + 0.05


@pytest.mark.parametrize(
    ("bfloat16", "int8", "expected"),
    [(True, True, "bfloat16"), (True, False, "bfloat16"), (False, True, "int8"), (False, False, "float32")],
)
def test_precision_follows_the_processor(
    bfloat16: bool, int8: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(runtime.PRECISION_VARIABLE, raising=False)
    monkeypatch.setattr(device, "bfloat16_native", lambda where: bfloat16)
    monkeypatch.setattr(device, "int8_native", lambda where: int8)
    assert find_precision(CPU) == expected


def test_int8_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not int8_native(torch.device("cuda"))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    assert not int8_native(CPU)
    runtime.configure(precision="int8")
    with pytest.raises(ValueError, match="precision 'int8' was asked for, but cpu has no int8 matrix products"):
        find_precision(CPU)
