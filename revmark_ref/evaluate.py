"""The paper's tables and figures, measured on a model: one cell at a time, every finished cell kept, so that a stopped evaluation goes on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import diffcodec as dc
from diffcodec.video import VideoError, read_video, replacing, video_files, video_info

from . import weights
from .config import Config
from .distortion import ATTACKS
from .keys import generator, messages
from .model import REVMark

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


def attack(name: str, strength: float | None = None) -> torch.nn.Module:
    """An attack of the tables by name, "libx264:22" for a codec and its CRF; ``strength`` replaces the paper's."""
    kind, _, crf = name.partition(":")
    if kind in dc.real.ENCODERS:
        return dc.RealCodec(kind, crf=float(crf) if strength is None else float(strength), gradient=None)
    if strength is None:
        return ATTACKS[kind]
    makers: dict[str, Callable[[float], torch.nn.Module]] = {
        "average": lambda s: dc.FrameAverage(int(s)),
        "drop": dc.FrameDrop,
        "swap": dc.FrameSwap,
        "crop": dc.RandomCrop,
        "noise": dc.GaussianNoise,
        "blur": lambda s: dc.GaussianBlur(s, kernel=3),
    }
    return makers[kind](float(strength))


@dataclasses.dataclass
class Material:
    """The clips and messages that everything is measured on.

    Attributes:
        clips: ``[N, T, 3, H, W]``, windows of the videos as they are (scaled up where a video is smaller).
        message: ``[N, L]``.
        owner: index of the video that each clip is from.
        names, hashes: of the videos.
    """

    clips: Tensor
    message: Tensor
    owner: list[int]
    names: list[str]
    hashes: list[str]


def material(folder: str | Path, frames: int, size: tuple[int, int], bits: int, windows: int = 4, seed: int = 0) -> Material:
    """``windows`` clips of every video of a folder: places and times drawn from (seed, video, window), the first window from the centre.

    Raises:
        VideoError: no video that is long enough.
    """
    clips: list[Tensor] = []
    owner: list[int] = []
    names: list[str] = []
    hashes: list[str] = []
    for path in video_files(folder):
        try:
            info = video_info(path)
            if info.frames < frames:
                raise VideoError(f"{path}: {info.frames} frames")
            scale = max(size[0] / info.height, size[1] / info.width, 1.0)
            big = (max(size[0], round(info.height * scale)), max(size[1], round(info.width * scale)))
            for i in range(windows):
                g = generator(seed, f"evaluate {path.name}", i)
                at = [
                    int(torch.randint(n, (1,), generator=g)) for n in (info.frames - frames + 1, big[0] - size[0] + 1, big[1] - size[1] + 1)
                ]
                if i == 0:
                    at = [min(20, info.frames - frames), (big[0] - size[0]) // 2, (big[1] - size[1]) // 2]
                video = read_video(path, at[0], frames, size=big if scale > 1 else None)
                clips.append(video[..., at[1] : at[1] + size[0], at[2] : at[2] + size[1]].contiguous())
                owner.append(len(names))
        except VideoError as error:
            import warnings

            warnings.warn(f"left out: {error}", stacklevel=2)
            continue
        names.append(path.name)
        hashes.append(hashlib.sha256(path.read_bytes()).hexdigest())
    if not clips:
        raise VideoError(f"{folder}: no video of at least {frames} frames")
    # one draw a window, not a number of the list: a folder with more videos keeps the messages of those it had
    sent = torch.cat([messages(seed, [int(hashes[o][:12], 16) + i % windows], bits) for i, o in enumerate(owner)])
    return Material(torch.stack(clips), sent, owner, names, hashes)


def interval(values: Sequence[float], owner: Sequence[int], seed: int = 0, rounds: int = 2000) -> tuple[float, float, float]:
    """Mean and 95 % confidence interval by bootstrap over videos: windows of one video stand or fall together."""
    values_, owner_ = np.asarray(values, float), np.asarray(owner)
    groups = [values_[owner_ == o] for o in np.unique(owner_)]
    sums, sizes = np.array([g.sum() for g in groups]), np.array([len(g) for g in groups])
    pick = np.random.default_rng(seed).integers(0, len(groups), (rounds, len(groups)))
    means = sums[pick].sum(1) / sizes[pick].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(values_.mean()), float(low), float(high)


def _with_interval(values: Sequence[float], owner: Sequence[int]) -> dict[str, float]:
    mean, low, high = interval(values, owner)
    return {"value": round(mean, 3), "low": round(low, 3), "high": round(high, 3), "n": len(values)}


class Evaluation:
    """Measures cells and keeps them.

    Args:
        net, config: the model.
        name: what it is called.
        clips: material of its size.
        store: JSON file of finished cells; made if missing.
        key: what the cells depend on beside their own name (hash of the weights, of the material).
    """

    def __init__(self, net: REVMark, config: Config, name: str, clips: Material, store: Path, key: str, alexnet: str | None = None) -> None:
        self.net, self.config, self.name, self.material, self.store, self.key = net, config, name, clips, store, key
        self.alexnet = alexnet
        self.cells: dict[str, Any] = json.loads(store.read_text()) if store.is_file() else {}
        self._marked: dict[float, Tensor] = {}

    @property
    def alpha(self) -> float:
        """The strength that the model was trained to."""
        return self.config.training.at("alpha", self.config.training.steps)

    def cell(self, name: str, measure: Callable[[], Any]) -> Any:
        """The value of a cell, measured unless it is in the store."""
        key = f"{self.key}/{name}"
        if key not in self.cells:
            self.cells[key] = measure()
            with replacing(self.store) as path:
                path.write_text(json.dumps(self.cells))
        return self.cells[key]

    @torch.no_grad()
    def marked(self, alpha: float) -> Tensor:
        """The marked clips on 8-bit values."""
        if alpha not in self._marked:
            m = self.material
            parts = [self.net.embed(c, b, alpha) for c, b in zip(m.clips.split(8), m.message.split(8))]
            self._marked = {alpha: (torch.cat(parts).clamp(0, 1) * 255).round() / 255}
        return self._marked[alpha]

    def alpha_for(self, psnr: float) -> float:
        """The strength that gives a mean PSNR: noise power goes with its square."""

        def find() -> float:
            alpha = self.alpha
            for _ in range(3):
                alpha *= 10 ** ((float(dc.metrics.psnr(self.marked(alpha), self.material.clips).mean()) - psnr) / 20)
            return alpha

        return float(self.cell(f"alpha for {psnr}", find))

    @torch.no_grad()
    def accuracy(self, name: str, strength: float | None = None, alpha: float | None = None) -> dict[str, float]:
        """Bit accuracy in % under an attack: ``{"value", "low", "high", "n"}``."""
        alpha = self.alpha if alpha is None else alpha

        def measure() -> dict[str, float]:
            marked = self.marked(alpha)
            layer = attack(name, strength)
            found = []
            for i, clip in enumerate(marked.split(1)):
                draw = layer.sample(clip.shape, generator(0, f"attack {name}", i))  # type: ignore[operator]
                found.append(layer(clip, draw))
            logits = torch.cat([self.net.extract(c) for c in torch.cat(found).split(8)])
            return self._with_interval(100 * dc.metrics.bit_accuracy(self.material.message, logits))

        return dict(self.cell(f"accuracy {name} {strength} alpha {alpha:.4g}", measure))

    def _with_interval(self, values: Tensor) -> dict[str, float]:
        return _with_interval(values.tolist(), self.material.owner)

    @torch.no_grad()
    def quality(self, alpha: float | None = None) -> dict[str, Any]:
        """PSNR in dB, SSIM, LPIPS x 100 (None without AlexNet's features) of the marked clips."""
        alpha = self.alpha if alpha is None else alpha

        def measure() -> dict[str, Any]:
            marked, clips = self.marked(alpha), self.material.clips
            out: dict[str, Any] = {
                "psnr": self._with_interval(dc.metrics.psnr(marked, clips)),
                "ssim": self._with_interval(dc.metrics.ssim(marked, clips)),
            }
            try:
                from .lpips import LPIPS

                distance = LPIPS(self.alexnet)
                parts = [distance(a, b) for a, b in zip(marked.split(8), clips.split(8))]
                out["lpips"] = self._with_interval(100 * torch.cat(parts))
            except FileNotFoundError as error:
                print(f"LPIPS is left out: {error}", flush=True)
                out["lpips"] = None
            return out

        value = dict(self.cell(f"quality alpha {alpha:.4g}", measure))
        if value["lpips"] is None:  # not to be remembered: the features may come
            self.cells.pop(f"{self.key}/quality alpha {alpha:.4g}", None)
        return value

    @torch.no_grad()
    def larger(self, folder: str | Path, size: tuple[int, int], name: str) -> dict[str, float]:
        """Table 9: clips of a larger size, marked through the model's (A.1), attacked at their own, read through the model's."""

        def measure() -> dict[str, float]:
            model = self.config.model
            found = material(folder, model.frames, size, model.bits, windows=1)
            values = []
            layer = attack(name)
            for i, clip in enumerate(found.clips.split(1)):
                small = _resize(clip, (model.height, model.width))
                residual = _resize(self.net.residual(small, found.message[i : i + 1], self.alpha), size)
                target = 10 ** (-float(self.quality()["psnr"]["value"]) / 10)
                residual = residual * (target / residual.square().mean()).sqrt()
                marked = ((clip + residual).clamp(0, 1) * 255).round() / 255
                attacked = layer(marked, layer.sample(marked.shape, generator(0, f"larger {name}", i)))  # type: ignore[operator]
                logits = self.net.extract(_resize(attacked, (model.height, model.width)))
                values.append(float(100 * dc.metrics.bit_accuracy(found.message[i : i + 1], logits)))
            return _with_interval(values, found.owner)

        return dict(self.cell(f"larger {size} {name}", measure))

    def cost(self) -> dict[str, float]:
        """Table 8: parameters in M, FLOPs of one clip in G (encoder and decoder, and with the paper's distortion layer), clips marked a second."""

        def measure() -> dict[str, float]:
            from torch.utils.flop_counter import FlopCounterMode

            net, clip = self.net, self.material.clips[:1]
            message = self.material.message[:1]
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                net.extract(net.embed(clip, message, self.alpha).clamp(0, 1))
            both = torch.cat([clip, clip])
            with torch.no_grad():
                net.embed(both, message.expand(2, -1), self.alpha)
                began = time.perf_counter()
                for _ in range(5):
                    net.embed(both, message.expand(2, -1), self.alpha)
            seconds = (time.perf_counter() - began) / 5
            return {
                "parameters_m": round(sum(p.numel() for p in net.parameters()) / 1e6, 4),
                "gflops": round(counter.get_total_flops() / 1e9, 3),
                "frames_per_second": round(2 * clip.shape[1] / seconds, 1),
            }

        return dict(self.cell("cost", measure))

    @torch.no_grad()
    def detected(self, path: str | Path, name: str) -> dict[str, float]:
        """Table 10: share of frames, half of them marked, that the detector judges rightly under an attack, in %."""

        def measure() -> dict[str, float]:
            detector, _ = weights.load_detector(path)
            marked, clips = self.marked(self.alpha), self.material.clips
            layer = attack(name)
            values = []
            for i in range(len(clips)):
                draw = layer.sample(clips[i : i + 1].shape, generator(0, f"detect {name}", i))  # type: ignore[operator]
                right = [(detector(layer(v[i : i + 1], draw)[0]) > 0) == wanted for v, wanted in ((clips, False), (marked, True))]
                values.append(100 * torch.cat(right).float().mean())
            return self._with_interval(torch.stack(values))

        digest = hashlib.sha256(weights.find(path).read_bytes()).hexdigest()[:12]
        return dict(self.cell(f"detector {digest} {name}", measure))


def _resize(video: Tensor, size: tuple[int, int]) -> Tensor:
    """Shape: ``[B, T, 3, H, W] -> [B, T, 3, *size]``, bilinear, antialiased on the way down."""
    return F.interpolate(video.flatten(0, 1), size, mode="bilinear", antialias=True).unflatten(0, video.shape[:2])


def evaluation(name: str | Path, folder: str | Path, out: Path, windows: int = 4, seed: int = 0, alexnet: str | None = None) -> Evaluation:
    """An :class:`Evaluation` of weights on a folder of videos."""
    net, config = weights.load(name)
    m = config.model
    found = material(folder, m.frames, (m.height, m.width), m.bits, windows, seed)
    digest = hashlib.sha256(weights.find(name).read_bytes()).hexdigest()[:12]
    clips = hashlib.sha256("".join(found.hashes).encode() + f"{windows} {seed}".encode()).hexdigest()[:12]
    out.mkdir(parents=True, exist_ok=True)
    return Evaluation(net, config, Path(name).stem, found, out / "cells.json", f"{digest}/{clips}", alexnet)


def evaluations(names: Sequence[str | Path], folder: str | Path, out: Path, *options: Any) -> list[Evaluation]:
    """An :func:`evaluation` of each weights, with one store of cells."""
    found = [evaluation(name, folder, out, *options) for name in names]
    for other in found[1:]:
        other.cells = found[0].cells
    return found


Row = dict[str, Any]


def tables(
    main: Evaluation, numbers: Iterable[int], folder: str | Path, variants: Sequence[Evaluation] = (), detector: str | Path | None = None
) -> dict[str, list[Row]]:
    """Rows of the paper's tables, the paper's figure beside ours.

    Args:
        main: the model.
        numbers: of the tables, 1 to 10; 4 to 7 compare it with ``variants``, by what their configurations say.
        folder: of the videos, for Table 9.
        variants: other models.
        detector: weights, for Table 10.
    """
    makers: dict[int, Callable[[], list[Row]]] = {
        1: lambda: [
            {"attack": label, "paper DVMark": dvmark, "paper": paper, "ours": main.accuracy(name)}
            for name, (label, paper, dvmark) in TABLE1.items()
        ],
        2: lambda: [
            {"model": "DVMark (paper)", "psnr": 37.0, "ssim": None, "lpips": 5.70},
            {"model": "REVMark (paper)", "psnr": 37.5, "ssim": None, "lpips": 2.96},
            {"model": main.name, **main.quality()},
        ],
        3: lambda: [_at_psnr(main, psnr, paper) for psnr, paper in TABLE3.items()],
        4: lambda: [_payload(v) for v in sorted([main, *variants], key=lambda v: v.config.model.bits)],
        5: lambda: [_with_tas(v) for v in [main, *variants]],
        6: lambda: [_compared(v, _trained_with(v), None, TABLE6.get(_trained_with(v)), (22, 27)) for v in [main, *variants]],
        7: lambda: [{"model": v.name, "mask loss": _mask(v), **v.quality()} for v in [main, *variants]],
        8: lambda: [
            {"model": "DVMark (paper)", "parameters_m": 22.45, "gflops": 2589, "steps": 3_000_000},
            {"model": "REVMark (paper; FLOPs with its distortion layer)", "parameters_m": 8.38, "gflops": 242, "steps": 60_000},
            {"model": main.name, **main.cost(), "steps": main.config.training.steps},
        ],
        9: lambda: [
            {
                "size": f"{w}x{h}", "paper noise": paper[0], "noise": main.larger(folder, (h, w), "noise"),
                "paper blur": paper[1], "blur": main.larger(folder, (h, w), "blur"),
            }
            for (h, w), paper in TABLE9.items()
        ],
        10: lambda: [
            {"attack": TABLE1[name][0], "paper": paper, "ours": main.detected(detector, name) if detector else None}
            for name, paper in TABLE10.items()
        ],
    }  # fmt: skip
    return {f"table {n}": makers[n]() for n in numbers}


def _at_psnr(main: Evaluation, psnr: float, paper: tuple[float, float]) -> Row:
    alpha = main.alpha_for(psnr)
    return {
        "psnr": psnr, "paper": paper[0], "ours": main.accuracy("libx264:22", alpha=alpha),
        "paper lpips": paper[1], "lpips": main.quality(alpha)["lpips"],
    }  # fmt: skip


def _payload(v: Evaluation) -> Row:
    bits = v.config.model.bits
    paper = TABLE4.get(bits, (None, None, None))
    return {"bits": bits, "model": v.name, "paper": paper[0], "ours": v.accuracy("libx264:22"), **v.quality()}


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
    return row


def _mask(v: Evaluation) -> float:
    return v.config.training.at("mask_weight", v.config.training.steps)


def _trained_with(v: Evaluation) -> str:
    return v.config.training.distortion[-1][1] if v.config.training.distortion else "none"


def curves(main: Evaluation, names: Iterable[str] = tuple(FIGURE5)) -> dict[str, list[Row]]:
    """Figure 5: accuracy over the strength of each attack, and over the CRF of four codecs."""
    return {name: [{"strength": s, **main.accuracy(name, s)} for s in FIGURE5[name][1]] for name in names}


def markdown(found: dict[str, list[Row]]) -> str:
    """Tables as GitHub markdown."""

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
    return "\n".join(out)


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
