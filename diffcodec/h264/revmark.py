"""The REVMark paper's model of H.264 (Zhang et al., ACM MM 2023, section 3.3, eqs. (3)-(10))."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import rounding as roundings
from ..blocks import crop, pad_to_multiple
from ..checks import check_frames, require
from ..color import rgb_to_ycbcr, ycbcr_to_rgb
from ..jpeg.tables import CHROMA, LUMA
from ..layer import Draw
from ..motion import BlockMotion, warp
from ..ops.jpeg.reference import code_plane
from ..rate import level_bits
from ..rounding import Rounding
from ..strength import uniform, whole
from .codec import DiffH264

Motion = Callable[[Tensor, Tensor], Tensor]


class REVMarkH264(DiffH264):
    """REVMark's DiffH264: one frame coded alone, every other one predicted from it by motion, residuals coded by 8x8 DCT and tables.

    The paper gives the equations; the constants are those of its public code. Its strength is fixed: there is no CRF. Unlike in the public
    code, residuals keep their full range (there: clamped to half of it) and zero flow is the identity (there: grid conventions are mixed).

    Args:
        crf, preset, fps, gop: must be None: the paper's simulator has no such settings.
        model: "revmark".
        reference: index of the frame coded alone (negative: from the end), or None to draw one per sample ("randomly selected").
        motion: ``(current, reference) -> flow``; None for :class:`~diffcodec.motion.BlockMotion`. Pass an
            :class:`~diffcodec.motion.SPyNet` for the paper's.
        flow_from: "reconstructed" (the public code) or "original" (eq. (7)): the reference frame used for motion estimation.
        flow_gradient: whether the gradient flows through the motion estimator, as in the public code. Default False: in a real codec motion is a
            decision.
        rounding: "cubic" (the public code), "paper" (eq. (1) taken literally) or any other name in :data:`diffcodec.rounding.ROUNDINGS`.
        intra_scale, inter_scale: factor on the JPEG luma table for the reference and for residuals.
        chroma_scale: further factor for chroma.

    Shape:
        ``[B, T, 3, H, W]``, any T, H, W >= 1.

    Raises:
        TypeError: an argument that the paper's simulator does not have, or of another type.
        ValueError: unknown names, a scale that is not above 0; in a call, a reference outside the clip.
    """

    model = "revmark"
    lacks = ("vmap",)

    def __init__(
        self,
        crf: None = None,
        preset: None = None,
        fps: None = None,
        gop: None = None,
        model: str = "revmark",
        *,
        reference: int | None = None,
        motion: Motion | None = None,
        flow_from: str = "reconstructed",
        flow_gradient: bool = False,
        rounding: str | Rounding = "cubic",
        intra_scale: float = 1.5,
        inter_scale: float = 5.0,
        chroma_scale: float = 0.5,
    ) -> None:
        super().__init__()
        require("model", model, [self.model])
        if crf is not None:
            raise TypeError(
                f"DiffH264(model='revmark') got crf={crf!r}, but the paper's simulator knows no CRF: its strength is"
                " fixed by intra_scale and inter_scale"
            )
        for name, value in (("preset", preset), ("fps", fps), ("gop", gop)):
            if value is not None:
                raise TypeError(f"DiffH264(model='revmark') has no option {name}={value!r}: the paper's simulator has one way to code")
        if reference is not None and (isinstance(reference, bool) or not isinstance(reference, int)):
            raise TypeError(f"reference expected a frame index or None, got {reference!r}")
        require("flow_from", flow_from, ["reconstructed", "original"])
        for name, value in (("intra_scale", intra_scale), ("inter_scale", inter_scale), ("chroma_scale", chroma_scale)):
            if not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                raise ValueError(f"{name} expected a number above 0, got {value!r}")
        if motion is not None and not callable(motion):
            raise TypeError(f"motion expected a function (current, reference) -> flow or None, got {motion!r}")
        self.reference = reference
        self.motion = BlockMotion() if motion is None else motion
        self.flow_from, self.flow_gradient = flow_from, flow_gradient
        self.rounding = roundings.get(rounding)
        self.intra_scale, self.inter_scale, self.chroma_scale = intra_scale, inter_scale, chroma_scale

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None, step: int | None, device: torch.device | None) -> Draw:
        b, t = shape[:2]
        if self.reference is None:
            index = whole(t, (b,), generator, device)
        else:
            if not -t <= self.reference < t:
                raise ValueError(f"reference {self.reference} is outside a clip of {t} frames")
            index = torch.full((b,), self.reference % t, dtype=torch.int64, device="cpu")
        draw = {"reference": index if device is None else index.to(device)}
        if self.rounding is roundings.noise:
            draw["noise"] = uniform(self.draw_shapes(shape)["noise"], generator, device)
        return draw

    def draw_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"reference": shape[:1]}
        if self.rounding is roundings.noise:
            shapes["noise"] = (*shape[:2], 3, -(-shape[-2] // 8), -(-shape[-1] // 8), 8, 8)
        return shapes

    def check_draw(self, draw: Mapping[str, Any], shape: Sequence[int]) -> None:
        super().check_draw(draw, shape)
        check_frames(self.who, draw["reference"], shape[1])

    def frame_types(self, shape: tuple[int, ...], draw: Mapping[str, Any]) -> list[str]:
        return ["".join("I" if i == r else "P" for i in range(shape[1])) for r in draw["reference"].tolist()]

    def simulate(self, video: Tensor, draw: Mapping[str, Any], rate: bool) -> tuple[Tensor, Tensor | None]:
        _b, t, _, h, w = video.shape
        reference_index = draw["reference"][:, None]  # [B, 1]
        order = torch.arange(t - 1, device=video.device)[None]
        others = order + (order >= reference_index)  # [B, T-1]
        noise = draw.get("noise")

        ycc = pad_to_multiple(rgb_to_ycbcr(video), 8)  # [B, T, 3, H8, W8]
        reference = _frames(ycc, reference_index)  # [B, 1, 3, H8, W8]
        coded, levels = self._code(reference - 128, self.intra_scale, None if noise is None else _frames(noise, reference_index))
        coded = coded + 128
        if t == 1:
            return ycbcr_to_rgb(crop(coded, h, w)), _bits(levels) if rate else None

        current = _frames(ycc, others)  # [B, T-1, 3, H8, W8]
        predicted = self._predict(current, coded, reference)
        residual, more = self._code(current - predicted, self.inter_scale, None if noise is None else _frames(noise, others))
        frames = torch.cat([coded, predicted + residual], 1)  # reference first
        # frame i stands at position 0 (i is the reference), i + 1 (before it) or i (after it)
        i = torch.arange(t, device=video.device)[None]
        position = torch.where(i == reference_index, 0, i + (i < reference_index))  # [B, T]
        bits = _frames(torch.cat([_bits(levels), _bits(more)], 1), position) if rate else None
        return ycbcr_to_rgb(crop(_frames(frames, position), h, w)), bits

    def _predict(self, current: Tensor, coded: Tensor, original: Tensor) -> Tensor:
        """Motion-compensated prediction of all frames at once, eqs. (7) and (8). Shape: ``[B, T-1, 3, H, W]``."""
        n = current.shape[1]
        source = coded if self.flow_from == "reconstructed" else original
        if not self.flow_gradient:
            current, source = current.detach(), source.detach()
        with torch.set_grad_enabled(self.flow_gradient and torch.is_grad_enabled()):
            rgb = ycbcr_to_rgb(source).expand(-1, n, -1, -1, -1).flatten(0, 1)  # [B*(T-1), 3, H, W]
            flow = self.motion(ycbcr_to_rgb(current).flatten(0, 1), rgb)
        expanded = coded.expand(-1, n, -1, -1, -1).flatten(0, 1)
        return warp(expanded, flow if self.flow_gradient else flow.detach()).unflatten(0, (-1, n))

    def _code(self, planes: Tensor, scale: float, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Transform coding of frames around 0, eqs. (3)-(5) and (9). Shape: ``[B, F, 3, H, W]`` -> same, and its levels."""
        tables = torch.stack([LUMA.like(planes)] + [CHROMA.like(planes) * self.chroma_scale] * 2) * scale
        table = tables[:, None, None].expand(planes.shape[0] * planes.shape[1], 3, 1, 1, 8, 8).flatten(0, 1)
        out, levels = code_plane(planes.flatten(0, 2), table, self.rounding, noise)
        return out.view(planes.shape), levels.unflatten(0, planes.shape[:3])

    def extra_repr(self) -> str:
        return (
            f"model='revmark', reference={self.reference}, flow_from={self.flow_from!r}, flow_gradient={self.flow_gradient},"
            f" intra_scale={self.intra_scale}, inter_scale={self.inter_scale}, chroma_scale={self.chroma_scale}"
        )


def _frames(video: Tensor, index: Tensor) -> Tensor:
    """Frames of each sample by index. Shape: ``[B, T, ...], [B, F] -> [B, F, ...]``."""
    return video[torch.arange(video.shape[0], device=video.device)[:, None], index]


def _bits(levels: Tensor) -> Tensor:
    """Shape: ``[B, F, ...] -> [B, F]``."""
    return level_bits(levels.flatten(0, 1)).unflatten(0, levels.shape[:2])
