"""Pictures for the docs. ``python -m benchmarks.plot DIR`` writes them all; the docs' build calls it."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from diffcodec.jpeg.slopes import SLOPES, moments


def slopes(path: Path) -> None:
    """Every gradient of the exact JPEG: what it passes, over three quantiser steps, and the value that it is the slope of."""
    figure = Figure(figsize=(13, 5.4), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(SLOPES), sharex=True, sharey="row")
    y = torch.linspace(-0.5, 2.5, 1801)
    for column, (name, slope) in enumerate(SLOPES.items()):
        top, bottom = axes[:, column]
        top.plot(y, y.round(), color="0.75", lw=1, label="hard level")
        for step, color in ((8.0, "C0"), (32.0, "C1"), (128.0, "C3")):
            if not name.startswith("expected") and step > 8:
                continue  # these do not look at the step
            width = torch.full_like(y, step)
            g = slope(y, width)
            # the value whose slope this is: a mean, or for a surrogate the integral from a level on
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


PICTURES = {"slopes": slopes}


def write(folder: Path) -> None:
    """All pictures into a folder."""
    for name, draw in PICTURES.items():
        draw(folder / f"{name}.png")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
