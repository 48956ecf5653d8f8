"""Processes, threads and data loaders: nothing hangs, every result equals the parent's."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ..conftest import from_bytes, to_bytes

pytestmark = pytest.mark.timeout(240)


METHODS = [m for m in ("fork", "spawn", "forkserver") if m in multiprocessing.get_all_start_methods()]


def worker(data: bytes) -> bytes:
    return from_bytes(data).tobytes()


def close(a: bytes, b: bytes) -> bool:
    """Equal but for rounding: worker processes run one thread, the parent several."""
    difference = np.frombuffer(a, np.uint8).astype(int) - np.frombuffer(b, np.uint8)
    return bool(abs(difference).max() <= 2)


@pytest.mark.parametrize("method", METHODS)
def test_decode_in_the_parent_then_in_children(method: str, small_file: bytes) -> None:
    expected = from_bytes(small_file).tobytes()
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        results = list(pool.map(worker, [small_file] * 4, timeout=120))
    assert all(close(result, expected) for result in results)


@pytest.mark.skipif("fork" not in METHODS, reason="no fork on this platform")
@pytest.mark.parametrize("effort", [1, 2])  # 2 runs backwards too, with threads of its own where there is CUDA
def test_encode_in_the_parent_then_in_a_forked_child(effort: int, small: Image.Image) -> None:
    to_bytes(small, effort=effort)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        data = pool.apply_async(to_bytes, (small,), {"effort": effort}).get(timeout=120)
    assert from_bytes(data).size == small.size


def test_threads_on_different_images(photo: Image.Image) -> None:
    crops = [photo.crop((16 * i, 8 * i, 16 * i + 90 + i, 8 * i + 70)) for i in range(12)]
    serial = [to_bytes(crop) for crop in crops]
    pixels = [from_bytes(data).tobytes() for data in serial]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(to_bytes, crops, timeout=120)) == serial
        decoded = list(pool.map(lambda data: from_bytes(data).tobytes(), serial, timeout=120))
    assert decoded == pixels


class Folder:
    """A map-style dataset of `.mcq` files."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> object:
        import torch

        import pillow_mcquic  # noqa: F401

        with Image.open(self.paths[index]) as image:
            return torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)


@pytest.mark.parametrize("method", METHODS)
def test_data_loader_with_two_workers(method: str, tmp_path: Path, small_file: bytes) -> None:
    from torch.utils.data import DataLoader

    expected = from_bytes(small_file).tobytes()
    paths = [tmp_path / f"{i}.mcq" for i in range(6)]
    for path in paths:
        path.write_bytes(small_file)
    loader = DataLoader(Folder(paths), batch_size=3, num_workers=2, multiprocessing_context=method, timeout=120)
    for batch in loader:
        assert batch.shape == (3, 150 * 101 * 3)
        assert all(close(row.numpy().tobytes(), expected) for row in batch)


def test_import_where_a_mapped_file_has_a_name_that_is_no_text(tmp_path: Path) -> None:
    """As a memory map of numpy's, or a library, in a folder with a Latin-1 name."""
    code = (
        "import mmap, os, sys, torch\n"
        "with open(os.fsencode(sys.argv[1]) + b'/caf\\xe9.bin', 'w+b') as file:\n"
        "    file.write(bytes(8192)); file.flush()\n"
        "    mapped = mmap.mmap(file.fileno(), 0)\n"
        "    import pillow_mcquic.engine.forks"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_import_in_a_forked_child_only(small_file: bytes) -> None:
    """The parent used torch by itself before the child met this package."""
    code = (
        "import os, sys, io, torch; torch.nn.functional.conv2d(torch.rand(8, 16, 64, 64), torch.rand(16, 16, 3, 3));"
        "data = sys.stdin.buffer.read(); pid = os.fork();\n"
        "if pid == 0:\n"
        "    import pillow_mcquic; pillow_mcquic.decode(data); os._exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    if not sys.platform.startswith("linux"):
        pytest.skip("fork after OpenMP is a Linux matter")
    out = subprocess.run([sys.executable, "-c", code], input=small_file, capture_output=True, timeout=60, check=True)
    assert out.stdout.strip() == b"7"


@pytest.mark.skipif("fork" not in METHODS, reason="no fork on this platform")
def test_forks_while_a_thread_loads_the_model(small_file: bytes) -> None:
    """A child cannot finish the imports that another thread of its parent had begun."""
    code = (
        "import os, signal, sys, threading, time, pillow_mcquic\n"
        "from pillow_mcquic import codec, loading, weights_files\n"
        "data = sys.stdin.buffer.read()\n"
        "threading.Thread(target=loading.load_decoder, args=(weights_files.default_id(),)).start()\n"
        "children = []\n"
        "for _ in range(8):\n"
        "    time.sleep(0.12); pid = os.fork()\n"
        "    if pid == 0:\n"
        "        signal.alarm(30); pillow_mcquic.decode(data); os._exit(7)\n"
        "    children.append(pid)\n"
        "print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children])"
    )
    out = subprocess.run([sys.executable, "-c", code], input=small_file, capture_output=True, timeout=120, check=True)
    assert out.stdout.decode().strip() == str([7] * 8)


def test_the_range_coder_is_set_up_where_forks_wait() -> None:
    """A child forked while it sets itself up, in its first call, would wait for ever."""
    code = (
        "import numpy._core.multiarray as numpys_own; from pillow_mcquic import loading, weights_files;"
        "loading.load_decoder(weights_files.default_id());"
        "print(hasattr(numpys_own, '_RUST_NUMPY_BORROW_CHECKING_API'))"  # where that is kept
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "True"


def test_first_decode_imports_no_compiler_and_draws_no_random_numbers(small_file: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.mcq").write_bytes(small_file)
    code = (
        "import sys, torch, pillow_mcquic; from PIL import Image; torch.manual_seed(7); before = torch.get_rng_state();"
        "Image.open('x.mcq').load();"
        "print('torch._dynamo' in sys.modules, torch.equal(before, torch.get_rng_state()))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert out.stdout.strip() == "False True"
