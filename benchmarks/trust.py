"""Faults, kills, load and determinism: what the tests check in small, here at length and in numbers."""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import hashlib
import io
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

import pillow_mcquic
from pillow_mcquic import decoding, loading, runtime
from pillow_mcquic.bitstream import container, file_header
from pillow_mcquic.bitstream.tiles import Tile
from pillow_mcquic.engine.device import find_device, int8_native
from pillow_mcquic.quality import Quality
from tests.fuzzing import cuts, flips, mutations
from tests.instruction_sets import INSTRUCTION_SETS

from .speed import peak_mb

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
PHOTO = Path(__file__).parent.parent / "tests" / "images" / "parrots.png"


def photo() -> Image.Image:
    with Image.open(PHOTO) as image:
        return image.convert("RGB")


def saved(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "MCQ", **options)
    return buffer.getvalue()


def opened(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        return image.tobytes()


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def subjects() -> dict[str, bytes]:
    """A small, a medium and an alpha file."""
    alpha = photo().crop((300, 100, 364, 148)).convert("RGBA")
    alpha.putalpha(alpha.convert("L"))
    return {
        "small": saved(photo().crop((300, 100, 340, 130)), quality=2),
        "medium": saved(photo().crop((200, 100, 600, 400)), quality=4, comment=b"medium", dpi=(72, 72)),
        "alpha": saved(alpha, quality=5, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0"),
        "exact squares": Path(GOLDEN, "page.mcq").read_bytes(),
        "tiles": Path(GOLDEN, "tiles.mcq").read_bytes(),
    }


def restreamed(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """A damaged code stream under right checksums: only the decoder itself can refuse these."""
    rng = random.Random(seed)
    parsed = container.read(io.BytesIO(data))
    first, *others = (tile for tile in parsed.tiles if tile is not None)
    metadata, codes = {chunk.kind: chunk.payload for chunk in parsed.chunks}, first.codes or b""
    for _ in range(count):
        words = [codes[i : i + 4] for i in range(0, len(codes), 4)]  # another length is refused at once
        for _ in range(rng.randint(1, 8)):
            at = rng.randrange(len(words) + 1)
            words[at : at + rng.randint(0, 2)] = [rng.randbytes(4)] * rng.randint(0, 2)
        yield container.write(parsed.header, metadata, [dataclasses.replace(first, codes=b"".join(words)), *others])


def outcome(data: bytes, picture: bytes) -> str:
    try:
        decoded = opened(data)
    except Image.UnidentifiedImageError:
        return "not an image"
    except OSError as error:
        return "OSError" if str(error) else "OSError without a word"
    except Exception as error:  # this is what must not be
        return f"ANYTHING ELSE: {type(error).__name__}"
    return "same picture" if decoded == picture else "another picture"


def faults(args: argparse.Namespace) -> None:
    """Table of outcomes; "another picture" may only stand where the checksums were made right."""
    print("| file | bytes | damage | tries | outcomes | slowest ms | peak MB grown |\n|---|---|---|---|---|---|---|")
    for name, data in subjects().items():
        picture = opened(data)
        kinds: dict[str, Iterator[bytes]] = {
            "every byte flipped": flips(data),
            "every length cut": cuts(data),
            "random mutations": mutations(data, args.mutations // 3, 1),
            "stream, checksums right": restreamed(data, args.mutations // 30, 2),
        }
        for kind, damaged in kinds.items():
            outcomes: Counter[str] = Counter()
            slowest, before = 0.0, peak_mb()
            for case in tqdm(damaged, desc=f"{name}: {kind}", leave=False):
                began = time.perf_counter()
                outcomes[outcome(case, picture)] += 1
                slowest = max(slowest, time.perf_counter() - began)
            told = ", ".join(f"{k} {v}" for k, v in sorted(outcomes.items()))
            cells = [name, str(len(data)), kind, str(outcomes.total()), told, f"{1000 * slowest:.1f}"]
            print("| " + " | ".join([*cells, f"{peak_mb() - before:.1f}"]) + " |", flush=True)
    print("\n| hostile header | answer | ms | MB |\n|---|---|---|---|")
    model = container.read(io.BytesIO(subjects()["small"])).header.model
    for width, height, codes in ((1 << 27, 1 << 27, 1000), (60000, 60000, 20000), (1, 80_000_000, 160_000)):
        header = file_header.Header(width, height, "RGB", Quality(1024), model)
        data = container.write(header, {}, [Tile(bytes(codes), None, whole=False)])
        began, before = time.perf_counter(), peak_mb()
        try:
            answer = str(len(opened(data)))
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        spent = 1000 * (time.perf_counter() - began)
        print(f"| {width}x{height}, {len(data)} bytes | {answer[:90]} | {spent:.1f} | {peak_mb() - before:.1f} |")


def crash(args: argparse.Namespace) -> None:
    """SIGKILL `mcq encode` at random moments: nothing there is lost, nothing half is left, a rerun finishes."""
    rng = random.Random(0)
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in"), Path(folder, "out")
        source.mkdir()
        for i in range(args.files):
            photo().crop((16 * i, 8 * i, 16 * i + 300, 8 * i + 220)).save(source / f"{i:02}.png")
        command = [sys.executable, "-m", "pillow_mcquic", "encode", str(source), "-o", str(target), "--skip-existing"]
        began = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        whole = time.monotonic() - began
        expected = {p.name: p.read_bytes() for p in target.iterdir()}
        for _ in tqdm(range(args.kills)):
            shutil.rmtree(target)
            target.mkdir()
            (target / "00.mcq").write_bytes(b"was here before")
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
                time.sleep(rng.uniform(0, 1.1 * whole))
                process.send_signal(signal.SIGKILL)
            found = {p.name: p.read_bytes() for p in target.glob("*.mcq")}
            outcomes["runs killed" if process.returncode == -signal.SIGKILL else "runs over before the kill"] += 1
            outcomes["old file lost"] += found.pop("00.mcq") != b"was here before"
            outcomes["half-written .mcq"] += sum(expected[name] != data for name, data in found.items())
            outcomes["whole files found"] += len(found)
            outcomes["temporary files left"] += len(list(target.glob(".mcq-*")))
        subprocess.run(command, check=True, capture_output=True)
        again = {p.name: p.read_bytes() for p in target.glob("*.mcq")}
        outcomes["files wrong after the rerun"] = sum(
            again.get(name) != data for name, data in expected.items() if name != "00.mcq"
        )
    print(f"one whole run takes {whole:.1f} s")
    for name, count in outcomes.items():
        print(f"{name}: {count}")


def load(args: argparse.Namespace) -> None:
    """Memory over many decodes in one process; threads against the serial result."""
    files = [saved(photo().crop((i, i, i + 60 + 3 * i, i + 50 + 2 * i)), quality=1 + i % 8) for i in range(20)]
    for data in files * 3:
        opened(data)
    marks = [resident_mb()]
    for i in tqdm(range(args.decodes)):
        opened(files[i % len(files)])
        if (i + 1) % (args.decodes // 10) == 0:
            marks.append(resident_mb())
    slope = np.polyfit(np.arange(len(marks)), marks, 1)[0] * 10 / args.decodes * 1000
    print(f"resident MB along {args.decodes} decodes: {', '.join(f'{m:.1f}' for m in marks)}")
    print(f"slope {slope:.3f} MB per 1000 decodes")

    def crop(i: int) -> Image.Image:
        left, top = 7 * i % 600, 5 * i % 400
        return photo().crop((left, top, left + 40 + i % 50, top + 30 + i % 40))

    def both(i: int) -> str:
        data = saved(crop(i), quality=1 + i % 8)
        return hashlib.sha256(data + opened(data)).hexdigest()

    serial = [both(i) for i in tqdm(range(args.images))]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        wrong = sum(a != b for a, b in zip(serial, pool.map(both, range(args.images)), strict=True))
    print(f"8 threads, {args.images} images: {wrong} differ from the serial result")


class Files:
    """A map-style dataset: the sum of the samples of each `.mcq` file."""

    def __init__(self, files: list[bytes]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> int:
        import pillow_mcquic  # noqa: F401

        return sum(opened(self.files[index]))


def one_loader(method: str, count: int, warm: bool) -> None:
    """One row of the matrix, in a process of its own."""
    from torch.utils.data import DataLoader

    files = [bytes.fromhex(line) for line in sys.stdin.read().split()]
    if warm:
        opened(files[0])
    loader = DataLoader(
        Files(files), 5, num_workers=count, multiprocessing_context=method if count else None, timeout=90 * (count > 0)
    )
    print(sum(int(batch.sum()) for batch in loader))


def prefork(files: list[bytes], children: int) -> list[int]:
    """As servers do it: the parent loads and decodes, then forks; every child decodes in two threads."""
    opened(files[0])
    pids = []
    for _ in range(children):
        pid = os.fork()
        if pid == 0:
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                good = all(len(pixels) for pixels in pool.map(opened, files))
            os._exit(0 if good else 1)
        pids.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def workers(args: argparse.Namespace) -> None:
    """Data loaders: start method x workers x warmed parent or not; a process pool; a preforking server."""
    if args.one:
        method, count, warm = args.one.split(",")
        one_loader(method, int(count), warm == "warm")
        return
    files = [saved(photo().crop((9 * i, 7 * i, 9 * i + 90, 7 * i + 70))) for i in range(20)]
    expected = sum(sum(opened(data)) for data in files)
    text = "\n".join(data.hex() for data in files)
    print("| start method | workers | parent | seconds | sum of samples against the parent's |\n|---|---|---|---|---|")
    for method in ("fork", "spawn", "forkserver"):
        for count in (0, 2, 4):
            for warm in ("cold", "warm"):
                command = [sys.executable, "-m", "benchmarks", "workers", "--one", f"{method},{count},{warm}"]
                began = time.monotonic()
                try:
                    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120, check=True)
                    answer = f"{int(done.stdout) / expected - 1:+.1e}"
                except (subprocess.SubprocessError, ValueError) as error:
                    answer = f"FAILED: {error}"
                print(f"| {method} | {count} | {warm} | {time.monotonic() - began:.1f} | {answer} |", flush=True)
    for method in ("fork", "spawn", "forkserver"):
        began = time.monotonic()
        context = multiprocessing.get_context(method)
        with concurrent.futures.ProcessPoolExecutor(4, mp_context=context) as pool:
            lengths = list(pool.map(opened_length, files, timeout=120))
        print(f"process pool, {method}: {len(lengths)} of {len(files)} decoded in {time.monotonic() - began:.1f} s")
    print(f"prefork server, 4 children: exit codes {prefork(files, 4)}")


def opened_length(data: bytes) -> int:
    import pillow_mcquic  # noqa: F401

    return len(opened(data))


def digests(args: argparse.Namespace) -> None:
    """Of every picture: digest of its file, if it shall be made here, and of the codes in the file given."""
    import torch

    torch.set_num_threads(args.threads)
    for path in sorted(Path(args.images).iterdir()):
        made = ""
        if args.encode:
            with Image.open(path) as image:
                made = hashlib.sha256(pillow_mcquic.encode(np.asarray(image.convert("RGB")))).hexdigest()
        parsed = container.read(io.BytesIO(Path(args.files, f"{path.stem}.mcq").read_bytes()))
        decoder = loading.load_decoder(parsed.header.model)
        tiles = [decoding.read_codes(parsed, number, decoder).codes for number in range(len(parsed.tiles))]
        codes = [bank for tile in tiles for bank in tile]
        print(made, hashlib.sha256(b"".join(bank.numpy().tobytes() for bank in codes)).hexdigest())


def same(equal: bool) -> str:
    return "the same" if equal else "OTHER"


def determinism(args: argparse.Namespace) -> None:
    """Bytes of the same pictures from several processes and thread counts; codes of a file whatever reads it."""
    if args.files:
        digests(args)
        return
    runs: dict[str, tuple[int, bool, dict[str, str]]] = {
        "1 thread": (1, True, {}),
        "1 thread again": (1, True, {}),
        "2 threads": (2, True, {}),
        "2 threads again": (2, True, {}),
    }
    for precision in ("float32", "bfloat16"):
        for name, env in INSTRUCTION_SETS.items():
            runs[f"{precision}, {name}"] = (2, False, {**env, runtime.PRECISION_VARIABLE: precision})
    if int8_native(find_device("cpu")):
        runs["int8"] = (2, False, {runtime.PRECISION_VARIABLE: "int8"})
    print("| reader and writer | files | bytes | codes |\n|---|---|---|---|")
    first: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted(Path(args.images).iterdir()):
            with Image.open(path) as image:
                image.convert("RGB").save(Path(folder, f"{path.stem}.mcq"))
        for name, (threads, encode, env) in runs.items():
            command = [sys.executable, "-m", "benchmarks", "determinism", "--images", args.images, "--files", folder]
            command += ["--threads", str(threads)] + ["--encode"] * encode
            done = subprocess.run(command, env={**os.environ, **env}, check=True, capture_output=True, text=True)
            lines = done.stdout.splitlines()
            first = first or lines
            made, codes = zip(*(line.rsplit(" ", 1) for line in lines), strict=True)
            expected_made, expected_codes = zip(*(line.rsplit(" ", 1) for line in first), strict=True)
            files = same(made == expected_made) if encode else "-"
            print(f"| {name} | {len(lines)} | {files} | {same(codes == expected_codes)} |", flush=True)


COMMANDS = {"faults": faults, "crash": crash, "load": load, "workers": workers, "determinism": determinism}
