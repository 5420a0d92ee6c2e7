"""Measurements of a model: clips, attacks on them, and table cells that are stored with their confidence intervals."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import diffcodec as dc
from diffcodec.attacks.compose import revmark_attack
from diffcodec.files import replacing, sha256, video_files
from diffcodec.video import VideoError, read_video, video_info

from . import weights
from .config import Config
from .keys import generator, messages
from .model import REVMark
from .waves import WaveDecoder, WaveDetector, luma


def attack(name: str, strength: float | None = None) -> torch.nn.Module:
    """An attack of the tables by name.

    Args:
        name: "blur"; "libx264:22", a codec and its CRF; "resize:0.5", down to half the size and back; a sequence of attacks is joined by "+".
        strength: replaces the default strength of a single attack.

    Raises:
        ValueError: unknown attack, or a codec without CRF.
    """
    if "+" in name:
        return dc.Compose([attack(n) for n in name.split("+")])
    kind, _, number = name.partition(":")
    given = strength if strength is not None else float(number) if number else None
    if kind in dc.real.ENCODERS:
        if given is None:
            raise ValueError(f"{name} expected a CRF, as in {name}:22")
        return dc.RealCodec(kind, crf=given, gradient=None)
    if kind == "resize":
        return dc.Resize(0.5 if given is None else given)
    return revmark_attack(kind, given)


@dataclasses.dataclass
class Material:
    """The clips and messages that everything is measured on.

    Attributes:
        clips: ``[N, T, 3, H, W]`` in [0, 1], windows of the videos at their own resolution (upscaled where a video is smaller).
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
    """``windows`` clips of every video of a folder: positions and times drawn from (seed, video, window), except for the first, a centre crop.

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
                    int(torch.randint(n, (1,), generator=g, device="cpu"))
                    for n in (info.frames - frames + 1, big[0] - size[0] + 1, big[1] - size[1] + 1)
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
        hashes.append(sha256(path))
    if not clips:
        raise VideoError(f"{folder}: no video of at least {frames} frames")
    # keyed by the video's hash, not by its index: adding videos to a folder does not change the messages of the others
    sent = torch.cat([messages(seed, [int(hashes[o][:12], 16) + i % windows], bits) for i, o in enumerate(owner)])
    return Material(torch.stack(clips), sent, owner, names, hashes)


def interval(values: Sequence[float], owner: Sequence[int], seed: int = 0, rounds: int = 2000) -> tuple[float, float, float]:
    """Mean and 95 % confidence interval by bootstrap over videos, since windows of one video are not independent."""
    values_, owner_ = np.asarray(values, float), np.asarray(owner)
    groups = [values_[owner_ == o] for o in np.unique(owner_)]
    sums, sizes = np.array([g.sum() for g in groups]), np.array([len(g) for g in groups])
    pick = np.random.default_rng(seed).integers(0, len(groups), (rounds, len(groups)))
    means = sums[pick].sum(1) / sizes[pick].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(values_.mean()), float(low), float(high)


def with_interval(values: Sequence[float], owner: Sequence[int]) -> dict[str, float]:
    """:func:`interval` in the form that cells are stored in."""
    mean, low, high = interval(values, owner)
    return {"value": round(mean, 3), "low": round(low, 3), "high": round(high, 3), "n": len(values)}


class Evaluation:
    """Measures the cells of tables and stores them.

    Args:
        net, config: the model.
        name: its label in tables.
        clips: material of its size.
        store: JSON file of finished cells; created if missing.
        key: what the cells depend on besides their own name (hashes of weights and material).
        alexnet: features for LPIPS; None looks where :class:`~revmark_ref.lpips.LPIPS` does.
        descent: steps of :func:`~revmark_ref.refine.refine`, for models with the mapping "waves".
        steps: that the model was trained for; None for those of its configuration.
    """

    def __init__(
        self,
        net: REVMark,
        config: Config,
        name: str,
        clips: Material,
        store: Path,
        key: str,
        alexnet: str | None = None,
        descent: int = 0,
        steps: int | None = None,
    ) -> None:
        self.steps = config.training.steps if steps is None else steps
        self.net, self.config, self.name, self.material, self.store = net, config, name, clips, store
        self.key = f"{key}/descent {descent}" if descent else key
        self.alexnet, self.descent = alexnet, descent
        self.cells: dict[str, Any] = json.loads(store.read_text()) if store.is_file() else {}
        self._marked: dict[float, Tensor] = {}
        self.alpha = config.training.at("alpha", config.training.steps)  # the final one of the training; may be set

    @functools.cached_property
    def lpips(self) -> torch.nn.Module | None:
        """LPIPS, loaded once; None if AlexNet's features are missing."""
        from .lpips import LPIPS

        try:
            return LPIPS(self.alexnet)
        except FileNotFoundError as error:
            print(f"LPIPS is left out: {error}", flush=True)
            return None

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
        """The marked clips, rounded to 8-bit values."""
        if alpha not in self._marked:
            m = self.material
            parts = [c + self._residual(c, b, alpha) for c, b in zip(m.clips.split(8), m.message.split(8))]
            self._marked = {alpha: (torch.cat(parts).clamp(0, 1) * 255).round() / 255}
        return self._marked[alpha]

    def _residual(self, clips: Tensor, message: Tensor, alpha: float) -> Tensor:
        if not self.descent:
            return self.net.residual(clips, message, alpha)
        from .refine import refine

        with torch.enable_grad():
            return refine(self.net, clips, message, alpha, self.descent, perceptual=self.lpips)

    def described(self, alpha: float | None = None) -> str:
        """What is measured: "32 bits, 8 x 64 x 64, 36.7 dB, 700 steps"."""
        alpha = self.alpha if alpha is None else alpha

        def measure() -> float:
            return float(dc.metrics.psnr(self.marked(alpha), self.material.clips).mean())

        return description(dataclasses.asdict(self.config.model), self.cell(f"psnr alpha {alpha:.4g}", measure), self.steps)

    def alpha_for(self, psnr: float) -> float:
        """The strength that gives a mean PSNR in dB; the residual's power is proportional to its square."""

        def find() -> float:
            alpha, descent = self.alpha, self.descent
            self.descent = 0  # descent does not change the strength
            for _ in range(3):
                alpha *= 10 ** ((float(dc.metrics.psnr(self.marked(alpha), self.material.clips).mean()) - psnr) / 20)
            self.descent, self._marked = descent, {}
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
        return with_interval(values.tolist(), self.material.owner)

    @torch.no_grad()
    def quality(self, alpha: float | None = None) -> dict[str, Any]:
        """Quality of the marked clips.

        Returns:
            The columns of :data:`QUALITY`; "lpips" is None without AlexNet's features, "flat" without a clip that has flat places.
        """
        alpha = self.alpha if alpha is None else alpha

        def measure() -> dict[str, Any]:
            marked, clips = self.marked(alpha), self.material.clips
            out: dict[str, Any] = {
                "psnr": self._with_interval(dc.metrics.psnr(marked, clips)),
                "ssim": self._with_interval(dc.metrics.ssim(marked, clips)),
            }
            out["flat"] = _flat(marked, clips, self.material.owner)
            change = (marked - clips).diff(dim=1).square().mean((2, 3, 4)).sqrt()
            out["flicker"] = self._with_interval(change.amax(1) / change.mean(1).clamp(min=1e-9))
            return out

        return dict(self.cell(f"quality alpha {alpha:.4g}", measure)) | {"lpips": self._distance(alpha)}

    def _distance(self, alpha: float) -> dict[str, float] | None:
        """LPIPS times 100; None, which is not stored, without AlexNet's features."""
        lpips = self.lpips
        if lpips is None:
            return None

        def measure() -> dict[str, float]:
            parts = [lpips(a, b) for a, b in zip(self.marked(alpha).split(8), self.material.clips.split(8))]
            return self._with_interval(100 * torch.cat(parts))

        return dict(self.cell(f"LPIPS alpha {alpha:.4g}", measure))

    @torch.no_grad()
    def larger(self, folder: str | Path, size: tuple[int, int], name: str) -> dict[str, float]:
        """Table 9: clips of a larger size, marked via the model's size (appendix A.1), attacked at their own size, read at the model's."""

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
            return with_interval(values, found.owner)

        return dict(self.cell(f"larger {size} {name} alpha {self.alpha:.4g}", measure))

    def cost(self) -> dict[str, float]:
        """Table 8: millions of parameters, GFLOPs per clip (encoder and decoder), frames marked per second."""

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
    def detected(self, path: str | Path | None, name: str) -> dict[str, float] | None:
        """Table 10: share of frames, half of them marked, that a detector classifies correctly under an attack, in %.

        Args:
            path: weights of a detector. A model with the mapping "waves" has its own.
            name: of the attack.

        Returns:
            As :meth:`accuracy`; None without a detector.
        """
        if isinstance(self.net.decoder, WaveDecoder):
            detector: torch.nn.Module = WaveDetector(self.net.decoder)
            digest = "waves"
        elif path is not None:
            detector = weights.load_detector(path)[0]
            digest = sha256(weights.find(path))[:12]
        else:
            return None

        def measure() -> dict[str, float]:
            marked, clips = self.marked(self.alpha), self.material.clips
            layer = attack(name)
            values = []
            for i in range(len(clips)):
                draw = layer.sample(clips[i : i + 1].shape, generator(0, f"detect {name}", i))  # type: ignore[operator]
                right = [(detector(layer(v[i : i + 1], draw)[0]) > 0) == wanted for v, wanted in ((clips, False), (marked, True))]
                values.append(100 * torch.cat(right).float().mean())
            return self._with_interval(torch.stack(values))

        return dict(self.cell(f"detector {digest} {name} alpha {self.alpha:.4g}", measure))


FLAT = 1.0  # levels
BLOCK = 16
QUALITY = {
    "psnr": "PSNR of the marked clips in dB, mean over the clips",
    "ssim": "SSIM of the marked clips, mean over the clips",
    "lpips": "LPIPS of the marked clips, times 100",
    "flat": (
        f"visibility in flat places: standard deviation of the residual in 8-bit levels, over the {BLOCK} x {BLOCK} blocks of luma whose own"
        f" standard deviation is below {FLAT:g} level; mean over the clips that have such blocks"
    ),
    "flicker": (
        "unsteadiness of the residual: its largest change from one frame to the next over its mean change (root mean square each), mean over the"
        " clips; 1 if it always changes equally"
    ),
}


def description(model: Mapping[str, Any], psnr: float | None = None, steps: int | None = None) -> str:
    """A model, its strength and its training in words; ``model`` has the fields of :class:`~revmark_ref.config.Model`."""
    out = [f"{model['bits']} bits", f"{model['frames']} x {model['height']} x {model['width']}"]
    out += [] if psnr is None else [f"{psnr:.1f} dB"]
    return ", ".join(out + ([] if steps is None else [f"{steps} steps"]))


def _flat(marked: Tensor, clips: Tensor, owner: Sequence[int]) -> dict[str, float] | None:
    residual, y = (_blocks(luma(v)) for v in (marked - clips, clips))
    where = y.std(-1) < FLAT
    found = [(float(r[w].std(-1).square().mean().sqrt()), o) for r, w, o in zip(residual, where, owner) if w.any()]
    return with_interval(*zip(*found)) if found else None


def _blocks(y: Tensor) -> Tensor:
    """Shape: ``[B, T, H, W] -> [B, T, H / 16, W / 16, 256]``."""
    return y.unflatten(3, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).transpose(3, 4).flatten(4)


def _resize(video: Tensor, size: tuple[int, int]) -> Tensor:
    """Shape: ``[B, T, 3, H, W] -> [B, T, 3, *size]``, bilinear, antialiased on the way down."""
    return F.interpolate(video.flatten(0, 1), size, mode="bilinear", antialias=True).unflatten(0, video.shape[:2])
