"""One self-contained page: rate-distortion plots and tables, and crops beside other codecs at similar bytes."""

from __future__ import annotations

import argparse
import base64
import html
import io
from datetime import date
from pathlib import Path

import markdown
import numpy as np
from PIL import Image
from tqdm import tqdm

from pillow_mcquic import weights_files
from pillow_mcquic.cli import compare

from . import rd

SHOWN = (448, 336)  # width and height of the crops


def to_html(text: str) -> str:
    """Markdown with tables."""
    made = markdown.markdown(html.escape(text, quote=False), extensions=["tables"])
    return made.replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")


def run(args: argparse.Namespace) -> None:
    """Measure what is not measured yet, then write the page."""
    if "mcq" not in args.codecs.split(","):
        raise SystemExit("--codecs must name mcq: the page is about it")
    if args.measured:
        rows = rd.read_csv(args.measured)
        codecs, metrics = args.codecs.split(","), args.metrics.split(",")
    else:
        rows, codecs, metrics = rd.measure(args)
    paths = rd.lossless(args.images)
    picture = io.BytesIO()
    rd.plot(rows, picture)
    url = "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()
    introduction = [
        f"<p>{len(paths)} images, model {weights_files.default_id().hex()}, {date.today()}; bytes of real files.</p>",
        f'<div class="table"><img class="plot" src="{url}" alt="rate against distortion"></div>',
        "<h2>BD-rate</h2><p>Bytes that mcq needs for the same figure, against each codec.</p>",
        to_html(rd.bd_table(rows, "mcq", codecs, metrics)),
    ]
    for name in codecs:
        table = to_html(rd.means_table(rows, name, metrics))
        introduction.append(f"<details><summary>{html.escape(name)}, means by setting</summary>{table}</details>")
    for path in args.include:
        introduction.append(to_html(Path(path).read_text("utf-8")))
    introduction.append("<h2>By eye, at similar bytes</h2>")
    step = max(1, len(paths) // args.pictures)
    viewed = []
    for path in tqdm(paths[::step][: args.pictures], unit="picture"):
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        groups = {f"quality {q:g}": compare.versions(image, q, args.against.split(",")) for q in args.quality}
        viewed.append(compare.viewed(path.name, np.asarray(image), groups, SHOWN))
    title = "mcq beside other codecs"
    Path(args.out).write_text(compare.page(title, viewed, "\n".join(introduction)), "utf-8")
    print(f"wrote {args.out}, {Path(args.out).stat().st_size:,} bytes")
