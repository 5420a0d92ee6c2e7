"""libx264, simulated: its frame types, quantisers, decisions and arithmetic, batched, with a gradient.

Frames of all clips of the batch run through the standard's block diagram step by step of the coding order: prediction, residual, deblocking. What an
encoder decides (types, vectors, modes, quantisers' rounding, which levels to keep) is decided on values and constant to the gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from ..blocks import pad_to, pad_to_multiple
from ..checks import half_up, replace_value, require
from ..color import rgb_to_yuv420, yuv420_to_rgb
from ..constants import Constant
from ..layer import Codec, Draw
from ..strength import Strength, StrengthLike, uniform
from . import bits as rates
from . import deblock as loop
from . import inter, intra, rate_control, residual
from .gop import Gop, middle, pattern
from .guide import Guide
from .residual import Preference, Zone

MARGIN = inter.MARGIN
_MODE_BITS = Constant([4.0, 14.0, 40.0])  # of the modes of an intra 16x16, 8x8, 4x4 macroblock


@dataclass(frozen=True)
class Preset:
    """The habits of a preset that change the picture (x264's ``--preset``).

    Attributes:
        bframes: most B frames in a row; references: past anchors of a P frame.
        adaptive, tree: adaptive quantisation, macroblock tree.
        subpel: finest vectors, as a fraction of a pixel.
        satd: whether costs are SATD rather than SAD.
        partitions: whether inter macroblocks are divided; small_intra: intra 8x8 and 4x4.
        transform8: the 8x8 transform. deblock: the loop filter. chroma_offset: of the chroma QP.
    """

    bframes: int = 3
    references: int = 3
    adaptive: bool = True
    tree: bool = True
    subpel: int = 4
    satd: bool = True
    partitions: bool = True
    small_intra: bool = True
    transform8: bool = True
    deblock: bool = True
    chroma_offset: int = -2


PRESETS = {
    "ultrafast": Preset(0, 1, False, False, 1, False, False, False, False, False, 0),
    "superfast": Preset(3, 1, True, False, 4, False, False, True, True, True, 0),
    "veryfast": Preset(3, 1, chroma_offset=0),
    "faster": Preset(3, 2, chroma_offset=0),
    "fast": Preset(3, 2),
    "medium": Preset(3, 3),
    "slow": Preset(3, 5),
    "slower": Preset(3, 8),
}


@dataclass(frozen=True)
class Constants:
    """What is fitted to the real encoder, per preset family: see ``benchmarks/calibrate.py``.

    Attributes:
        prefer: dead zones.
        intra_bias: factor on the intra cost in P frames.
        qp: added to every QP.
        rate: what features weigh in bits.
    """

    prefer: Preference = field(default_factory=Preference)
    intra_bias: float = 1.1
    qp: float = 0.0
    rate: rates.Weights = field(default_factory=rates.Weights)


# With trellis, as benchmarks/calibrate.py fitted them to preset medium on training clips
TRELLIS = Preference(
    intra4=Zone(0.649, 0.57, tilt=-0.121), intra8=Zone(0.588, 0.897, 0.08, 0.15), inter4=Zone(0.497, 0.8, tilt=0.15),
    inter8=Zone(0.75, 1.05, 0.08, 0.15), chroma_intra=Zone(0.65, 0.65), chroma_inter=Zone(0.65, 0.75), trellis=True,
)  # fmt: skip


def constants_of(preset: str) -> Constants:
    """Constants of a preset's family."""
    return Constants() if preset in ("ultrafast", "superfast", "veryfast") else Constants(prefer=TRELLIS)


class X264H264(Codec):
    """The x264 model of :class:`~diffcodec.DiffH264`.

    The coding order is a loop over data, which ``torch.compile(fullgraph=True)`` does not take: leave this layer out of what is
    compiled. Arithmetic is float32, also for float64 input.
    """

    def __init__(
        self,
        crf: StrengthLike = 23,
        preset: str = "medium",
        fps: float | Fraction = 25,
        gop: str | Gop = "start",
        constants: Constants | None = None,
    ) -> None:
        super().__init__()
        self.crf = Strength(crf, "crf", 0, 51)
        require("preset", preset, list(PRESETS))
        if isinstance(fps, bool) or not isinstance(fps, (int, float, Fraction)) or not 0.1 <= fps <= 1000:
            raise ValueError(f"fps expected to lie in [0.1, 1000], got {fps!r}")
        if not isinstance(gop, Gop):
            require("gop", gop, ["start", "middle", "random"])
        self.preset, self.fps, self.gop = preset, float(fps), gop
        self.habits = PRESETS[preset]
        self.constants = constants or constants_of(preset)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None, step: int | None, device: torch.device | None) -> Draw:
        draw = super().draw(shape, generator, step, device)
        n = self.habits.bframes
        where = uniform((shape[0], 2), generator, None).tolist()  # whether in the middle, and at which phase
        draw["gop"] = [self._gop(shape[1], u, min(int(v * (n + 1)), n)) for u, v in where]
        return draw

    def _gop(self, frames: int, chance: float, phase: int) -> Gop:
        if isinstance(self.gop, Gop):
            if len(self.gop) != frames:
                raise ValueError(f"{self.gop} is for {len(self.gop)} frames, the clip has {frames}")
            return self.gop
        if self.gop == "middle" or (self.gop == "random" and chance < 0.5):
            return Gop(*middle(frames, self.habits.bframes, phase), references=self.habits.references)
        return Gop(pattern(frames, self.habits.bframes), references=self.habits.references)

    def check_draw(self, draw: Mapping[str, Any], shape: Sequence[int]) -> None:
        super().check_draw({k: v for k, v in draw.items() if isinstance(v, Tensor)}, shape)
        for name in ("gop", "guide"):
            if name in draw and len(draw[name]) != shape[0]:
                raise ValueError(f"X264H264 got {name}s for {len(draw[name])} samples; the batch has {shape[0]}")
        if "guide" not in draw:
            if "gop" not in draw:
                raise ValueError(f"X264H264 got a draw without 'gop': sample(video.shape) makes one; it holds {sorted(draw)}")
            for gop in draw["gop"]:
                if len(gop) != shape[1]:
                    raise ValueError(f"X264H264 got a draw whose GOP is for {len(gop)} frames; the clips have {shape[1]}")

    def frame_types(self, shape: tuple[int, ...], draw: Mapping[str, Any]) -> list[str]:
        if "guide" in draw:
            return [g.types.upper() for g in draw["guide"]]
        return [g.letters.upper() for g in draw["gop"]]

    def simulate(self, video: Tensor, draw: Mapping[str, Any], rate: bool) -> tuple[Tensor, Tensor | None]:
        out, counted = self.coded(video, draw)
        return out, rates.count(counted, self.constants.rate) if rate else None

    def coded(self, video: Tensor, draw: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Decoded video, and what the bits of each frame are counted from, ``[B, T, 6]``: see :mod:`diffcodec.h264.bits`."""
        dtype, video = video.dtype, video.float()  # whole numbers inside: more precision would only let ties fall elsewhere
        b, t, _, h, w = video.shape
        guides: list[Guide] | None = draw.get("guide")
        gops: list[Gop] = draw["gop"] if guides is None else [Gop(g.types, references=max(1, self.habits.references)) for g in guides]
        frames = _Frames.of(gops, t)
        even = pad_to_multiple(video.flatten(0, 1)[frames.source.to(video.device)], 2)  # [F, 3, H2, W2]
        luma, chroma = rgb_to_yuv420(even)
        hb, wb = -(-h // 16) * 16, -(-w // 16) * 16
        luma, chroma = pad_to(luma, hb, wb), pad_to(chroma, hb // 2, wb // 2)
        decided = None
        if guides is None:
            with torch.no_grad():
                search = _Search.of(luma.detach(), frames)
            qp = self._qp(draw["crf"].to(video), luma.detach(), chroma.detach(), frames, search)  # [F, bh, bw]
        else:
            search = None
            qp = torch.cat([g.qp for g in guides]).to(luma)
            crf = draw["crf"].to(video).repeat_interleave(t)[:, None, None]
            qp = qp + (crf - crf.detach())  # the quantiser follows the CRF
            decided = _Decided(torch.cat([g.vectors for g in guides]).to(luma.device), torch.cat([g.used for g in guides]).to(luma.device))
        coder = _Coder(self.habits, self.constants, luma, chroma, qp, frames, search, decided)
        y, c, counted = coder.run()
        out = yuv420_to_rgb(y, c)[..., :h, :w].reshape(b, t, 3, h, w).to(dtype)
        return out, counted.view(b, t, -1)

    def _qp(self, crf: Tensor, luma: Tensor, chroma: Tensor, frames: _Frames, search: _Search) -> Tensor:
        """Whole QPs, gradient of the real-valued ones. Shape: ``[B] -> [F, H/16, W/16]``."""
        with torch.no_grad():
            adaptive = rate_control.adaptive_offset(luma, chroma) if self.habits.adaptive else None
            offset = torch.zeros(len(luma), luma.shape[1] // 16, luma.shape[2] // 16).to(luma)
            seen = rate_control.look(luma, search.pairs, search.large, search.of_frame, quick=not self.habits.satd)
            if adaptive is not None:
                offset = adaptive
                if self.habits.tree:
                    offset = offset + rate_control.tree_offset(seen, adaptive, frames.steps, frames.types, frames.display)
        of_clip = torch.tensor(frames.clip, device=luma.device)
        if self.habits.tree:
            base = rate_control.with_tree(crf, self.fps)[of_clip]
        else:
            parts = []
            for i, (first, last) in enumerate(frames.spans):
                types = "".join(frames.types[first:last])
                a = None if adaptive is None else adaptive[first:last]
                parts += rate_control.without_tree(crf[i], self.fps, seen.inter[first:last], types, a, frames.display[first] < 0)
            base = torch.stack(parts)
        real = base[:, None, None] + offset + self.constants.qp
        return replace_value(real, (real.detach() + 0.5).floor().clamp(0, 51))


@dataclass(frozen=True)
class _Frames:
    """All frames to be coded, of all clips one after the other.

    Attributes:
        source: which frame of the flattened video each is.
        clip, display, types: of each frame.
        past, future: references of each.
        steps: coding order.
        shown: places of the frames that are returned.
        spans: first and last + 1 of each clip.
    """

    source: Tensor
    clip: list[int]
    display: list[int]
    types: list[str]
    past: list[tuple[int, ...]]
    future: list[tuple[int, ...]]
    steps: list[list[int]]
    shown: list[int]
    spans: list[tuple[int, int]]

    @staticmethod
    def of(gops: Sequence[Gop], t: int) -> _Frames:
        source: list[int] = []
        clip: list[int] = []
        display: list[int] = []
        types: list[str] = []
        past: list[tuple[int, ...]] = []
        future: list[tuple[int, ...]] = []
        shown: list[int] = []
        spans: list[tuple[int, int]] = []
        steps: list[list[int]] = []
        for b, gop in enumerate(gops):
            base = len(source)
            for i, letter in enumerate(gop.types):
                at = i - gop.before
                source.append(b * t + _reflected(at, t))
                clip.append(b)
                display.append(at)
                types.append(letter)
                past.append(tuple(base + j for j in gop.past(i)))
                future.append(tuple(base + j for j in gop.future(i)))
                if 0 <= at < t:
                    shown.append(base + i)
            for s, now in enumerate(gop.steps()):
                if s == len(steps):
                    steps.append([])
                steps[s] += [base + i for i in now]
            spans.append((base, len(source)))
        return _Frames(torch.tensor(source), clip, display, types, past, future, steps, shown, spans)


def _reflected(i: int, t: int) -> int:
    """Time runs backwards beyond the ends of a clip."""
    if t == 1:
        return 0
    i %= 2 * (t - 1)
    return i if i < t else 2 * (t - 1) - i


@dataclass(frozen=True)
class _Search:
    """Coarse vectors between source frames.

    Attributes:
        pairs: (frame, reference).
        of_frame: pairs of each frame: past ones, then future ones.
        small, large, larger: quarter-pel vectors of 8x8 blocks ``[pairs, H/8, W/8, 2]``: own, and those of 16x16 and 32x32 around; ``large`` per
            macroblock ``[pairs, H/16, W/16, 2]``.
    """

    pairs: list[tuple[int, int]]
    of_frame: list[list[int]]
    small: Tensor
    large: Tensor
    larger: Tensor

    @staticmethod
    def of(luma: Tensor, frames: _Frames, reach: int = 16) -> _Search:
        pairs: list[tuple[int, int]] = []
        of_frame: list[list[int]] = []
        for i in range(len(frames.types)):
            mine = []
            for r in (*frames.past[i][:1], *frames.future[i][:1]):
                mine.append(len(pairs))
                pairs.append((i, r))
            of_frame.append(mine)
        if not pairs:
            empty = torch.zeros(0, luma.shape[1] // 8, luma.shape[2] // 8, 2, dtype=torch.long)
            return _Search(pairs, of_frame, empty, empty[:, ::2, ::2], empty[:, ::2, ::2])
        both = torch.tensor(pairs, device=luma.device)  # [pairs, 2]
        small, large, larger = inter.coarse(luma[both[:, 0]], luma[both[:, 1]], reach)
        return _Search(pairs, of_frame, small, large[:, ::2, ::2], larger[:, ::2, ::2])


@dataclass(frozen=True)
class _Decided:
    """Inter prediction as a guide has it, for all frames: see :class:`~diffcodec.h264.Guide`."""

    vectors: Tensor  # [F, 2, H/8, W/8, 2]
    used: Tensor  # [F, 2, H/8, W/8]


class _Coder:
    """Codes the frames of a batch in coding order."""

    def __init__(
        self,
        habits: Preset,
        constants: Constants,
        luma: Tensor,
        chroma: Tensor,
        qp: Tensor,
        frames: _Frames,
        search: _Search | None,
        decided: _Decided | None,
    ) -> None:
        self.decided = decided
        self.habits, self.constants, self.frames, self.search = habits, constants, frames, search
        self.luma, self.chroma, self.qp = luma, chroma, qp
        self.qpc = residual.chroma_qp(qp, habits.chroma_offset)
        self.lam = torch.exp2((qp.detach() - 12) / 6).clamp(min=1)
        n = len(luma)
        self.done_luma: list[Any] = [None] * n
        self.done_chroma: list[Any] = [None] * n
        self.phases: dict[int, Tensor] = {}
        self.wide_chroma: dict[int, Tensor] = {}
        self.counted: list[Any] = [None] * n  # features of the rate

    def run(self) -> tuple[Tensor, Tensor, Tensor]:
        """The clips' decoded frames, luma ``[S, H, W]`` and chroma ``[S, 2, H/2, W/2]``, and what bits are counted from, ``[S, 6]``."""
        for step in self.frames.steps:
            for kind in ("I", "P", "Bb"):
                now = [i for i in step if self.frames.types[i] in kind]
                if now:
                    self._code(now)
        shown = self.frames.shown
        return tuple(torch.stack([done[i] for i in shown]) for done in (self.done_luma, self.done_chroma, self.counted))  # type: ignore[return-value]

    def _code(self, now: list[int]) -> None:
        index = torch.tensor(now, device=self.luma.device)
        source, chroma = self.luma[index], self.chroma[index]
        qp, qpc, lam = self.qp[index], self.qpc[index], self.lam[index]
        if self.frames.types[now[0]] == "I":
            y, c, bs, counted = self._intra_frames(source, chroma, qp, qpc, lam)
        else:
            y, c, bs, counted = self._inter_frames(now, source, chroma, qp, qpc, lam)
        y, c = _clamped(y), _clamped(c)
        if self.habits.deblock:
            y, c = loop.deblock(y, c, bs, qp.detach(), qpc.detach())
        for i, a, d, f in zip(now, y, c, counted):
            self.done_luma[i], self.done_chroma[i], self.counted[i] = a, d, f

    # Intra

    def _choose_intra(self, source: Tensor, around: Tensor, lam: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Modes by SATD + lambda bits from given neighbours.

        Returns:
            Kind of each macroblock (0: 16x16, 1: 8x8, 2: 4x4) ``[N, bh, bw]``, its cost, modes of 16x16, 8x8, 4x4 blocks (plane raster order).
        """
        n, h, w = source.shape
        bh, bw = h // 16, w // 16
        p, usable = intra.predict_large(around)
        cost = intra.satd(inter.blocks(source, 16).flatten(1, 2)[:, :, None] - p, 16).masked_fill(~usable, float("inf"))
        cost16, mode16 = cost.min(-1)
        costs = [cost16.view(n, bh, bw) + 3 * lam]
        modes = [mode16]
        if self.habits.small_intra:
            for k, extra in ((8, 4.0), (4, 40.0)):
                q, allowed = intra.predict_small(around, k)
                assert allowed is not None
                m = 16 // k
                cost = intra.satd(inter.blocks(source, k).flatten(1, 2)[:, :, None] - q, k).masked_fill(~allowed, float("inf"))
                wide = lam.repeat_interleave(m, 1).repeat_interleave(m, 2).flatten(1)
                best, mode = (cost + 2.5 * wide[..., None]).min(-1)
                costs.append(best.view(n, bh, m, bw, m).sum((2, 4)) + extra * lam)
                modes.append(mode)
        else:
            modes += [torch.zeros(0), torch.zeros(0)]
        total, kind = torch.stack(costs).min(0)
        return kind, total, modes[0], modes[1], modes[2]

    def _predict_intra(self, around: Tensor, kind: Tensor, modes: Sequence[Tensor]) -> Tensor:
        _n, h, w = around.shape
        p, _ = intra.predict_large(around)
        chosen = p.gather(2, modes[0][..., None, None].expand(-1, -1, 1, 256))[:, :, 0]
        out = inter.unblocks(chosen.unflatten(1, (h // 16, w // 16)), 16)
        if self.habits.small_intra:
            wide = kind.repeat_interleave(16, 1).repeat_interleave(16, 2)
            for which, k in ((1, 8), (2, 4)):
                q, _ = intra.predict_small(around, k, modes[which])
                out = torch.where(wide == which, inter.unblocks(q.unflatten(1, (h // k, w // k)), k), out)
        return out

    def _predict_chroma(self, source: Tensor, around: Tensor, mode: Tensor | None) -> tuple[Tensor, Tensor]:
        """Shape: ``[N, 2, h, w]`` -> same, and the mode of each macroblock ``[N, B]``."""
        n, _, h, w = source.shape
        p, usable = intra.predict_chroma(around.flatten(0, 1))
        p = p.unflatten(0, (n, 2))  # [N, 2, B, 4, 64]
        if mode is None:
            target = inter.blocks(source.flatten(0, 1), 8).flatten(1, 2).unflatten(0, (n, 2))
            cost = intra.satd(target[..., None, :] - p, 8).sum(1).masked_fill(~usable, float("inf"))
            mode = cost.argmin(-1)
        chosen = p.gather(3, mode[:, None, :, None, None].expand(-1, 2, -1, 1, 64))[..., 0, :]
        return inter.unblocks(chosen.flatten(0, 1).unflatten(1, (h // 8, w // 8)), 8).view(source.shape), mode

    def _intra_frames(
        self, source: Tensor, chroma: Tensor, qp: Tensor, qpc: Tensor, lam: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor]:
        every = torch.ones_like(qp, dtype=torch.bool)
        with torch.no_grad():
            kind, _, *modes = self._choose_intra(source, source, lam)
            use8 = kind == 1
            first = self._predict_intra(source, kind, modes)
            around = _clamped(first + self._luma(source - first, qp, every, use8)[0])
            first_c, mode_c = self._predict_chroma(chroma, chroma, None)
            around_c = _clamped(first_c + self._chroma(chroma - first_c, qpc, every)[0])
        predicted = self._predict_intra(replace_value(source, around), kind, modes)
        coded, nonzero, levels = self._luma(source - predicted, qp, every, use8)
        predicted_c, _ = self._predict_chroma(chroma, replace_value(chroma, around_c), mode_c)
        coded_c, levels_c = self._chroma(chroma - predicted_c, qpc, every)
        c = predicted_c + coded_c
        counted = rates.features([*levels, *levels_c], nonzero, _MODE_BITS.like(lam)[kind], every)
        motion = torch.zeros(*source.shape[:1], source.shape[1] // 8, source.shape[2] // 8, 6, device=source.device)
        return predicted + coded, c, loop.strengths(every, nonzero, motion, use8), counted

    # Inter

    def _reference(self, ids: list[int]) -> tuple[Tensor, Tensor]:
        """Quarter-pel luma and widened chroma of references."""
        new = [i for i in dict.fromkeys(ids) if i not in self.phases]
        if new:
            planes = inter.quarter_pel(torch.stack([self.done_luma[i] for i in new]))
            c = torch.stack([self.done_chroma[i] for i in new])
            c = inter.edges(c.flatten(0, 1), MARGIN).unflatten(0, (-1, 2))
            for i, p, v in zip(new, planes, c):
                self.phases[i], self.wide_chroma[i] = p, v
        return torch.stack([self.phases[i] for i in ids]), torch.stack([self.wide_chroma[i] for i in ids])

    @torch.no_grad()
    def _field(self, source: Tensor, phases: Tensor, pairs: list[int], lam: Tensor) -> Tensor:
        """Vectors of one reference for each frame, partitions of 16x16 to 8x8 by SATD + lambda bits: ``[N, H/8, W/8, 2]``."""
        n = len(pairs)
        own = torch.arange(n, device=source.device)[:, None, None]
        s = self.search
        assert s is not None
        fine, subpel = self.habits.satd, self.habits.subpel
        index = torch.tensor(pairs, device=source.device)
        small, large, larger = s.small[index], s.large[index], s.larger[index]
        predictor = inter.median_predictor(large)
        target16, target8 = inter.blocks(source, 16), inter.blocks(source, 8)
        zero = torch.zeros_like(large)
        v16, _ = inter.refine(phases, own, target16, [predictor, zero, large, larger], predictor, lam, 16, subpel, fine)
        predictor = inter.median_predictor(v16)
        lam8 = lam.repeat_interleave(2, 1).repeat_interleave(2, 2)
        v16_wide = v16.repeat_interleave(2, 1).repeat_interleave(2, 2)
        if not self.habits.partitions:
            return v16_wide
        v8, _ = inter.refine(phases, own, target8, [v16_wide, small], v16_wide, lam8, 8, subpel, fine)
        # each of five vectors on each of the four blocks of a macroblock
        bh, bw = lam.shape[1:]
        four = v8.view(n, bh, 2, bw, 2, 2).permute(0, 1, 3, 2, 4, 5).reshape(n, bh, bw, 4, 2)
        candidates = torch.cat([v16[..., None, :], four], 3)  # [N, bh, bw, 5, 2]
        table = []
        for i in range(5):
            v = candidates[..., i, :].repeat_interleave(2, 1).repeat_interleave(2, 2)
            c = inter._cost(phases, own, target8, v, 8, fine)
            table.append(c.view(n, bh, 2, bw, 2).permute(0, 1, 3, 2, 4).reshape(n, bh, bw, 4))
        cost = torch.stack(table, -2)  # [N, bh, bw, 5 vectors, 4 blocks]
        bits = inter.vector_bits(candidates, predictor[..., None, :]) * lam[..., None]  # [N, bh, bw, 5]
        groups = {"16": [[0, 1, 2, 3]], "16x8": [[0, 1], [2, 3]], "8x16": [[0, 2], [1, 3]], "8": [[0], [1], [2], [3]]}
        extra = {"16": 1.0, "16x8": 3.0, "8x16": 3.0, "8": 6.0}
        totals, picks = [], []
        for name, parts in groups.items():
            total = extra[name] * lam
            pick = torch.zeros(n, bh, bw, 4, dtype=torch.long, device=source.device)
            for part in parts:
                value, which = (cost[..., part].sum(-1) + bits).min(-1)
                total = total + value
                pick[..., part] = which[..., None]
            totals.append(total)
            picks.append(pick)
        best = torch.stack(totals).argmin(0)  # [N, bh, bw]
        pick = torch.stack(picks, -2).gather(-2, best[..., None, None].expand(*best.shape, 1, 4))[..., 0, :]  # [N, bh, bw, 4]
        chosen = candidates.gather(3, pick[..., None].expand(*pick.shape, 2))  # [N, bh, bw, 4, 2]
        return chosen.view(n, bh, bw, 2, 2, 2).permute(0, 1, 3, 2, 4, 5).reshape(n, bh * 2, bw * 2, 2)

    def _searched(
        self, now: list[int], source: Tensor, lam: Tensor, bidirectional: bool
    ) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor], list[Tensor], Tensor]:
        """Inter prediction by search.

        Returns:
            Predictions of 8x8 blocks ``[N, H/8, W/8, 64]``, of their chroma ``[N, H/8, W/8, 2, 16]``; for each list the vectors, which blocks use
            it, and the name of the reference, all ``[N, H/8, W/8]``; which macroblocks are intra (none so far).
        """
        f, n = self.frames, len(now)
        own = torch.arange(n, device=source.device)[:, None, None]
        lists = [[f.past[i][0] for i in now]] + ([[f.future[i][0] for i in now]] if bidirectional else [])
        planes, chromas, fields, names = [], [], [], []
        assert self.search is not None
        for j, ids in enumerate(lists):
            phases, wide = self._reference(ids)
            pairs = [self.search.of_frame[i][j] for i in now]
            field = self._field(source.detach(), phases.detach(), pairs, lam)
            planes.append(inter.fetch_luma(phases, own, field, 8))
            chromas.append(inter.fetch_chroma(wide, own, field, 4))
            fields.append(field)
            names.append(torch.tensor(ids, device=source.device)[:, None, None].expand(field.shape[:3]))
        nothing = torch.zeros_like(lam, dtype=torch.bool)
        if not bidirectional:
            return planes[0], chromas[0], fields, [torch.ones_like(names[0], dtype=torch.bool)], names, nothing
        planes.append(half_up((planes[0] + planes[1]) / 2))
        chromas.append(half_up((chromas[0] + chromas[1]) / 2))
        with torch.no_grad():
            target = inter.blocks(source, 8)
            costs = torch.stack([intra.satd(target - p, 8) if self.habits.satd else (target - p).abs().sum(-1) for p in planes])
            bits = torch.stack([inter.vector_bits(v, inter.median_predictor(v)) for v in fields])
            lam8 = lam.repeat_interleave(2, 1).repeat_interleave(2, 2) / 4
            costs = costs + lam8 * torch.stack([bits[0] + 2, bits[1] + 2, bits[0] + bits[1] + 3])
            whole = costs.unflatten(-1, (-1, 2)).unflatten(2, (-1, 2)).sum((3, 5))  # [3, N, bh, bw]
            best_whole, which_whole = whole.min(0)
            best8, which8 = costs.min(0)
            divided = best8.unflatten(-1, (-1, 2)).unflatten(1, (-1, 2)).sum((2, 4)) + 6 * lam
            split = (divided < best_whole).repeat_interleave(2, 1).repeat_interleave(2, 2)
            which = torch.where(split, which8, which_whole.repeat_interleave(2, 1).repeat_interleave(2, 2))
        y = torch.stack(planes).gather(0, which[None, ..., None].expand(1, *planes[0].shape))[0]
        c = torch.stack(chromas).gather(0, which[None, ..., None, None].expand(1, *chromas[0].shape))[0]
        return y, c, fields, [which != 1, which != 0], names, nothing

    def _guided(
        self, now: list[int], source: Tensor, decided: _Decided
    ) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor], list[Tensor], Tensor]:
        """Inter prediction with given vectors; as :meth:`_searched`. Streams do not export which reference is meant: the best one is taken."""
        f, n = self.frames, len(now)
        index = torch.tensor(now, device=source.device)
        vectors, used = decided.vectors[index], decided.used[index]
        target = inter.blocks(source, 8).detach()
        planes, chromas, names = [], [], []
        for j in range(2):
            options = [f.past[i] if j == 0 else f.future[i] for i in now]
            most = max(len(o) for o in options)
            if not most:
                continue
            ids = [o[min(k, len(o) - 1)] for o in options for k in range(most)]  # frame by frame
            phases, wide = self._reference(ids)
            field = vectors[:, j]
            first = most * torch.arange(n, device=source.device)[:, None, None]
            with torch.no_grad():
                cost = torch.stack([intra.satd(target - inter.fetch_luma(phases, first + k, field, 8), 8) for k in range(most)])
                whole = cost.unflatten(-1, (-1, 2)).unflatten(2, (-1, 2)).sum((3, 5), keepdim=True)
                best = whole.argmin(0).expand(n, field.shape[1] // 2, 2, field.shape[2] // 2, 2).reshape(field.shape[:3])
                place = first + best
            planes.append(inter.fetch_luma(phases, place, field, 8))
            chromas.append(inter.fetch_chroma(wide, place, field, 4))
            names.append(torch.tensor(ids, device=source.device)[place])
        uses = [used[:, j] for j in range(len(planes))]
        y, c = planes[0], chromas[0]
        if len(planes) == 2:
            both, second = (uses[0] & uses[1])[..., None], uses[1][..., None]
            y = torch.where(both, half_up((planes[0] + planes[1]) / 2), torch.where(second, planes[1], planes[0]))
            both, second = both[..., None], second[..., None]
            c = torch.where(both, half_up((chromas[0] + chromas[1]) / 2), torch.where(second, chromas[1], chromas[0]))
        is_intra = ~used.any(1).unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).any(4).any(2)
        return y, c, [vectors[:, j] for j in range(len(planes))], uses, names, is_intra

    def _inter_frames(
        self, now: list[int], source: Tensor, chroma: Tensor, qp: Tensor, qpc: Tensor, lam: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor]:
        bidirectional = self.frames.types[now[0]] in "Bb"
        if self.decided is None:
            y, c, fields, uses, names, is_intra = self._searched(now, source, lam, bidirectional)
        else:
            y, c, fields, uses, names, is_intra = self._guided(now, source, self.decided)
        predicted = inter.unblocks(y, 8)
        predicted_c = inter.unblocks(c.movedim(3, 1).flatten(0, 1), 4).view(chroma.shape)
        motion = []
        for j in range(2):
            if j < len(fields):
                used = uses[j]
                motion += [
                    torch.where(used[..., None], fields[j].to(source), 0.0),
                    torch.where(used, names[j].to(source), -1.0)[..., None],
                ]
            else:
                motion += [torch.zeros_like(motion[0]), torch.full_like(motion[1], -1.0)]
        never = torch.zeros_like(qp, dtype=torch.bool)
        if may_be_intra := not bidirectional or self.decided is not None:
            with torch.no_grad():
                kind, cost, *modes = self._choose_intra(source, source, lam)
                if self.decided is None:
                    inter_cost = intra.satd(inter.blocks(source - predicted, 16), 16)
                    is_intra = cost * self.constants.intra_bias < inter_cost
                use8 = self._transform8(source - predicted)
                around = _clamped(predicted + self._luma(source - predicted, qp, never, use8)[0])
                around_c = _clamped(predicted_c + self._chroma(chroma - predicted_c, qpc, never)[0])
                _, mode_c = self._predict_chroma(chroma, chroma, None)
            if is_intra.any():
                wide = is_intra.repeat_interleave(16, 1).repeat_interleave(16, 2)
                predicted = torch.where(wide, self._predict_intra(replace_value(source, around), kind, modes), predicted)
                from_intra, _ = self._predict_chroma(chroma, replace_value(chroma, around_c), mode_c)
                predicted_c = torch.where(wide[:, None, ::2, ::2], from_intra, predicted_c)
        with torch.no_grad():
            use8 = self._transform8(source - predicted)
            if may_be_intra:
                use8 = torch.where(is_intra, kind == 1, use8)
        coded, nonzero, levels = self._luma(source - predicted, qp, is_intra, use8)
        coded_c, levels_c = self._chroma(chroma - predicted_c, qpc, is_intra)
        with torch.no_grad():
            side, moved = self._side(fields, uses)
            if may_be_intra:
                side, moved = torch.where(is_intra, _MODE_BITS.like(lam)[kind], side), moved | is_intra
        counted = rates.features([*levels, *levels_c], nonzero, side, moved)
        return predicted + coded, predicted_c + coded_c, loop.strengths(is_intra, nonzero, torch.cat(motion, -1), use8), counted

    def _side(self, fields: Sequence[Tensor], uses: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Bits of each macroblock's vectors, and whether it moves otherwise than a skipped one would. Shape: ``[N, H/16, W/16]``."""
        total, moved = 0.0, False
        for v, used in zip(fields, uses):
            own = v[:, ::2, ::2]
            predictor = inter.median_predictor(own)
            bits = inter.vector_bits(own, predictor)
            four = v.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).transpose(2, 3)  # [N, bh, bw, 2, 2, 2]
            split = (four != own[:, :, :, None, None]).any(-1).flatten(3)  # [N, bh, bw, 4]
            active = used[:, ::2, ::2]
            total = total + (bits + 4 * split.sum(-1)) * active
            moved = moved | (((own != predictor).any(-1) | split.any(-1)) & active)
        return torch.as_tensor(total), torch.as_tensor(moved)

    def _transform8(self, difference: Tensor) -> Tensor:
        """Which macroblocks take the 8x8 transform: the one that concentrates the residual more."""
        if not self.habits.transform8:
            return torch.zeros(
                len(difference), difference.shape[1] // 16, difference.shape[2] // 16, dtype=torch.bool, device=difference.device
            )
        costs = []
        for k in (4, 8):
            x = residual.to_blocks(difference, k)
            costs.append((x @ residual.FLAT[k].like(x).mT).abs().sum((-2, -1)))
        return costs[1] < costs[0]

    # Residual

    def _luma(self, difference: Tensor, qp: Tensor, is_intra: Tensor, use8: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        out, four, eight, coded = residual.code_luma(difference, qp, is_intra, use8, self.constants.prefer)
        return half_up(out), coded, [four, eight]

    def _chroma(self, difference: Tensor, qpc: Tensor, is_intra: Tensor) -> tuple[Tensor, list[Tensor]]:
        parts = [residual.code_chroma(d, qpc, is_intra, self.constants.prefer) for d in difference.unbind(1)]
        return half_up(torch.stack([p[0] for p in parts], 1)), [p[1] for p in parts]


def _clamped(x: Tensor) -> Tensor:
    """To 0..255, gradient passed through."""
    return replace_value(x, x.detach().clamp(0, 255))


def family(preset: str) -> str:
    """Preset whose calibration serves."""
    return {"superfast": "veryfast", "faster": "veryfast", "fast": "medium", "slower": "slow"}.get(preset, preset)
