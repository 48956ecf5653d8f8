"""`python -m benchmarks COMMAND`: figures on your photos and machine; `--help` lists the commands."""

from __future__ import annotations

import argparse
from typing import Any


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    commands = parser.add_subparsers(dest="command", required=True)
    add_rate_distortion(commands)
    add_timings(commands)
    add_reliability(commands)
    return parser.parse_args()


def add_rate_distortion(commands: Any) -> None:
    rd = commands.add_parser("rd", help="rate against distortion, in bytes of real files, beside other codecs")
    report = commands.add_parser("report", help="the same as a page, with crops at similar bytes to look at")
    for command in (rd, report):
        command.add_argument("--images", required=True, help="folder of lossless images")
        command.add_argument(
            "--codecs",
            default="mcq,jpeg,webp,avif",
            help="of mcq, mcq-e2, mcq-e3, mcq-high, mcq-lossless, jpeg, webp, webp-lossless, avif, avif-high, avif-s2, "
            "avif-psnr, jpegxl, heic, jpeg2000 (default: mcq,jpeg,webp,avif)",
        )
        command.add_argument(
            "--metrics", default="psnr,msssim", help="of psnr, msssim, ssimulacra2 (default: the first two)"
        )
        command.add_argument("--rows", help="JSON-lines file of measurements: what is in it is not measured again")
    report.add_argument("--measured", help="CSV that rd wrote: its rows are shown, nothing is measured again")
    report.add_argument("--out", required=True, help="the page, .html")
    report.add_argument("--pictures", type=int, default=6, help="how many to show crops of (default 6)")
    report.add_argument("--quality", type=float, nargs="+", default=[2, 4, 6], help="of the crops, default 2 4 6")
    report.add_argument("--against", default="avif,webp", help="codecs of the crops: avif, webp, jpeg, jxl")
    report.add_argument(
        "--include", nargs="*", default=[], help="Markdown files of other results, for example of speed"
    )
    rd.add_argument("--csv", help="write every single measurement here")
    rd.add_argument("--plot", help="write the rate-distortion plot (PNG) here")
    plot = commands.add_parser("plot", help="the rate-distortion plot of rows that rd wrote")
    plot.add_argument("csv", help="of rd --csv")
    plot.add_argument("out", help="the plot (PNG)")
    graphics = commands.add_parser("graphics", help="text, screens, plots, art: bytes beside the best of AVIF and WebP")
    graphics.add_argument("--images", required=True, help="folder of lossless pictures called KIND_NAME")
    graphics.add_argument("--rows", help="JSON-lines file of measurements: what is in it is not measured again")
    graphics.add_argument("--quality", type=float, nargs="+", default=[*range(1, 11)])
    graphics.add_argument("--every", type=int, default=1, help="measure every so many-th picture (default 1)")
    patterns = commands.add_parser(
        "patterns", help="checks, lines, noise: what latents, codewords and files hold of them"
    )
    patterns.add_argument("patterns", nargs="*", default=[], help="such as 'checks 2' or 'lines 1 20'")
    crops = commands.add_parser("crops", help="one page of crops at similar bytes, to look at")
    crops.add_argument("--images", required=True, help="folder of the Kodak images")
    crops.add_argument("--quality", type=float, nargs="+", default=[3, 5])
    crops.add_argument("--against", default="avif,webp", help="of avif, webp, jpeg, jxl")
    crops.add_argument("--out", required=True, help="the page, any format Pillow writes")


def add_timings(commands: Any) -> None:
    speed = commands.add_parser("speed", help="seconds per megapixel, share of each stage, peak memory")
    speed.add_argument("--images", required=True, help="folder of photos, tiled into pictures of each size")
    speed.add_argument("--megapixels", default="0.4,2,12,50")
    speed.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    speed.add_argument("--quality", type=float, default=4)
    speed.add_argument("--effort", type=int, default=1)
    peers = commands.add_parser("peers", help="seconds beside other codecs, in turn, at the nearest size")
    peers.add_argument("--images", required=True, help="folder of photos, tiled into pictures of each size")
    peers.add_argument("--megapixels", default="0.4,2,12")
    peers.add_argument("--threads", default="1,2")
    peers.add_argument("--quality", type=float, default=4)
    peers.add_argument("--rounds", type=int, default=5)
    peers.add_argument(
        "--learned",
        default="",
        help="bmshj2018-hyperprior,mbt2018-mean,cheng2020-anchor (CompressAI), mcquic (the original's layers)",
    )
    cuda = commands.add_parser("cuda", help="megapixels per second on a CUDA device, and its limits")
    cuda.add_argument("--images", required=True, help="folder of photos, tiled into pictures of each size")
    cuda.add_argument("--megapixels", default="0.4,2")
    cuda.add_argument("--quality", type=float, default=4)
    cuda.add_argument("--learned", default="", help="of CompressAI: bmshj2018-hyperprior,mbt2018-mean,cheng2020-anchor")


def add_reliability(commands: Any) -> None:
    faults = commands.add_parser("faults", help="outcomes of damaged files: a table")
    faults.add_argument("--mutations", type=int, default=20_000)
    crash = commands.add_parser("crash", help="kill `mcq encode` at random moments")
    crash.add_argument("--kills", type=int, default=200)
    crash.add_argument("--files", type=int, default=12)
    load = commands.add_parser("load", help="memory over many decodes; threads against serial results")
    load.add_argument("--decodes", type=int, default=10_000)
    load.add_argument("--images", type=int, default=500)
    workers = commands.add_parser("workers", help="data loaders, pools and preforked servers")
    workers.add_argument("--one", help=argparse.SUPPRESS)
    determinism = commands.add_parser(
        "determinism", help="same bytes and codes, whatever process, threads or processor"
    )
    determinism.add_argument("--images", required=True)
    determinism.add_argument("--files", help=argparse.SUPPRESS)
    determinism.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    determinism.add_argument("--encode", action="store_true", help=argparse.SUPPRESS)


def main() -> None:
    args = arguments()
    # each command imports only what it needs: a POSIX-only module, peers, metrics
    if args.command == "rd":
        from .rd import run
    elif args.command == "plot":
        from .rd import run_plot as run
    elif args.command == "report":
        from .report import run
    elif args.command == "graphics":
        from .graphics import run
    elif args.command == "patterns":
        from .patterns import run
    elif args.command == "crops":
        from .crops import run
    elif args.command == "speed":
        from .speed import run
    elif args.command == "cuda":
        from .cuda import run
    elif args.command == "peers":
        from .peers import run
    else:
        from .trust import COMMANDS

        run = COMMANDS[args.command]
    run(args)


if __name__ == "__main__":
    main()
