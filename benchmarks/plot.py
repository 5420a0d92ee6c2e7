"""Pictures for the docs. ``python -m benchmarks.plot FOLDER`` writes them all; the docs' build calls it."""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

import diffcodec as dc
from benchmarks.common import RESULTS
from diffcodec import fidelity, report
from diffcodec.slopes import SLOPES, moments
from revmark_ref import apply, weights
from revmark_ref.waves import hidden, luma


def slopes(path: Path) -> None:
    """Every gradient of the exact JPEG for three quantiser steps: the gradient, and the function whose derivative it is."""
    figure = Figure(figsize=(13, 5.4), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(SLOPES), sharex=True, sharey="row")
    y = torch.linspace(-0.5, 2.5, 1801)
    for column, (name, slope) in enumerate(SLOPES.items()):
        top, bottom = axes[:, column]
        top.plot(y, y.round(), color="0.75", lw=1, label="hard level")
        for step, color in ((8.0, "C0"), (32.0, "C1"), (128.0, "C3")):
            if not name.startswith("expected") and step > 8:
                continue  # these do not depend on the step
            width = torch.full_like(y, step)
            g = slope(y, width)
            # the function whose derivative this is: a mean, or for a surrogate the integral from a level on
            value = moments(slope, y, width)[0] if name.startswith("expected") else torch.cumulative_trapezoid(g, y)
            label = f"step {step:g}" if name.startswith("expected") else "any step"
            top.plot(y if len(value) == len(y) else y[1:], value if len(value) == len(y) else value - value[300], color=color, lw=1.5)
            bottom.plot(y, g, color=color, lw=1.5, label=label)
        top.set_title(name, fontsize=10)
        bottom.set_xlabel("coefficient in steps")
        bottom.legend(fontsize=8, loc="upper right")
        for ax in (top, bottom):
            ax.grid(alpha=0.3)
    axes[0, 0].set_ylabel("value that it is the slope of\n(grey: hard level)")
    axes[1, 0].set_ylabel("gradient passed")
    axes[1, 0].set_ylim(-0.2, 5)
    figure.savefig(str(path), format="png")


def front(path: Path) -> None:
    """Survival against CRF for libx264, its simulator and the paper's (results of benchmarks.h264), and a frame with its errors (a demo clip)."""
    results = json.loads((RESULTS / "h264_fidelity.json").read_text())["rows"]
    unseen = [r for r in json.loads((RESULTS / "h264_unseen.json").read_text())["rows"] if r["name"].startswith("CRF")]
    ours = sorted([r for r in results if r.get("preset") == "medium"] + unseen, key=lambda r: r["crf"])
    paper = sorted((r for r in results if r.get("simulator") == "revmark"), key=lambda r: r["crf"])
    clip = report.load_clip(report.demo_clips()[0], 8, 128)
    x = clip.video[None]
    real = dc.RealCodec(crf=CRF).encode(x).video
    simulated = [("DiffH264()", dc.DiffH264(CRF)(x)), ('DiffH264(model="revmark")', dc.DiffH264(model="revmark")(x))]
    t = len(clip.video) // 2
    gain = 4

    figure = Figure(figsize=(13, 8.2), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    curves, frames = figure.subfigures(2, 1, height_ratios=[1, 1.5])  # type: ignore[misc]
    panels = curves.subplots(1, len(fidelity.BANDS), sharey=True)
    crfs = [[r["crf"] for r in rows] for rows in (ours, paper)]
    survive = [{p: [r["figures"][key][p] for r in rows] for p in fidelity.PROBES} for rows, key in (
        (ours, "survival_real"), (ours, "survival_simulated"), (paper, "survival_simulated")
    )]  # fmt: skip
    named = [("libx264", "black", crfs[0], survive[0]), ("DiffH264()", "C0", crfs[0], survive[1])]
    report.draw_survival(panels, [*named, ("the paper's simulator", "C3", crfs[1], survive[2])], ["static", "changing"], "CRF")
    handles, labels = panels[0].get_legend_handles_labels()
    curves.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=9, frameon=False)

    axes = frames.subplots(2, 4)
    psnr = lambda v: dc.metrics.psnr(v, x).item()  # noqa: E731
    shown = [("source", x), (f"libx264 CRF {CRF:g}", real), *simulated]
    for column, (name, v) in enumerate(shown):
        v = fidelity.quantised(v)
        top, bottom = axes[:, column]
        top.imshow(v[0, t].permute(1, 2, 0).numpy(), interpolation="nearest")
        top.set_title(name if column == 0 else f"{name}  ({psnr(v):.1f} dB)", fontsize=10)
        if column:
            bottom.imshow(((v - x)[0, t] * gain + 0.5).clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
            bottom.set_title(f"minus source, x {gain}", fontsize=10)
        top.axis("off")
        bottom.axis("off")
    figure.savefig(str(path), format="png")


CRF = 27.0


def scaling(path: Path) -> None:
    """Log-log plot of time and memory of forward and backward against size (results of benchmarks.scaling), with lines of slope 1."""
    rows = json.loads((RESULTS / "scaling.json").read_text())["rows"]
    axes = list(dict.fromkeys(r["axis"] for r in rows))
    sizes = {"batch": "batch", "frames": "frames", "area": "frame"}
    figure = Figure(figsize=(13, 7.4), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, len(axes), sharex="col", sharey="row")
    for column, axis in enumerate(axes):
        mine = [r for r in rows if r["axis"] == axis]
        for row, (key, scale) in enumerate((("median_ms", 1e-3), ("peak_bytes", 2**-20))):
            ax = panels[row, column]
            for i, r in enumerate(mine):
                x = [p["side"] ** 2 if axis == "area" else p[axis] for p in r["points"]]
                y = [p[key] * scale for p in r["points"]]
                label = f"{r['layer']}: {r['slope']['time' if row == 0 else 'memory']:.2f}"
                ax.loglog(x, y, "o-", ms=4, lw=1.3, color=f"C{i}", label=label)
                ax.loglog(x, [y[-1] * v / x[-1] for v in x], ":", lw=0.9, color=f"C{i}")
            ax.set_xticks(x, [f"{v}" if axis != "area" else f"{int(v**0.5)}²" for v in x])
            ax.minorticks_off()
            ax.grid(alpha=0.3)
            ax.legend(loc="upper left", fontsize=8, title="slope between the last two", title_fontsize=8)
        panels[1, column].set_xlabel(sizes[axis])
    for ax in panels[:, 0]:
        ax.set_ylim(top=ax.get_ylim()[1] * 12)  # room for the legends
    panels[0, 0].set_ylabel("seconds, forward + backward")
    panels[1, 0].set_ylabel("peak memory, MiB, input included")
    figure.savefig(str(path), format="png")


def marks(path: Path) -> None:
    """The most textured and the flattest place of a frame of two demo clips, without and with the mark of ``base`` at the default strength, and the
    difference: every pixel of the clip is drawn as 3 x 3 pixels."""
    net, _ = weights.load("base")
    t, side, zoom, gain, gap, title = 40, 96, 3, 8, 18, 26
    step = side * zoom
    tiles: list[tuple[str, Tensor]] = []
    for clip in report.demo_clips()[1:]:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "marked.mp4"
            apply.embed(net, clip, out, message="0123456789abcdef", crf=4)
            before, after = (dc.read_video(p, t, 1) for p in (clip, out))  # [1, 3, H, W]
        places = F.avg_pool2d(hidden(luma(before[None]))[0][None], side, 8)[0, 0]
        psnr = dc.metrics.psnr(after, before).item()
        shown = (before, after, 0.5 + gain * (after - before))
        for place, at in (("textured", places.argmax()), ("flat", places.argmin())):
            y, x = (8 * int(v) for v in divmod(int(at), places.shape[1]))
            names = (f"{clip.stem}, {place} place", f"marked (frame: {psnr:.1f} dB)", f"difference x {gain}")
            tiles += [(name, v[0, :, y : y + side, x : x + side].clamp(0, 1)) for name, v in zip(names, shown)]
    height = (len(tiles) // 3) * (step + title)
    figure = Figure(figsize=((3 * step + 2 * gap) / 100, height / 100), dpi=100)
    FigureCanvasAgg(figure)
    for i, (name, tile) in enumerate(tiles):
        left, top = i % 3 * (step + gap), i // 3 * (step + title)
        pixels = tile.permute(1, 2, 0).repeat_interleave(zoom, 0).repeat_interleave(zoom, 1)
        figure.figimage(pixels.numpy(), left, height - top - title - step)
        figure.text(left / (3 * step + 2 * gap), 1 - (top + title - 7) / height, name, fontsize=10)
    figure.savefig(str(path), format="png")


PICTURES = {"slopes": slopes, "front": front, "scaling": scaling, "marks": marks}


def _each(make: Callable[..., dc.Layer], argument: str, *values: Any, **more: Any) -> list[tuple[str, dc.Layer]]:
    return [(f"{argument}={v!r}", make(**{argument: v}, **more)) for v in values]


GALLERY: dict[str, Callable[[], list[tuple[str, dc.Layer]]]] = {
    "DiffH264": lambda: _each(dc.DiffH264, "crf", 22, 32, 42),
    "DiffH264(model='revmark')": lambda: _each(partial(dc.DiffH264, model="revmark"), "inter_scale", 1.0, 5.0, 25.0),
    "DiffJPEG": lambda: _each(dc.DiffJPEG, "quality", 75, 30, 10),
    "JPEGMask": lambda: _each(dc.JPEGMask, "luma", 40, 25, 6),
    "JPEGDrop": lambda: _each(dc.JPEGDrop, "quality", 75, 50, 20),
    "RealCodec('libx264')": lambda: _each(partial(dc.RealCodec, "libx264"), "crf", 22, 32, 42),
    "RealCodec('libx265')": lambda: _each(partial(dc.RealCodec, "libx265"), "crf", 22, 32, 42),
    "RealCodec('libvpx-vp9')": lambda: _each(partial(dc.RealCodec, "libvpx-vp9"), "crf", 24, 40, 56),
    "RealCodec('libsvtav1')": lambda: _each(partial(dc.RealCodec, "libsvtav1"), "crf", 24, 40, 56),
    "RealJPEG": lambda: _each(dc.RealJPEG, "quality", 75, 30, 10),
    "FrameAverage": lambda: _each(dc.FrameAverage, "n", 2, 3, 5),
    "FrameDrop": lambda: _each(dc.FrameDrop, "p", 0.2, 0.5, 0.8),
    "FrameSwap": lambda: _each(dc.FrameSwap, "p", 0.2, 0.5, 1.0),
    "FrameInsert": lambda: _each(dc.FrameInsert, "p", 0.2, 0.5, 0.8),
    "FrameRate": lambda: _each(dc.FrameRate, "ratio", 0.8, 0.5, 0.3),
    "RandomCrop": lambda: _each(dc.RandomCrop, "p", 0.8, 0.6, 0.4),
    "RandomCrop(mode='resize')": lambda: _each(partial(dc.RandomCrop, mode="resize"), "p", 0.8, 0.6, 0.4),
    "Resize": lambda: _each(dc.Resize, "scale", 0.7, 0.5, 0.25),
    "Rotate": lambda: _each(dc.Rotate, "degrees", 5, 15, 90),
    "Flip": lambda: [*_each(dc.Flip, "p", 0.0, 1.0), ("p=1.0, axis='vertical'", dc.Flip(1.0, axis="vertical"))],
    "Perspective": lambda: _each(dc.Perspective, "distortion", 0.2, 0.5, 0.9),
    "GaussianNoise": lambda: _each(dc.GaussianNoise, "sigma", 0.02, 0.06, 0.15),
    "GaussianBlur": lambda: _each(partial(dc.GaussianBlur, kernel=9, over="space"), "sigma", 0.7, 1.5, 3.0),
    "MedianFilter": lambda: _each(dc.MedianFilter, "kernel", 3, 5, 9),
    "ColorDither": lambda: _each(dc.ColorDither, "levels", 32, 8, 4),
    "Brightness": lambda: _each(dc.Brightness, "factor", 0.5, 1.2, 1.6),
    "Contrast": lambda: _each(dc.Contrast, "factor", 0.5, 1.3, 2.0),
    "Saturation": lambda: _each(dc.Saturation, "factor", 0.0, 1.5, 2.5),
    "Hue": lambda: _each(dc.Hue, "turn", -0.1, 0.1, 0.25),
}  # fmt: skip


SHOWN = 6  # frame of eight: not the middle one, from which the paper's model predicts the others


@torch.no_grad()
def through(title: str, video: Tensor) -> list[tuple[str, Tensor]]:
    """The frame of a clip ``[1, 8, 3, H, W]`` that the gallery shows, through a layer at each strength: label, ``[3, H, W]``."""
    draws = [(label, layer, layer.sample(video.shape, torch.Generator().manual_seed(3))) for label, layer in GALLERY[title]()]
    return [(label, layer(video, draw)[0, SHOWN]) for label, layer, draw in draws]


def gallery(folder: Path) -> None:
    """A picture for each layer, and ``gallery.txt`` that shows them: the source and three strengths."""
    video = report.load_clip(report.demo_clips()[0], 8, 128).video[None]
    text = []
    for title in GALLERY:
        shown = [("source", video[0, SHOWN]), *through(title, video)]
        faint = all((frame - shown[0][1]).abs().mean() < 0.06 for _, frame in shown)  # then the differences are shown as well
        figure = Figure(figsize=(6.4, 3.5 if faint else 1.9), dpi=130, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1 + faint, len(shown), squeeze=False)
        for (top, *below), (label, frame) in zip(axes.T, shown):
            top.imshow(frame.clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
            top.set_title(label, fontsize=9)
            if below and label != "source":
                error = 0.5 + 4 * (frame - shown[0][1])
                below[0].imshow(error.clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
                below[0].set_title("minus source, x 4", fontsize=9)
        for ax in axes.flat:
            ax.axis("off")
        name = "gallery-" + re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
        figure.savefig(str(folder / f"{name}.png"), format="png")
        labels = ", ".join(label for label, _ in shown)
        text.append(
            f"``{title}``\n{'-' * (len(title) + 4)}\n\n.. image:: _generated/{name}.png\n   :alt: A frame through {title}: {labels}\n"
        )
    (folder / "gallery.txt").write_text("\n".join(text))


def write(folder: Path) -> None:
    """All pictures into a folder."""
    for name, draw in PICTURES.items():
        draw(folder / f"{name}.png")
    gallery(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("out/plots"), help="where pictures go")
    place = parser.parse_args().folder
    place.mkdir(parents=True, exist_ok=True)
    write(place)
    print(f"wrote {place}")
