"""One picture: read, encoded or decoded, scored and written."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ... import metrics
from ...atomic_write import write_whole
from ...quality import HIGHEST, LOWEST, Quality
from ...target_search import bracket
from .. import files
from ..metadata import Say
from .folders import is_local_system, open_folder, state_of
from .tasks import Outcome, Settings, Task, failed

STEPS_PER_QUALITY = 8  # of the search for a score
MOST_PSNR = 99.0  # equal pictures have no finite one


def convert(settings: Settings, task: Task) -> Outcome:
    """Do a task; whatever one file does to a decoder is its outcome's error."""
    try:
        return _convert(settings, task)
    except UnidentifiedImageError:
        return failed(task, "is no image that Pillow can read")
    except Exception as error:
        return failed(task, str(error) or type(error).__name__)


def _convert(settings: Settings, task: Task) -> Outcome:
    fs, root = open_folder(settings.source)
    data = fs.cat_file(f"{root}/{task.name}")
    quality = score = None
    left_out = list[str]()
    source = files.open_picture if settings.suffix == ".mcq" else files.open_mcq
    with source(io.BytesIO(data)) as image:
        pixels = image.width * image.height
        if settings.suffix == ".mcq":
            picture = files.eight_bits(image, scale=settings.scale_16)
            made = _encode(settings, picture, left_out.append)
            quality, score = measure(picture, made, settings.score)
        else:
            format = files.writable_format(settings.suffix)
            assert format is not None
            made = files.from_mcq(image, format, left_out.append)
    state = _write(settings, task, made)
    scored = "none" if score is None else settings.score
    sizes, left = (len(data), len(made), pixels), "; ".join(dict.fromkeys(left_out))
    return Outcome(task.name, task.target, task.state, *sizes, quality, score, scored, made=state, left_out=left)


def _encode(settings: Settings, image: Image.Image, say: Say) -> bytes:
    if settings.min_ssimulacra2 is not None:
        return least_quality(image, settings.min_ssimulacra2, settings.effort, say)
    options = {"quality": settings.quality, "target_bpp": settings.bpp, "lossless": settings.lossless}
    return files.to_mcq(image, say, effort=settings.effort, **options)


def _write(settings: Settings, task: Task, made: bytes) -> str:
    """Write a new file; what it looks like, if it is local."""
    out, root = open_folder(settings.target)
    path, local = f"{root}/{task.target}", is_local_system(out)
    if not task.replace and out.exists(path):
        if out.cat_file(path) != made:  # else it is ours, of a worker that died before it could say so
            raise FileExistsError(f"{task.target} exists (use --overwrite)")
    elif local:
        write_whole(Path(path), made, task.replace)
    else:
        out.makedirs(path.rpartition("/")[0], exist_ok=True)
        out.pipe_file(path, made)
    return state_of(out, path, {}) if local else ""


def measure(image: Image.Image, made: bytes, score: str) -> tuple[float | None, float | None]:
    """Quality of an `.mcq` file, None for lossless, and its score against the picture it was made of, colours only."""
    with Image.open(io.BytesIO(made)) as again:
        quality = again.info.get("quality")
        if score == "none":
            return quality, None
        pictures = [np.asarray(i.convert("RGB")) for i in (image, again)]
    if score == "psnr":
        return quality, min(metrics.psnr(*pictures), MOST_PSNR)
    return quality, metrics.ssimulacra2(*pictures)


def least_quality(image: Image.Image, wanted: float, effort: int, say: Say) -> bytes:
    """The `.mcq` file of the lowest quality, in eighths, of at least that SSIMULACRA2; ValueError where 10 has less."""
    if min(image.size) < metrics.LEAST_SSIMULACRA2_SIDE:
        raise ValueError("SSIMULACRA2 needs sides of 8 pixels: give quality or bpp for such pictures")

    def tried(eighths: int) -> tuple[float, bytes]:
        made = files.to_mcq(image, say, quality=float(Quality.parse(eighths / STEPS_PER_QUALITY)), effort=effort)
        score = measure(image, made, "ssimulacra2")[1]
        assert score is not None
        return score, made

    lowest, highest = LOWEST * STEPS_PER_QUALITY, HIGHEST * STEPS_PER_QUALITY
    # the target lies just below what is wanted, so that a score equal to it counts as reached
    found = bracket(tried, lowest, highest, np.nextafter(wanted, -np.inf))
    if found.above is None:
        best = found.tries[0].value
        raise ValueError(f"SSIMULACRA2 {wanted:g} is out of reach, quality {HIGHEST} has {best:.1f}: keep the original")
    return found.above.made
