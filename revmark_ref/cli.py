"""The ``revmark`` command."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffcodec import __version__
from diffcodec.command import Help, add_completion, run

from .config import PRESETS, Config

Progress = Callable[[int], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status as that of :func:`diffcodec.cli.main`, and 1 if ``embed --verify`` does not read its mark."""
    return run(_parser(), argv, "; pip install 'diffcodec[revmark]' installs it ('diffcodec[demo]' for figures)")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="revmark", description="REVMark: train, evaluate, embed, extract.")
    parser.add_argument("--version", action="version", version=f"revmark of diffcodec {__version__}")
    verbs = parser.add_subparsers(dest="command", required=True)

    def verb(name: str, run: Callable[[argparse.Namespace, str], Any], text: str) -> argparse.ArgumentParser:
        v = verbs.add_parser(name, help=text, description=text, formatter_class=Help)
        v.set_defaults(run=run)
        return v

    e = verb("embed", _embed, "mark a video file")
    e.add_argument("input", type=Path)
    e.add_argument("output", type=Path, help=".mp4, .mkv, .mov or .m4v")
    what = e.add_mutually_exclusive_group(required=True)
    what.add_argument("--message", metavar="HEX", help="message in hex digits: 16 (64 bits) for base, 4 for small")
    what.add_argument("--text", metavar="STR", help="text of up to 200 bytes of UTF-8, split over the video and repeated")
    e.add_argument("--key", default="", metavar="STR", help="any string; the mark can only be found with the same key")
    e.add_argument("--psnr", type=float, default=40.0, help="PSNR of the marked frames before encoding, in dB")
    e.add_argument("--crf", type=float, help="CRF of libx264 (default: 20, with the bitrate capped near that of the input's video)")
    e.add_argument("--preset", default="veryfast", help="preset of libx264; slower presets give smaller files")
    e.add_argument("--weights", default="base", help="shipped weights by name, or a file")
    e.add_argument(
        "--force",
        action="store_true",
        help="mark a video even if it already carries a mark with this key, or if the mark is predicted not to be readable",
    )
    e.add_argument("--verify", action="store_true", help="read the output back; the exit status is 1 if its message or text is not found")
    e.add_argument(
        "--damaged", choices=["error", "keep"], default="error", help="damaged input: 'error' refuses it, 'keep' marks what can be decoded"
    )

    x = verb("extract", _extract, "read the mark of a video file; the exit status is 0 even if there is none")
    x.add_argument("input", type=Path)
    x.add_argument("--key", default="", metavar="STR", help="key that the video was marked with")
    x.add_argument("--json", action="store_true", help="print JSON")
    x.add_argument("--weights", default="base", help="shipped weights by name, or a file")

    d = verb("detect", _detect, "report whether a video file is marked; with a frame detector, which of its frames are")
    d.add_argument("input", type=Path)
    d.add_argument("--key", default="", metavar="STR", help="key that the video was marked with; frame detectors ignore it")
    d.add_argument("--json", action="store_true", help="print JSON; a frame detector adds a probability for each frame")
    d.add_argument(
        "--weights",
        default="base",
        help="weights of a model (verdict on the file) or of a frame detector: shipped ones by name (base, small, small-detector), or a file",
    )

    t = verb("train", _train, "train encoder and decoder")
    t.add_argument("--data", required=True, help="folder of videos, a file written by `revmark pack`, or 'synthetic'")
    t.add_argument("--out", type=Path, required=True, help="folder of the run")
    apart = t.add_mutually_exclusive_group()
    apart.add_argument(
        "--validation", metavar="DIR", help="videos to validate on (a folder or packed file); copies of them in --data are not trained on"
    )
    apart.add_argument(
        "--validation-share", type=float, metavar="SHARE",
        help="share of the videos of --data, by hash, that is held out to validate on, at least one (default: 0.05; 0 holds none out, and"
        " figures are those of training videos)",
    )  # fmt: skip
    t.add_argument("--preset", choices=list(PRESETS), default="small", help="configuration that the other arguments change")
    t.add_argument("--resume", action="store_true", help="resume from the newest intact checkpoint of the run")
    t.add_argument("--start", type=Path, help="weights file or run to initialise from")
    t.add_argument(
        "--distortion", nargs="+", metavar="NAME[@STEP]",
        help="compression layer and the step it starts at: none, jpeg, compnet, revmark, x264, exact, or package.module:Class;"
        " several form a curriculum",
    )  # fmt: skip
    t.add_argument("--steps", type=int)
    t.add_argument("--batch", type=int, help="clips per step and process")
    t.add_argument("--bits", type=int, help="payload in bits")
    t.add_argument("--seed", type=int)
    t.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="FIELD=VALUE",
        help="any other field of the configuration, for example lr=2e-4 mapping=spread",
    )
    t.add_argument("--workers", type=int, default=0, help="data loader processes")
    t.add_argument("--mixed-precision", choices=["no", "bf16"], default="no", help="bf16: networks in bfloat16")
    t.add_argument("--compile", action="store_true", help="compile encoder and decoder")
    t.add_argument(
        "--checkpoint-budget", type=float, metavar="MIB", help="smaller checkpoints: weights only; Adam's state restarts after a resume"
    )
    t.add_argument("--minutes", type=float, help="save and stop after this many minutes")
    t.add_argument("--until", type=int, metavar="STEP", help="save and stop after this step")
    t.add_argument("--tensorboard", action="store_true")
    t.add_argument("--spynet", type=Path, help="SPyNet weights, for --set motion=spynet; other commands read them from REVMARK_SPYNET")

    td = verb("train-detector", _train_detector, "train a detector of marked frames for a model")
    td.add_argument("--data", required=True, help="folder of videos, a packed file, or 'synthetic'")
    td.add_argument("--out", type=Path, required=True, help="folder of the run; the weights are saved there as detector.safetensors")
    td.add_argument("--weights", default="small", help="weights of the model whose marks are to be detected")
    td.add_argument("--resume", action="store_true")
    td.add_argument("--steps", type=int, default=2000)
    td.add_argument("--batch", type=int, default=8, help="clips per step")
    td.add_argument("--minutes", type=float, help="save and stop after this many minutes")

    v = verb("evaluate", _evaluate, "reproduce the paper's tables and figures for a model")
    v.add_argument("--data", required=True, type=Path, help="folder of videos")
    v.add_argument("--weights", default="small", help="shipped weights by name, or a file")
    v.add_argument("--out", type=Path, default=Path("out/evaluation"), help="folder for tables.json, tables.md, tables.csv and figures")
    v.add_argument(
        "--tables", nargs="+", type=int, choices=range(1, 11), default=[1, 2, 3, 8, 9, 10], metavar="N", help="tables of the paper, 1..10"
    )
    v.add_argument("--variants", nargs="+", default=[], help="other weights, for tables 4 to 7")
    v.add_argument("--detector", default="small-detector", help="detector weights for table 10 (marks of small; base needs none)")
    v.add_argument("--descent", type=int, default=0, help="gradient-descent steps through libx264 when embedding (mapping 'waves' only)")
    v.add_argument("--figures", action="store_true", help="also draw figures 5 and 6")
    v.add_argument("--windows", type=int, default=4, help="clips per video")
    v.add_argument("--seed", type=int, default=0)
    v.add_argument("--alexnet", help="file with AlexNet's weights, for LPIPS")

    p = verb("pack", _pack, "pack the videos of a folder into one file, for training where videos cannot be decoded")
    p.add_argument("input", type=Path)
    p.add_argument("output", type=Path, help="*.clips")
    p.add_argument("--budget", type=float, default=22.0, help="maximum file size in MB")
    p.add_argument("--frames", type=int, default=12, help="frames per video")
    p.add_argument("--side", type=int, default=144, help="short side of the frames in pixels")
    p.add_argument("--count", type=int, help="maximum number of videos")
    p.add_argument("--quality", type=int, default=80, help="WebP quality")

    w = verb("export", _export, "write the weights of a run to a file for --weights of the other commands")
    w.add_argument("run_folder", type=Path, metavar="RUN")
    w.add_argument("output", type=Path, help="*.safetensors")
    add_completion(verbs, parser)
    return parser


def _embed(args: argparse.Namespace, command: str) -> int:
    from . import apply, weights

    net, _ = weights.load(args.weights)
    with _bar("marking", args.input) as progress:
        done = apply.embed(
            net, args.input, args.output, args.message, args.text, args.psnr, args.crf, args.preset, progress, args.damaged, args.key, args.force,
            args.verify,
        )  # fmt: skip
    print(
        f"{args.output}: {done.frames} frames, {done.seconds:.1f} s, {args.psnr:g} dB before encoding;"
        f" {_size(done.bytes_before)} became {_size(done.bytes_after)}"
    )
    if done.prediction is not None:
        print(done.prediction)
    if done.verified is False:
        print(f"revmark embed: {args.output}: verification failed, the mark was not read back; the file was kept", file=sys.stderr)
        return 1
    if done.verified:
        print(f"verified: the {'text' if args.text is not None else 'message'} was read back")
    return 0


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def _extract(args: argparse.Namespace, command: str) -> None:
    from . import apply, weights

    net, _ = weights.load(args.weights)
    with _bar("reading", args.input, quiet=args.json) as progress:
        found = apply.extract(net, args.input, progress, args.key)
    sure = f"({100 * found.confidence:.1f} % of the bits of {found.segments} segments agree, p = {found.p_value:.1e})"
    if args.json:
        print(json.dumps(found.to_dict()))
    elif found.text is not None:
        print(f"text {found.text!r} {sure}")
    elif found.message is not None:
        print(f"message {found.message} {sure}")
    elif found.verdict == "unreadable":
        print(f"marked, but unreadable: no message in {found.segments} segments passes its check (p of a mark = {found.p_value:.1e})")
    else:
        print(f"no mark found in {found.segments} segments")
    if found.geometry and not args.json:
        lies = _lies(found.geometry)
        if lies:
            print(f"the video was changed: {lies}")
    if found.damage:
        print(f"revmark extract: {args.input}: {found.damage}; what could be decoded was read", file=sys.stderr)


def _lies(geometry: dict[str, Any]) -> str:
    """Geometric changes of a video in words; empty if there are none."""
    across, down = geometry["scale"]
    out = ["mirrored"] * geometry["mirrored"] + ["played backwards"] * geometry["backwards"]
    if min(geometry["turn"], 360 - geometry["turn"]) >= 0.5:
        out.append(f"turned by {geometry['turn']:g} degrees")
    if max(abs(across - 1), abs(down - 1)) > 0.02:
        out.append(
            f"cut, padded or stretched (the mark is {across:g} times as wide and {down:g} times as tall as in a whole frame of this size)"
        )
    return ", ".join(out)


def _detect(args: argparse.Namespace, command: str) -> None:
    from diffcodec.media import Damage

    from . import apply, weights

    damage = Damage()
    if not weights.is_detector(args.weights):
        net, _ = weights.load(args.weights)
        with _bar("looking", args.input, quiet=args.json) as progress:
            told = apply.extract(net, args.input, progress, args.key)
        if args.json:
            print(
                json.dumps(
                    {"marked": told.verdict != "none"}
                    | {k: told.to_dict()[k] for k in ("verdict", "p_value", "score", "segments", "damage")}
                )
            )
        elif told.verdict == "none":
            print(f"no mark with this key found in {told.segments} segments")
        else:
            print(f"marked (false positive probability {told.p_value:.1e})")
        if told.damage:
            print(f"revmark detect: {args.input}: {told.damage}; what could be decoded was read", file=sys.stderr)
        return
    detector, size = weights.load_detector(args.weights)
    with _bar("looking", args.input, quiet=args.json) as progress:
        found = apply.detect(detector, size, args.input, progress, damage=damage)
    marked = apply.spans([p > 0.5 for p in found])
    if args.json:
        print(
            json.dumps(
                {
                    "frames": len(found),
                    "marked_frames": sum(p > 0.5 for p in found),
                    "spans": marked,
                    "probability": [round(p, 4) for p in found],
                    "damage": str(damage) if damage else None,
                }
            )
        )
    elif marked:
        frames = ", ".join(f"{a}-{b}" for a, b in marked)
        print(f"{sum(p > 0.5 for p in found)} of {len(found)} frames look marked, each judged alone: {frames}")
    else:
        print(f"none of {len(found)} frames looks marked, each judged alone")
    if damage:
        print(f"revmark detect: {args.input}: {damage}; what could be decoded was read", file=sys.stderr)


def _train(args: argparse.Namespace, command: str) -> int:
    from .run import Plan
    from .train import stages, train

    values: dict[str, Any] = {k: getattr(args, k) for k in ("steps", "batch", "bits", "seed") if getattr(args, k) is not None}
    if args.distortion:
        values["distortion"] = stages(args.distortion)
    for item in args.set:
        name, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"--set expected FIELD=VALUE, got {item!r}")
        try:
            values[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            values[name] = value
    config = PRESETS[args.preset].with_values(values)
    kept = args.out / "config.json"
    if args.resume and kept.is_file():  # the run's own configuration; arguments given now override it
        config = Config.from_json(kept.read_text()).with_values(values)
    plan = Plan(
        config, args.data, args.out, args.resume, args.start, args.workers, args.mixed_precision, args.compile, args.checkpoint_budget, args.until,
        args.minutes, args.tensorboard, args.spynet, validation=args.validation, validation_share=args.validation_share,
    )  # fmt: skip
    done = train(plan)
    accuracy = f", bit accuracy {100 * done.figures['accuracy']:.1f} % in training" if "accuracy" in done.figures else ""
    print(f"{args.out}: {done.why} at step {done.step} of {config.training.steps}{accuracy}")
    if done.why == "stopped":
        print(f"revmark train: saved at step {done.step}; --resume goes on", file=sys.stderr)
        return 130
    return 0


def _train_detector(args: argparse.Namespace, command: str) -> None:
    from . import weights
    from .detector import DetectorPlan, train_detector
    from .progress import Clock

    net, config = weights.load(args.weights)
    plan = DetectorPlan(args.data, args.out, args.resume, args.steps, args.batch, minutes=args.minutes)
    running: list[float] = []
    clock = Clock()

    def report(step: int, loss: float, accuracy: float) -> None:
        running.append(accuracy)
        if clock.due():
            print(f"step {step}  loss {loss:.3f}  frames {100 * sum(running[-50:]) / len(running[-50:]):.1f} %", flush=True)

    print(train_detector(net, config, plan, report))


def _evaluate(args: argparse.Namespace, command: str) -> None:
    from diffcodec.files import replacing

    from . import evaluate, weights
    from .checkpoint import CheckpointError

    mine, *others = evaluate.evaluations(
        [args.weights, *args.variants], args.data, args.out, args.windows, args.seed, args.alexnet, args.descent
    )
    detector = args.detector
    if 10 in args.tables:
        try:
            weights.find(detector)
        except CheckpointError as error:
            print(f"table 10 is left out: {error}", file=sys.stderr)
            detector = None
    found: dict[str, Any] = evaluate.tables(mine, args.tables, args.data, others, detector)
    result: dict[str, Any] = {
        "command": command, "weights": mine.key.split("/")[0], "model": dataclasses.asdict(mine.config.model),
        "steps": mine.steps, "ours is": mine.described(), "columns": evaluate.COLUMNS,
        "windows": args.windows, "seed": args.seed, "descent": args.descent,
        "clips": dict(zip(mine.material.names, mine.material.hashes)), "tables": found,
    }  # fmt: skip
    if args.figures:
        result["figure 5"] = evaluate.curves(mine)
        evaluate.plot_curves(result["figure 5"], args.out / "figure5.png")
        evaluate.plot_residuals(mine, args.out / "figure6.png")
    text = evaluate.markdown(found)
    contents = {"tables.json": json.dumps(result, indent=1), "tables.md": text, "tables.csv": evaluate.csv_text(found)}
    for name, content in contents.items():
        with replacing(args.out / name) as path:
            path.write_text(content)
    print(text)


def _pack(args: argparse.Namespace, command: str) -> None:
    from .data import pack

    told = pack(args.input, args.output, args.budget, args.frames, args.side, args.count, args.quality)
    print(f"{args.output}: {told['videos']} videos, {told['frames']} frames, {told['bytes'] / 1e6:.1f} MB")


def _export(args: argparse.Namespace, command: str) -> None:
    from .weights import export

    export(args.run_folder, args.output)
    print(args.output)


@contextmanager
def _bar(what: str, path: Path, quiet: bool = False) -> Iterator[Progress | None]:
    """A progress bar over the frames of a video, on a terminal."""
    if quiet or not sys.stderr.isatty() or not os.path.isfile(path):
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    from diffcodec.video import video_info

    with Bar(console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=video_info(path).frames)
        yield lambda n: bar.update(task, completed=n)


if __name__ == "__main__":
    sys.exit(main())
