"""The codec: arrays to bytes and back, tiles, sizes, targets."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import pillow_mcquic
from pillow_mcquic import codec, container, runtime, weights
from pillow_mcquic.container import Header
from pillow_mcquic.engine import Engine
from pillow_mcquic.windows import windows

from .conftest import psnr


@pytest.fixture
def float32() -> None:
    runtime.configure(precision="float32")


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 1, 3), (16, 16, 3), (17, 15, 4), (64, 64, 1), (33, 100, 2), (65, 3, 3), (2, 400, 3)]
)
def test_every_shape_comes_back(shape: tuple[int, ...], photo: Image.Image) -> None:
    pixels = np.asarray(photo.convert("RGBA"))[: shape[0], : shape[1]]
    pixels = pixels[:, :, 0] if len(shape) == 2 else np.ascontiguousarray(pixels[:, :, -shape[2] :])
    decoded = pillow_mcquic.decode(pillow_mcquic.encode(pixels))
    assert decoded.dtype == np.uint8
    assert decoded.shape == (shape[:2] if len(shape) == 2 or shape[2] == 1 else shape)


def test_plain_file_spends_at_most_33_bytes_on_structure(photo: Image.Image) -> None:
    data = pillow_mcquic.encode(np.asarray(photo), quality=8)
    parsed = container.read(io.BytesIO(data))
    assert len(data) - len(parsed.codes) <= 33


def test_padding_reaches_the_next_multiple_of_16_only() -> None:
    assert Header(17, 16, "RGB", 256, b"\0\0\0\0").grids == ((1, 2), (1, 1), (1, 1))
    assert Header(130, 81, "RGB", 256, b"\0\0\0\0").grids == ((6, 9), (3, 5), (2, 3))


def test_quality_rises_with_its_number(photo: Image.Image) -> None:
    crop = photo.crop((200, 100, 520, 356))
    pixels = np.asarray(crop)
    files = [pillow_mcquic.encode(pixels, quality=q) for q in (1, 2, 3, 3.5, 4, 5, 6, 7, 8)]
    sizes = [len(f) for f in files]
    qualities = [psnr(crop, Image.fromarray(pillow_mcquic.decode(f))) for f in files]
    assert sizes == sorted(sizes)
    assert qualities == sorted(qualities)
    assert qualities[0] > 24
    assert qualities[-1] > 33


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


@pytest.mark.parametrize("quality", [4, 8])
@pytest.mark.parametrize(("ground", "patch"), [(240, 5), (0, 255)])
def test_the_strongest_contrast_keeps_its_grey(quality: int, ground: int, patch: int) -> None:
    """The codebooks reach as far as black beside white, even where all around is flat."""
    pixels = np.full((128, 128, 3), ground, np.uint8)
    pixels[48:80, 48:80] = patch
    error = pillow_mcquic.decode(pillow_mcquic.encode(pixels, quality=quality)) - pixels.astype(float)
    squares = error.mean(2).reshape(8, 16, 8, 16).mean((1, 3))
    assert abs(squares).max() < 9  # 49 and more with codebooks that end too early


def test_same_input_same_bytes(small: Image.Image) -> None:
    pixels = np.asarray(small)
    assert pillow_mcquic.encode(pixels) == pillow_mcquic.encode(pixels.copy())


def test_writing_does_not_touch_the_input(small: Image.Image) -> None:
    pixels = np.array(small.resize((64, 48)))
    before = pixels.copy()
    pillow_mcquic.encode(pixels)
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize("reach", [0, 3])
@pytest.mark.parametrize(("h", "w", "positions"), [(1, 1, 99), (5, 300, 8), (300, 5, 64), (75, 100, 256), (60, 96, 0)])
def test_windows_cover_a_grid_once(h: int, w: int, positions: int, reach: int) -> None:
    seen = np.zeros((1, 1, h, w), int)
    for inner, outer in windows(h, w, positions, reach):
        seen[inner] += 1
        assert 0 < seen[inner].size <= max(1, positions)
        margins = [(i.start - o.start, o.stop - i.stop) for i, o in zip(inner[2:], outer[2:], strict=True)]
        assert all(0 <= margin <= reach for both in margins for margin in both)
    assert (seen == 1).all()


def test_a_grid_is_cut_where_the_margins_are_least() -> None:
    def cut(*arguments: int) -> list[tuple[slice, slice]]:
        return [inner[2:] for inner, _ in windows(*arguments)]

    assert cut(60, 96, 8192, 7) == [(slice(0, 60), slice(0, 96))]
    assert cut(100, 100, 5000, 7) == [(slice(0, 50), slice(0, 100)), (slice(50, 100), slice(0, 100))]
    assert all(columns == slice(0, 100) for _, columns in cut(75, 100, 256, 0))


def test_tiles_give_the_untiled_result(photo: Image.Image, float32: None) -> None:
    pixels = np.asarray(photo)[:400, :]
    loaded = codec.load_weights(weights.default_id())
    whole, tiled = (Engine(loaded, tile_positions=n) for n in (1 << 20, 150))
    whole.strip_positions = 1 << 20
    (codes, classes), (tiled_codes, _) = whole.quantise(pixels, 1024), tiled.quantise(pixels, 1024)
    for a, b in zip(codes, tiled_codes, strict=True):
        assert np.array_equal(a, b)
    header = Header(768, 400, "RGB", 1024, loaded.id)
    stream = whole.write_stream(codes, classes)
    for scale in (1, 2, 4, 8):
        codes, classes = whole.read_stream(stream, header, scale)
        expected = whole.synthesise(codes, classes, header, scale)
        assert abs(expected.astype(int) - tiled.synthesise(codes, classes, header, scale)).max() <= 1


def test_stream_gives_the_codes_back(photo: Image.Image) -> None:
    engine = Engine(codec.load_weights(weights.default_id()))
    pixels = np.asarray(photo)[:200, :300]
    codes, classes = engine.quantise(pixels, 900)
    header = Header(300, 200, "RGB", 900, engine.weights.id)
    read_codes, read_classes = engine.read_stream(engine.write_stream(codes, classes), header)
    for a, b in zip(read_codes + read_classes, codes + classes, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("bpp", [0.12, 0.25, 0.4])
def test_target_bpp_is_met_within_3_percent(bpp: float, photo: Image.Image) -> None:
    data = pillow_mcquic.encode(np.asarray(photo), target_bpp=bpp)
    assert abs(8 * len(data) / (768 * 512) / bpp - 1) <= 0.03


def test_target_out_of_reach_gives_the_nearest(small: Image.Image) -> None:
    pixels = np.asarray(small)
    assert pillow_mcquic.encode(pixels, target_bpp=0.0001) == pillow_mcquic.encode(pixels, quality=1)
    assert pillow_mcquic.encode(pixels, target_bpp=100.0) == pillow_mcquic.encode(pixels, quality=8)


def test_max_bytes_is_kept_and_used(photo: Image.Image) -> None:
    data = pillow_mcquic.encode(np.asarray(photo), max_bytes=12000)
    assert 0.99 * 12000 <= len(data) <= 12000


def test_max_bytes_below_reach_is_an_error_that_says_what_is_needed(small: Image.Image) -> None:
    pixels = np.asarray(small)
    needed = len(pillow_mcquic.encode(pixels, quality=1))
    with pytest.raises(ValueError, match=f"quality 1 needs {needed} bytes"):
        pillow_mcquic.encode(pixels, max_bytes=needed - 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quality": 0.99}, "from 1"),
        ({"quality": 8.01}, "to 8"),
        ({"quality": float("nan")}, "from 1"),
        ({"quality": "3"}, "number"),
        ({"quality": True}, "number"),
        ({"target_bpp": 0}, "target_bpp"),
        ({"target_bpp": "x"}, "target_bpp"),
        ({"target_bpp": float("nan")}, "target_bpp"),
        ({"max_bytes": 0}, "max_bytes"),
        ({"max_bytes": 1.5}, "max_bytes"),
        ({"quality": 3, "max_bytes": 100}, "one of"),
    ],
)
def test_bad_options_name_themselves(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pillow_mcquic.encode(np.zeros((8, 8, 3), np.uint8), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((8, 8, 3), np.uint16),
        np.zeros((8, 8, 5), np.uint8),
        np.zeros((8, 0, 3), np.uint8),
        np.zeros(8, np.uint8),
        [[1, 2]],
    ],
)
def test_bad_pixels_are_refused(pixels: object) -> None:
    with pytest.raises(ValueError, match="pixels must be"):
        pillow_mcquic.encode(pixels)  # type: ignore[arg-type]


@pytest.mark.parametrize("chunks", [{b"C": b""}, {b"A": b""}, {b"zz": b""}, {"c": b""}])
def test_bad_chunks_are_refused(chunks: dict[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="chunks must have types"):
        pillow_mcquic.encode(np.zeros((8, 8, 3), np.uint8), chunks=chunks)


def test_metadata_may_be_most_of_max_bytes(small: Image.Image) -> None:
    pixels, chunks = np.asarray(small), {b"e": b"x" * 60000}
    least = len(pillow_mcquic.encode(pixels, quality=1, chunks=chunks))
    assert len(pillow_mcquic.encode(pixels, max_bytes=least + 4, chunks=chunks)) <= least + 4


@pytest.mark.parametrize("alpha", ["gradient", "noise", "binary", "flat"])
def test_alpha_is_lossless(alpha: str) -> None:
    y, x = np.mgrid[0:70, 0:90]
    plane = {
        "gradient": (x + y) % 256,
        "noise": np.random.default_rng(0).integers(0, 256, (70, 90)),
        "binary": ((x - 45) ** 2 + (y - 35) ** 2 < 900) * 255,
        "flat": np.full((70, 90), 17),
    }[alpha].astype(np.uint8)
    payload = codec.pack_alpha(plane)
    assert np.array_equal(codec.unpack_alpha(payload, 90, 70), plane)
    assert len(payload) < (6500 if alpha == "noise" else 350)


def test_alpha_bomb_is_cut_short() -> None:
    import tracemalloc
    import zlib

    bomb = b"\0" + zlib.compress(bytes(100_000_000))
    tracemalloc.start()
    with pytest.raises(OSError, match="alpha"):
        codec.unpack_alpha(bomb, 100, 100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("payload", [b"", b"\x03x", b"\0garbage", b"\0" + codec.zlib.compress(b"short")])
def test_damaged_alpha_is_an_oserror(payload: bytes) -> None:
    with pytest.raises(OSError, match="alpha"):
        codec.unpack_alpha(payload, 10, 10)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cuda:²", 1, ""])
def test_bad_device_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match="device must be"):
        runtime.configure(device=device)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert str(runtime.device("cuda:1")) == "cuda:1"
    with pytest.raises(ValueError, match="'cuda:2' was asked for, but torch finds 2 here"):
        runtime.device("cuda:2")


def test_bad_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="precision must be"):
        runtime.configure(precision="float64")


@pytest.mark.parametrize("effort", [1, 2])
def test_inference_leaves_torch_as_it_was(small: Image.Image, effort: int) -> None:
    import torch

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
    import torch

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
    """With products of bfloat16 the search would find one of the best few words, not the best."""
    import torch

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
        subprocess.run([sys.executable, "-c", code, device], input=png.getvalue(), capture_output=True, check=True)
        for device in ("cpu", "meta")
    ]
    assert runs[0].stdout == runs[1].stdout


@pytest.mark.parametrize("target", [60.0, 100.0, 1234.0, 5000.0, 99999.0])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("start", [256, 1152, 2048])
def test_search_ends_near_the_target_whatever_the_curve(target: float, strict: bool, power: float, start: int) -> None:
    calls = []

    def at(quality: int) -> bytes:
        calls.append(quality)
        return bytes(round(100 * np.exp(6 * ((quality - 256) / 1792) ** power)))

    smallest, largest = 100, len(at(2048))
    calls.clear()
    if strict and target < smallest:
        with pytest.raises(ValueError, match="quality 1 needs 100 bytes"):
            codec._search(at, target, start, strict=strict)
        return
    quality, data = codec._search(at, target, start, strict=strict)
    assert quality in calls
    size = len(data)
    reachable = min(max(target, smallest), largest)
    assert abs(size / reachable - 1) <= 0.03
    assert not strict or size <= target
    assert len(calls) == len(set(calls)) <= 14
