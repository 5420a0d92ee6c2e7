"""The paper's tables and figures for a model. Every finished cell is stored, so that an interrupted evaluation resumes where it stopped."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from diffcodec.files import replacing, sha256

from . import weights
from .measure import QUALITY, Evaluation, material

# attacks of Table 1 with the paper's accuracies in % (REVMark; DVMark)
TABLE1 = {
    "average": ("frame average, N = 3", 99.98, 98.10),
    "drop": ("frame drop, p = 0.5", 99.81, 98.99),
    "swap": ("frame swap, p = 0.5", 99.98, 99.35),
    "crop": ("random crop, p = 0.4", 83.31, 97.06),
    "noise": ("Gaussian noise, sigma = 0.04", 99.97, 98.56),
    "blur": ("3-D Gaussian blur, sigma = 2.0", 99.82, 98.09),
    "libx264:22": ("libx264, CRF 22", 95.84, 92.94),
}
FIGURE5: dict[str, tuple[str, list[float]]] = {
    "average": ("N", [1, 3, 5, 7]),
    "drop": ("p", [0.1, 0.3, 0.5, 0.7, 0.9]),
    "swap": ("p", [0.1, 0.3, 0.5, 0.7, 0.9]),
    "crop": ("p", [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]),
    "noise": ("sigma", [0.01, 0.02, 0.04, 0.06, 0.08, 0.1]),
    "blur": ("sigma", [0.5, 1.0, 2.0, 3.0, 4.0]),
    "libx264": ("CRF", [18, 20, 22, 24, 26, 28, 30, 32, 34]),
    "libx265": ("CRF", [18, 22, 26, 30, 34]),
    "libvpx-vp9": ("CRF", [18, 24, 30, 36, 42]),
    "libsvtav1": ("CRF", [18, 24, 30, 36, 42]),
}
TABLE3 = {38.62: (93.97, 2.30), 38.08: (95.07, 2.67), 37.53: (95.84, 2.96), 36.98: (96.74, 3.29), 36.47: (97.37, 3.81)}
TABLE4 = {
    64: (96.67, 37.57, 2.84),
    80: (96.55, 37.57, 3.19),
    96: (95.84, 37.53, 2.96),
    112: (95.55, 37.59, 4.03),
    128: (94.94, 37.53, 3.82),
}
TABLE5 = {False: (99.62, 98.91, 99.87, 94.31), True: (99.81, 99.73, 99.82, 95.84)}
TABLE6 = {"compnet": (99.65, 99.89, 99.80, 79.12), "jpeg": (99.79, 99.31, 74.31, 87.44), "revmark": (99.81, 99.97, 99.82, 95.84)}
TABLE9 = {(128, 128): (99.97, 99.82), (256, 256): (99.89, 99.82), (512, 512): (99.90, 99.84), (720, 1280): (99.95, 99.95)}
TABLE10 = {"drop": 99.9, "noise": 99.5, "blur": 99.7, "libx264:22": 97.2}


def evaluation(
    name: str | Path, folder: str | Path, out: Path, windows: int = 4, seed: int = 0, alexnet: str | None = None, descent: int = 0
) -> Evaluation:
    """An :class:`Evaluation` of weights on a folder of videos."""
    net, config = weights.load(name)
    steps = weights.read(weights.find(name))[1].get("step")
    m = config.model
    found = material(folder, m.frames, (m.height, m.width), m.bits, windows, seed)
    digest = sha256(weights.find(name))[:12]
    clips = hashlib.sha256("".join(found.hashes).encode() + f"{windows} {seed}".encode()).hexdigest()[:12]
    out.mkdir(parents=True, exist_ok=True)
    return Evaluation(
        net, config, Path(name).stem, found, out / "cells.json", f"{digest}/{clips}", alexnet, descent, None if steps is None else int(steps)
    )  # fmt: skip


def evaluations(names: Sequence[str | Path], folder: str | Path, out: Path, *options: Any) -> list[Evaluation]:
    """An :func:`evaluation` of each of several weights, sharing one store of cells."""
    found = [evaluation(name, folder, out, *options) for name in names]
    for other in found[1:]:
        other.cells = found[0].cells
    return found


Row = dict[str, Any]
OURS = "ours is"  # column that says what a row measures
COLUMNS = {
    "paper": "figures of the paper: 96 bits, 8 x 128 x 128, 37.5 dB, 60000 steps on Kinetics-400, other clips",
    "ours": "the same figure of the model that 'ours is' describes: bits, frames x height x width, PSNR of the marked clips, training steps",
    **QUALITY,
}


def tables(
    main: Evaluation, numbers: Iterable[int], folder: str | Path, variants: Sequence[Evaluation] = (), detector: str | Path | None = None
) -> dict[str, list[Row]]:
    """Rows of the paper's tables, with the paper's values beside ours.

    Args:
        main: the model.
        numbers: numbers of the tables, 1 to 10; tables 4 to 7 also have rows for ``variants``, labelled by their configurations.
        folder: of the videos, for Table 9.
        variants: other models.
        detector: weights, for Table 10.
    """
    makers: dict[int, Callable[[], list[Row]]] = {
        1: lambda: [
            {"attack": label, "paper DVMark": dvmark, "paper": paper, "ours": main.accuracy(name), OURS: main.described()}
            for name, (label, paper, dvmark) in TABLE1.items()
        ],
        2: lambda: [
            {"model": "DVMark (paper)", "psnr": 37.0, "ssim": None, "lpips": 5.70},
            {"model": "REVMark (paper)", "psnr": 37.5, "ssim": None, "lpips": 2.96},
            {"model": main.name, **main.quality(), OURS: main.described()},
        ],
        3: lambda: [_at_psnr(main, psnr, paper) for psnr, paper in TABLE3.items()],
        4: lambda: [_payload(v) for v in sorted([main, *variants], key=lambda v: v.config.model.bits)],
        5: lambda: [_with_tas(v) for v in [main, *variants]],
        6: lambda: [_compared(v, _trained_with(v), None, TABLE6.get(_trained_with(v)), (22, 27)) for v in [main, *variants]],
        7: lambda: [{"model": v.name, "mask loss": _mask(v), **v.quality(), OURS: v.described()} for v in [main, *variants]],
        8: lambda: [
            {"model": "DVMark (paper)", "parameters_m": 22.45, "gflops": 2589, "steps": 3_000_000},
            {"model": "REVMark (paper; FLOPs with its distortion layer)", "parameters_m": 8.38, "gflops": 242, "steps": 60_000},
            {"model": main.name, **main.cost(), "steps": main.steps, OURS: main.described()},
        ],
        9: lambda: [
            {
                "size": f"{w}x{h}", "paper noise": paper[0], "noise": main.larger(folder, (h, w), "noise"),
                "paper blur": paper[1], "blur": main.larger(folder, (h, w), "blur"), OURS: main.described(),
            }
            for (h, w), paper in TABLE9.items()
        ],
        10: lambda: [
            {"attack": TABLE1[name][0], "paper": paper, "ours": main.detected(detector, name), OURS: main.described()}
            for name, paper in TABLE10.items()
        ],
    }  # fmt: skip
    return {f"table {n}": makers[n]() for n in numbers}


def _at_psnr(main: Evaluation, psnr: float, paper: tuple[float, float]) -> Row:
    alpha = main.alpha_for(psnr)
    return {
        "psnr": psnr, "paper": paper[0], "ours": main.accuracy("libx264:22", alpha=alpha),
        "paper lpips": paper[1], "lpips": main.quality(alpha)["lpips"], OURS: main.described(alpha),
    }  # fmt: skip


def _payload(v: Evaluation) -> Row:
    bits = v.config.model.bits
    paper = TABLE4.get(bits, (None, None, None))
    return {"bits": bits, "model": v.name, "paper": paper[0], "ours": v.accuracy("libx264:22"), **v.quality(), OURS: v.described()}


def _with_tas(v: Evaluation) -> Row:
    tas = v.config.model.tas
    return _compared(v, f"{'with' if tas else 'without'} TAsBlock", 0.10, TABLE5[tas])


def _compared(v: Evaluation, label: str, noise: float | None, paper: Sequence[float] | None, crfs: Sequence[int] = (22,)) -> Row:
    """Drop, noise, blur and libx264 of one model."""
    row: Row = {"model": v.name, "variant": label, "psnr": v.quality()["psnr"]}
    for i, (name, strength) in enumerate((("drop", None), ("noise", noise), ("blur", None))):
        row[f"paper {name}"] = paper[i] if paper else None
        row[name] = v.accuracy(name, strength)
    row["paper libx264:22"] = paper[3] if paper else None
    for crf in crfs:
        row[f"libx264:{crf}"] = v.accuracy(f"libx264:{crf}")
    return row | {OURS: v.described()}


def _mask(v: Evaluation) -> float:
    return v.config.training.at("mask_weight", v.config.training.steps)


def _trained_with(v: Evaluation) -> str:
    return v.config.training.distortion[-1][1] if v.config.training.distortion else "none"


def curves(main: Evaluation, names: Iterable[str] = tuple(FIGURE5)) -> dict[str, list[Row]]:
    """Figure 5: accuracy over the strength of each attack, and over the CRF of four codecs."""
    return {name: [{"strength": s, **main.accuracy(name, s)} for s in FIGURE5[name][1]] for name in names}


def markdown(found: dict[str, list[Row]]) -> str:
    """Tables as GitHub markdown, and what their columns are."""

    def text(v: Any) -> str:
        if v is None:
            return "not measured"
        if isinstance(v, dict):
            return f"{v['value']:.2f} [{v['low']:.2f}, {v['high']:.2f}]"
        return f"{v:g}" if isinstance(v, float) else str(v)

    out = []
    for name, rows in found.items():
        columns = list(dict.fromkeys(k for r in rows for k in r))
        out += [f"### {name.capitalize()}", "", "| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
        out += ["| " + " | ".join(text(r.get(c)) if c in r else "" for c in columns) + " |" for r in rows]
        out.append("")
    seen = {k for rows in found.values() for r in rows for k in r}
    out += [f"- *{name}*: {words}." for name, words in COLUMNS.items() if name in seen or any(k.startswith(f"{name} ") for k in seen)]
    return "\n".join([*out, "- Intervals are 95 % bootstrap intervals over the videos."])


def csv_text(found: dict[str, list[Row]]) -> str:
    """Tables as CSV, a line a figure: what is not measured is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", "row", "column", "value", "low", "high", "n", OURS])
    for name, rows in found.items():
        for row in rows:
            (_, label), *cells = row.items()
            for column, v in cells:
                if column != OURS:
                    figures = [v.get(k) for k in ("value", "low", "high", "n")] if isinstance(v, dict) else [v, None, None, None]
                    writer.writerow([name.removeprefix("table "), label, column, *figures, row.get(OURS)])
    return out.getvalue()


def plot_curves(found: dict[str, list[Row]], path: Path) -> None:
    """Figure 5 as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(found)
    figure, axes = plt.subplots(2, -(-len(names) // 2), figsize=(3 * -(-len(names) // 2), 5.5), squeeze=False)
    for axis, name in zip(axes.flat, names):
        rows = found[name]
        x = [r["strength"] for r in rows]
        axis.plot(x, [r["value"] for r in rows], marker="o", markersize=3)
        axis.fill_between(x, [r["low"] for r in rows], [r["high"] for r in rows], alpha=0.2)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel(FIGURE5[name][0])
        axis.set_ylim(min(48, *(r["low"] for r in rows)), 101)
        axis.grid(alpha=0.3)
    for axis in list(axes.flat)[len(names) :]:
        axis.axis("off")
    for row in axes:
        row[0].set_ylabel("bit accuracy, %")
    figure.tight_layout()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)


def plot_residuals(main: Evaluation, path: Path, count: int = 4) -> None:
    """Figure 6: cover, marked, residual, residual x 5, of one frame of some clips."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    marked, clips = main.marked(main.alpha), main.material.clips
    first = [main.material.owner.index(o) for o in sorted(set(main.material.owner))]
    chosen = first[:: max(1, len(first) // count)][:count]
    figure, axes = plt.subplots(len(chosen), 4, figsize=(8, 2.1 * len(chosen)), squeeze=False)
    for row, i in zip(axes, chosen):
        t = clips.shape[1] // 2
        cover, changed = clips[i, t], marked[i, t]
        for axis, picture in zip(row, (cover, changed, 0.5 + changed - cover, 0.5 + 5 * (changed - cover))):
            axis.imshow(picture.clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
            axis.axis("off")
        row[0].set_title(main.material.names[main.material.owner[i]], fontsize=7)
    for axis, title in zip(axes[0][1:], ("marked", "residual", "residual x 5")):
        axis.set_title(title, fontsize=8)
    figure.tight_layout()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)
