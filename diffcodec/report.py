"""A fidelity report on video files: figures, JSON and a picture. ``diffcodec fidelity`` is its command line."""

from __future__ import annotations

import importlib.metadata
import inspect
import math
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import config, derivatives, fidelity
from .clipsets import DEMO as DEMO
from .clipsets import START as START
from .clipsets import Clip as Clip
from .clipsets import demo_clips as demo_clips
from .clipsets import load_clip as load_clip
from .derivatives import Derivatives
from .fidelity import Fidelity, Measured, Steering
from .files import SUFFIXES, files_below
from .h264 import PRESETS
from .images import IMAGE_SUFFIXES
from .real.av_codec import versions
from .video import VideoError

TYPICAL = {"crf": 22, "quality": 50}  # strength of the picture and of the steering gain


@dataclass(frozen=True)
class Row:
    """One simulator against the real codec at one strength: a CRF, or libjpeg's quality."""

    simulator: str
    strength: float
    figures: Fidelity
    steering: Steering | None
    derivatives: Derivatives | None
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
        """Whether all clips are single pictures, for which changing probes have no meaning."""
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
                    | ({"source": c.source} if c.source else {})
                    for c in self.clips
                ],
                "rows": [
                    {
                        "simulator": r.simulator,
                        self.knob: r.strength,
                        "figures": r.figures,
                        "steering": r.steering,
                        "derivatives": r.derivatives,
                    }
                    for r in self.rows
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
        found = files_below(path, SUFFIXES + IMAGE_SUFFIXES if pictures else SUFFIXES)
        if not found:
            raise VideoError(f"{path}: no videos{' or pictures' * pictures} in this folder")
        out += found
    return out


def run(
    clips: Sequence[Clip],
    simulators: Sequence[str],
    real: str,
    strengths: Sequence[float],
    *,
    preset: str | None = None,
    fps: float | None = 25,
    steering_at: Iterable[float] = (),
    derivatives_at: Iterable[float] = (),
    seed: int = 0,
    strength: float = fidelity.STRENGTH,
    set_name: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Measure simulators against a real codec.

    A simulator that takes a strength, preset or frame rate gets the real codec's, unless its spec gives a value.

    Args:
        clips: windows, see :func:`load_clip`.
        simulators: specs, see :func:`diffcodec.build`.
        real: spec of the real codec.
        strengths: of the real codec: CRFs, or qualities of libjpeg.
        preset, fps: of a real video codec.
        steering_at: strengths at which the steering gain is measured as well (the slow part).
        derivatives_at: strengths at which the gradient's figures (:mod:`diffcodec.derivatives`) are measured as well.
        seed: of probes and draws.
        strength: of the probes, dB PSNR.
        set_name: name of the clips' set (:data:`diffcodec.clipsets.SETS`), which the report passes on.
        progress: called with a description before each piece of work; :func:`pieces` counts them.
    """
    tell = progress or (lambda _: None)
    steered, derived = set(steering_at), set(derivatives_at)
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
        described, used = repr(codec), getattr(codec, "preset", None)  # the preset that is used if none was given
        at = f"{knob_name(knob)} {value:g}"
        truth = measured(codec, f"{real} {at}")
        for spec in simulators:
            options = adopted(spec, real, {knob: value} | fixed | {"preset": used})
            layer = config.build(spec, **options)
            if knob in options or spec not in done:  # a simulator without this strength is measured only once
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
            slopes = None
            if value in derived:
                found = []
                for i, clip in enumerate(clips):
                    tell(f"derivatives of {spec}, {at}: {clip.name}")
                    found.append(derivatives.measure(layer, codec, clip.video, torch.Generator().manual_seed(seed + i)))
                slopes = derivatives.summary(found)
            rows.append(Row(spec, value, figures, steer, slopes, simulated[0].video, truth[0].video))
    rate: dict[str, tuple[float, float] | None] = {}
    for spec in simulators:
        mine = [r.figures for r in rows if r.simulator == spec]
        pairs = [(a, b) for f in mine if f.bits_simulated and f.bits_real for a, b in zip(f.bits_simulated, f.bits_real)]
        rate[spec] = fidelity.rate_agreement(*zip(*pairs)) if pairs else None
    settings: dict[str, Any] = {"real": real, "knob": knob, knob: list(strengths), f"steering_{knob}": sorted(steered)}
    settings |= {f"derivatives_{knob}": sorted(derived)}
    settings |= {"set": set_name} if set_name else {}
    settings |= fixed | ({"preset": used} if fixed else {}) | {"seed": seed, "probe_psnr": strength, "real_codec": described}
    return Report(list(clips), rows, rate, settings)


def knob_of(real: str) -> str:
    """What sets the strength of a real codec: "crf", or "quality" for libjpeg."""
    return "quality" if config.parse(real)[0] in ("libjpeg", "RealJPEG") else "crf"


def adopted(spec: str, real: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The real codec's settings that a simulator takes and its description does not give: the strength, with a CRF also preset and frame rate.
    Presets are passed on from libx264 and libx265 only."""
    _, options = config.parse(spec)
    layer = config.build(spec)
    takes = [k for k in ("crf", "quality") if k in layer.strength_names()]
    if "crf" in takes:
        takes += [k for k in ("preset", "fps") if k in inspect.signature(type(layer).__init__).parameters]
    found = {k: settings[k] for k in takes if settings.get(k) is not None and k not in options}
    if found.get("preset") not in PRESETS or config.parse(real)[0] not in ("libx264", "libx265"):
        found.pop("preset", None)
    if "crf" in found:
        found["crf"] = min(found["crf"], 51.0)
    return found


def knob_name(knob: str) -> str:
    """Display name: "CRF", "quality"."""
    return "CRF" if knob == "crf" else knob


def pieces(clips: int, simulators: Sequence[str], real: str, strengths: int, extra: int) -> int:
    """How often :func:`run` calls ``progress``; ``extra`` counts the strengths of steering and those of derivatives."""
    knob = knob_of(real)
    passes = sum(strengths if adopted(s, real, {knob: 0}) else 1 for s in simulators)
    return clips * (strengths + passes + len(simulators) * extra)


BANDS = ("block mean", "low", "lower middle", "upper middle", "high")  # of :data:`diffcodec.fidelity.BANDS`, in words
_MARKERS = "osD^vPX*"


def draw_survival(
    panels: Sequence[Any], curves: Sequence[tuple[str, str, Sequence[float], dict[str, list[float]]]], kinds: Sequence[str], knob: str
) -> None:
    """Plot the survival of probes against strength, one panel per band: colour and marker by codec, static probes solid, changing ones dashed.

    Args:
        panels: five axes of matplotlib.
        curves: name, colour, strengths, and the survival of each probe at them; the real codec first.
        kinds: "static", "changing" or both.
        knob: label of the strength axis.
    """
    for ax, band, (low, high) in zip(panels, BANDS, fidelity.BANDS):
        place = f"{low}" if low == high else f"{low}-{high}"
        for (name, color, strengths, survival), marker in zip(curves, _MARKERS * len(curves)):
            for kind in kinds:
                style = "-" if kind == "static" else "--"
                width = 2.0 if name == curves[0][0] else 1.2
                label = name if len(kinds) == 1 else f"{name}, {'still' if kind == 'static' else 'changing'}"
                ax.plot(strengths, survival[f"{place} {kind}"], style, marker=marker, ms=4.5, lw=width, color=color, label=label)
        ax.set_title(band if low == high else f"{band} frequencies", fontsize=10)
        ax.set_xlabel(knob)
        ax.set_ylim(-0.05, 1.1)
        ax.grid(alpha=0.3)
    panels[0].set_ylabel("share of an added signal\nthat survives")


def picture(report: Report, path: Path, at: float | None = None) -> None:
    """Draw a report: a frame of the first clip (source, real, each simulator), errors amplified by one factor, and the survival in each band.

    Args:
        report: what to draw; the figures printed as text are those of its first simulator.
        path: PNG to write.
        at: CRF or quality of the frames; None for the one nearest to :data:`TYPICAL`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    strengths = sorted({r.strength for r in report.rows})
    shown_at = min(strengths, key=lambda s: abs(s - (TYPICAL[report.knob] if at is None else at)))
    rows = [r for r in report.rows if r.strength == shown_at]
    clip = report.clips[0]
    t = len(clip.video) // 2
    source = clip.video[t]
    real_name = f"{report.settings['real']} {knob_name(report.knob)} {shown_at:g}"
    frames = [(f"real: {real_name}", rows[0].example_real), *((f"simulated: {r.simulator}", r.example_simulated) for r in rows)]
    # one factor for all errors, so that they compare: the largest one's 99th percentile reaches full contrast
    errors = [(v[t] - source).abs().flatten() for _, v in frames]
    top = max(e.kthvalue(max(1, int(0.99 * e.numel()))).values.item() for e in errors)
    gain = 0.5 / max(top, 1 / 255)

    columns = len(frames) + 1
    figure = Figure(figsize=(max(13, 3.4 * columns), 11), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    pictures, below = figure.subfigures(2, 1, height_ratios=[1.55, 1])  # type: ignore[misc]
    axes = pictures.subplots(2, columns)
    _show(axes[0, 0], source, f"source: {clip.name}" + ("" if report.still else f", frame {clip.start + t}"))
    _summary(axes[1, 0], report, rows[0])
    for column, (name, video) in enumerate(frames, 1):
        error = (video - clip.video).square().mean().item()
        told = "identical" if error == 0 else f"{-10 * math.log10(error):.1f} dB"
        _show(axes[0, column], video[t], f"{name}  ({told})")
        _show(axes[1, column], (video[t] - source) * gain + 0.5, f"minus source, x {gain:.1f}")

    panels = below.subplots(1, len(fidelity.BANDS), sharey=True)
    first = report.rows[0].simulator
    of = {
        s: [next(r for r in report.rows if r.strength == c and r.simulator == s).figures for c in strengths]
        for s in dict.fromkeys(r.simulator for r in report.rows)
    }
    curves = [(str(report.settings["real"]), "black", strengths, _over([f.survival_real for f in of[first]]))]
    curves += [(s, f"C{i}", strengths, _over([f.survival_simulated for f in figures])) for i, (s, figures) in enumerate(of.items())]
    draw_survival(panels, curves, ["static"] if report.still else ["static", "changing"], f"{knob_name(report.knob)} of the real codec")
    for ax in panels:
        ax.set_xticks(strengths)
    handles, labels = panels[0].get_legend_handles_labels()
    below.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), fontsize=9, frameon=False)
    figure.savefig(str(path), format="png")


def _over(each: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    return {probe: [one[probe] for one in each] for probe in each[0]}


def _show(ax: Any, image: Tensor, title: str) -> None:
    ax.imshow(image.clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
    ax.set_title(title, fontsize=10)
    ax.axis("off")


def _summary(ax: Any, report: Report, row: Row) -> None:
    """Print the figures of the strength on show under the source."""
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
    """A figure as text: a dash if it is undefined or infinite."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:{'+' if sign else ''}.{digits}f}"
