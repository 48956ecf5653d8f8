"""A run of transcode, and its report."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ...quality import describe
from .convert import convert
from .folders import is_local, open_folder
from .listing import Listing
from .manifest import Manifest
from .tasks import Outcome, Settings
from .workers import in_processes, on_ray

WORST = 20  # pictures that a report names


@dataclasses.dataclass
class Report:
    """Everything a run did: outcomes of this run, what an earlier one had finished, seconds."""

    outcomes: list[Outcome]
    finished: list[Outcome]
    seconds: float
    score: str

    @property
    def failures(self) -> list[Outcome]:
        """Those with an error."""
        return [o for o in self.outcomes if o.error]

    @property
    def made(self) -> list[Outcome]:
        """Those without."""
        return [o for o in self.outcomes if not o.error]

    @property
    def worst(self) -> list[Outcome]:
        """The pictures of the lowest scores, earlier runs' too, lowest first."""
        scored = [o for o in self.made + self.finished if o.score is not None and o.scored == self.score]
        return sorted(scored, key=lambda o: (o.score, o.name))[:WORST]

    def totals(self) -> tuple[int, int, float]:
        """Bytes before and after, and megapixels, of the files that were made."""
        made = self.made
        return sum(o.before for o in made), sum(o.after for o in made), sum(o.pixels for o in made) / 1e6

    def to_dict(self) -> dict[str, Any]:
        """For JSON: totals, failures with reasons, worst pictures, every file."""
        before, after, megapixels = self.totals()
        return {
            "files": len(self.made),
            "skipped": len(self.finished),
            "failed": len(self.failures),
            "bytes_before": before,
            "bytes_after": after,
            "megapixels": megapixels,
            "seconds": round(self.seconds, 3),
            "score": self.score,
            "failures": {o.name: o.error for o in self.failures},
            "left_out": {o.name: o.left_out for o in self.made if o.left_out},
            "worst": [{"name": o.name, "score": o.score, "quality": o.quality} for o in self.worst],
            "made": [{k: v for k, v in dataclasses.asdict(o).items() if v is not None} for o in self.made],
        }

    def text(self) -> str:
        """For people."""
        before, after, megapixels = self.totals()
        lines = [
            f"{len(self.made)} files in {self.seconds:.1f} s ({megapixels:.1f} MP), "
            f"{before:,} -> {after:,} bytes" + (f" ({after / before:.1%})" if before else "")
        ]
        if self.finished:
            lines.append(f"{len(self.finished)} files were there already, from an earlier run")
        if failures := self.failures:
            lines.append(f"{len(failures)} failed:")
            lines += [f"  {o.name}: {o.error}" for o in failures[:WORST]]
            if len(failures) > WORST:
                lines.append(f"  and {len(failures) - WORST} more")
        if left_out := [o for o in self.made if o.left_out]:
            lines.append(f"metadata left out of {len(left_out)} files:")
            lines += [f"  {o.name}: {o.left_out}" for o in left_out[:WORST]]
        if worst := self.worst:
            lines.append(f"lowest {self.score}:")
            lines += [f"  {o.name}: {o.score:.2f} at {describe(o.quality)}" for o in worst[:5]]
        return "\n".join(lines)


def run(settings: Settings, manifest_path: Path, workers: int, engine: str = "processes") -> Report:
    """Do what is left of a tree, with a progress bar, recording every file.

    workers, engine: as of `workers.check_workers`.  Raises ValueError for a source that is no folder, or a manifest
    that is another's, and OSError when a folder or the manifest cannot be used.
    """
    folders = {n: os.path.abspath(url) for n in ("source", "target") if is_local(url := getattr(settings, n))}
    settings = dataclasses.replace(settings, **folders)
    fs, root = open_folder(settings.source)
    if not fs.isdir(root):
        raise ValueError(f"{settings.source} is no folder")
    began = time.monotonic()
    with Manifest(manifest_path, settings) as manifest:
        listing = Listing(settings, manifest)
        tasks, begun, outcomes = listing.tasks, manifest.record_plan(listing.tasks), list(listing.blocked)
        if engine == "ray" and tasks:
            results = on_ray(settings, list(begun), workers)
        elif min(workers, len(tasks)) < 2:
            results = (convert(settings, task) for task in begun)
        else:
            results = in_processes(functools.partial(convert, settings), begun, min(workers, len(tasks)))
        with tqdm(total=len(tasks), unit="file", disable=None) as bar:
            for outcome in results:
                manifest.add(outcome, listing.made_with)
                outcomes.append(outcome)
                bar.update()
    return Report(outcomes, listing.finished, time.monotonic() - began, settings.score)
