"""libx264, simulated: its frame types, quantisers, decisions and arithmetic, batched, with a gradient.

Frames of all clips of the batch run through the standard's block diagram step by step of the coding order: prediction, residual, deblocking. What an
encoder decides (types, vectors, modes, quantisers' rounding, which levels to keep) is decided on values and constant to the gradient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import kernels, opaque
from ..blocks import pad_to, pad_to_multiple, spread
from ..checks import frame_rate, replace_value, require, traced
from ..coded import Coded
from ..color import rgb_to_yuv420, yuv420_to_rgb
from ..constants import listed
from ..layer import FIRST_ORDER_ONLY, Codec, Draw
from ..strength import Strength, StrengthLike, uniform
from . import bits as rates
from . import deblock as loop
from . import decide, inter, intra, rate_control, residual
from .gop import Gop
from .guide import Guide
from .habits import PRESETS, Constants, Preset, constants_of
from .lookahead import Lookahead, undecided

MARGIN = inter.MARGIN
START = -1  # in place of a phase: the clip begins with an I frame
QP_SPAN = 2  # how much finer and coarser a residual is coded for the gradient of its bits by QP
PASSES = 3  # of coding an intra frame: each predicts from the samples of the one before


class X264H264(Codec):
    """The x264 model of :class:`~diffcodec.DiffH264`.

    The coding order is a loop over data: under ``torch.compile`` and ``torch.func.grad`` the layer is one operator, whose gradient codes once more.
    Arithmetic is float32, also for float64 input.
    """

    operator = opaque.operator("diff_h264")
    lacks = FIRST_ORDER_ONLY

    def __init__(
        self,
        crf: StrengthLike = 23,
        preset: str | Preset = "medium",
        fps: float | Fraction | str = 25,
        gop: str | Gop = "start",
        constants: Constants | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.backend = kernels.checked(backend)
        self.crf = Strength(crf, "crf", 0, 51)
        if not isinstance(preset, Preset):
            require("preset", preset, list(PRESETS))
        if not isinstance(gop, Gop):
            require("gop", gop, ["start", "middle", "random"])
        self.preset, self.fps, self.gop = preset, float(frame_rate(fps)), gop
        self.habits = preset if isinstance(preset, Preset) else PRESETS[preset]
        self.constants = constants or constants_of(self.habits)

    def fused(self, video: Tensor) -> bool:
        kernels.wanted(self.backend, video)  # an error where it cannot be had
        return False  # its parts call kernels, there is none of the whole

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None, step: int | None, device: torch.device | None) -> Draw:
        draw = super().draw(shape, generator, step, device)
        phases = self.habits.bframes + 1
        chance, phase = uniform((shape[0], 2), generator, device).unbind(1)  # whether in the middle, and at which phase
        where = (phase * phases).long().clamp(max=phases - 1)
        if self.gop == "random":
            where = torch.where(chance < 0.5, where, START)
        elif self.gop != "middle":
            where = torch.full_like(where, START)
        return draw | {"phase": where}

    def draw_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return super().draw_shapes(shape) | {"phase": shape[:1]}

    def check_draw(self, draw: Mapping[str, Any], shape: Sequence[int]) -> None:
        guide = draw.get("guide")
        if guide is not None and len(guide) != shape[0]:
            raise ValueError(f"X264H264 got guides for {len(guide)} samples; the batch has {shape[0]}")
        super().check_draw({k: v for k, v in draw.items() if k != "guide"}, shape)
        phase = draw["phase"]
        if phase.device.type == "cpu" and not traced(phase) and not START <= int(phase.min()) <= int(phase.max()) <= self.habits.bframes:
            raise ValueError(f"X264H264 got a draw with phases {phase.tolist()}; this preset has {START}..{self.habits.bframes}")

    def gops(self, phase: Tensor, frames: int) -> list[Gop]:
        """The GOP of each clip, its types undecided where content decides. Shape: ``[B]``."""
        if isinstance(self.gop, Gop):
            if len(self.gop) != frames:
                raise ValueError(f"{self.gop} is for {len(self.gop)} frames, the clip has {frames}")
            return [self.gop] * len(phase)
        n, references = self.habits.bframes, self.habits.references
        if self.gop == "start":  # nothing that a GPU would have to tell
            return [undecided(frames, 0, 0, references)] * len(phase)
        return [undecided(frames, 0, 0, references) if p == START else undecided(frames, n + 1 - p, n, references) for p in phase.tolist()]

    @torch.no_grad()
    def _lookahead(self, source: _Source, gops: list[Gop], t: int) -> tuple[list[Gop], Lookahead]:
        """The GOPs with their types decided, and what was found out on the way."""
        ahead, gops = Lookahead(source.luma, not self.habits.satd), list(gops)
        open_ones = [i for i, g in enumerate(gops) if "?" in g.types]
        at = [[i * t + _reflected(j - gops[i].before, t) for j in range(len(gops[i].types))] for i in open_ones]
        found = ahead.types(at, self.habits.bframes) if self.habits.bframes else ["I" + "P" * (len(a) - 1) for a in at]
        for i, types in zip(open_ones, found):
            gops[i] = dataclasses.replace(gops[i], types=types)
        return gops, ahead

    def simulate(self, video: Tensor, draw: Mapping[str, Any], rate: bool) -> tuple[Tensor, Tensor | None]:
        out, counted, _ = self.features(video, draw, rate)
        return out, None if counted is None else rates.count(counted, self.constants.rate)

    def coded(self, video: Tensor, draw: Mapping[str, Any]) -> Coded:
        out, counted, types = self.features(video, draw)
        assert counted is not None
        bits = rates.count(counted, self.constants.rate)
        return Coded(out, bits.sum(1), types, bits)

    def features(self, video: Tensor, draw: Mapping[str, Any], rate: bool = True) -> tuple[Tensor, Tensor | None, list[str]]:
        """Decoded video, if wanted what the bits of each frame are counted from, ``[B, T, 6]`` (see :mod:`diffcodec.h264.bits`), and frame types."""
        with kernels.using(self.backend):
            return self._features(video, draw, rate)

    def _features(self, video: Tensor, draw: Mapping[str, Any], rate: bool) -> tuple[Tensor, Tensor | None, list[str]]:
        dtype, video = video.dtype, video.float()  # whole numbers inside: more precision would only let ties fall elsewhere
        b, t, _, h, w = video.shape
        guides: list[Guide] | None = draw.get("guide")
        source = _Source.of(video)
        decided = search = None
        if guides is None:
            gops, ahead = self._lookahead(source, self.gops(draw["phase"], t), t)
            types = [g.letters.upper() for g in gops]
            frames = _Frames.of(gops, t)
            search = _Search.of(ahead, frames)
            qp = self._qp(draw["crf"].to(video), source, frames, search)  # [F, bh, bw]
        else:
            types = [g.types.upper() for g in guides]
            frames = _Frames.of([Gop(g.types, references=max(1, self.habits.references)) for g in guides], t)
            qp = torch.cat([g.qp for g in guides]).to(video)
            crf = draw["crf"].to(video).repeat_interleave(t)[:, None, None]
            qp = qp + (crf - crf.detach())  # the quantiser follows the CRF
            decided = _Decided(torch.cat([g.vectors for g in guides]).to(qp.device), torch.cat([g.used for g in guides]).to(qp.device))
        coder = _Coder(self.habits, self.constants, source, qp, frames, search, decided, rate)
        y, c, counted = coder.run()
        out = yuv420_to_rgb(y, c)[..., :h, :w].reshape(b, t, 3, h, w).to(dtype)
        return out, None if counted is None else counted.view(b, t, -1), types

    def _qp(self, crf: Tensor, source: _Source, frames: _Frames, search: _Search) -> Tensor:
        """Whole QPs, gradient of the real-valued ones. Shape: ``[B] -> [F, H/16, W/16]``."""
        seen, adaptive = search.seen, None
        with torch.no_grad():
            offset = torch.zeros_like(seen.intra)
            if self.habits.adaptive:
                offset = adaptive = rate_control.adaptive_offset(source.luma, source.chroma)[listed(frames.source, crf.device)]
                if self.habits.tree:
                    offset = offset + rate_control.tree_offset(seen, adaptive, frames.steps, frames.types, frames.display)
        of_clip = listed(frames.clip, crf.device)
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
        whole = (real.detach() + 0.5).floor().clamp(0, 51)
        return replace_value(real, rate_control.settled(whole, (base.detach() + 0.5).floor().clamp(0, 51)))


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

    source: list[int]
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
        return _Frames(source, clip, display, types, past, future, steps, shown, spans)


def _reflected(i: int, t: int) -> int:
    """Time runs backwards beyond the ends of a clip."""
    if t == 1:
        return 0
    i %= 2 * (t - 1)
    return i if i < t else 2 * (t - 1) - i


@dataclass(frozen=True)
class _Source:
    """Video as the encoder sees it: all frames of all clips, multiples of 16, luma ``[S, H, W]`` and chroma ``[S, 2, H/2, W/2]``, 0..255."""

    luma: Tensor
    chroma: Tensor

    @staticmethod
    def of(video: Tensor) -> _Source:
        h, w = video.shape[-2:]
        luma, chroma = rgb_to_yuv420(pad_to_multiple(video.flatten(0, 1).float(), 2))
        hb, wb = -(-h // 16) * 16, -(-w // 16) * 16
        return _Source(pad_to(luma, hb, wb), pad_to(chroma, hb // 2, wb // 2))


@dataclass(frozen=True)
class _Search:
    """What the lookahead found for the frames to be coded.

    Attributes:
        ahead: the lookahead. at: source frame of each.
        seen: costs and uses for rate control.
    """

    ahead: Lookahead
    at: list[int]
    seen: rate_control.Seen

    @staticmethod
    def of(ahead: Lookahead, frames: _Frames) -> _Search:
        at = frames.source
        n = len(at)
        ahead.search([(at[i], at[r]) for i in range(n) for r in (*frames.past[i], *frames.future[i])])
        one = [i for i in range(n) if frames.past[i] and not frames.future[i]]
        two = [i for i in range(n) if frames.future[i]]
        triples = [(at[i], at[frames.past[i][0]], at[frames.future[i][0]]) for i in two]
        ahead.both(triples)
        intra = ahead.intra[listed(at, ahead.intra.device)]
        inter, share = intra.clone(), []
        frame, reference = one + two + two, [frames.past[i][0] for i in one + two] + [frames.future[i][0] for i in two]
        if not frame:
            nothing = intra.new_zeros(0, *intra.shape[1:])
            return _Search(ahead, at, rate_control.Seen(intra, inter, [], [], nothing[..., None].expand(-1, -1, -1, 2), nothing))
        cost, vectors = ahead.one.of([(at[i], at[r]) for i, r in zip(frame, reference)])
        if one:
            at_one = listed(one, intra.device)
            inter.index_copy_(0, at_one, torch.minimum(cost[: len(one)], intra[at_one]))
            share.append(torch.ones_like(cost[: len(one)]))
        if two:
            both, first = ahead.two.of(triples)
            inter.index_copy_(0, listed(two, intra.device), both)
            share += [first, 1 - first]
        return _Search(ahead, at, rate_control.Seen(intra, inter, frame, reference, vectors, torch.cat(share)))

    def cheapest(self, frames: list[int], references: list[int]) -> tuple[Tensor, Tensor]:
        """For each macroblock the number of the reference that costs least, and the vector from it: ``[N, H/16, W/16]``, ``[N, H/16, W/16, 2]``.

        Args:
            frames: N frames. references: frame by frame, as many for each.
        """
        most = len(references) // len(frames)
        pairs = [(self.at[frames[k // most]], self.at[r]) for k, r in enumerate(references)]
        cost, vectors = (x.unflatten(0, (-1, most)) for x in self.ahead.one.of(pairs))
        if most == 1:
            return torch.zeros_like(cost[:, 0], dtype=torch.long), vectors[:, 0]
        further = listed([0.0] + [2.0] * (most - 1), cost.device)[:, None, None]
        best = (cost + further).argmin(1)
        return best, vectors.gather(1, best[:, None, ..., None].expand(-1, -1, -1, -1, 2))[:, 0]


@dataclass(frozen=True)
class _Decided:
    """Inter prediction as a guide has it, for all frames: see :class:`~diffcodec.h264.Guide`."""

    vectors: Tensor  # [F, 2, H/8, W/8, 2]
    used: Tensor  # [F, 2, H/8, W/8]


@dataclass(frozen=True)
class _Prediction:
    """What is known of frames before their residual is coded.

    Attributes:
        luma, chroma: predictions ``[N, H, W]``, ``[N, 2, H/2, W/2]``.
        intra, use8, large: macroblocks that are intra, take the 8x8 transform, are intra 16x16; bool ``[N, H/16, W/16]``.
        motion: of 8x8 blocks, vectors and names of references of both lists ``[N, H/8, W/8, 6]``.
        bits: of modes and vectors ``[N, H/16, W/16]``. moved: macroblocks that cannot be skipped, bool.
    """

    luma: Tensor
    chroma: Tensor
    intra: Tensor
    use8: Tensor
    large: Tensor
    motion: Tensor
    bits: Tensor
    moved: Tensor


@dataclass(frozen=True)
class _References:
    """References of blocks of 8x8.

    Attributes:
        frames: the references.
        slot: where the phases of each block's lie. which: number among ``frames``. name: the frame. ``[N, H/8, W/8]``.
    """

    frames: list[int]
    slot: Tensor
    which: Tensor
    name: Tensor


class _Given(NamedTuple):
    """What is known of frames that are coded together.

    Attributes:
        luma, chroma: source ``[N, H, W]``, ``[N, 2, H/2, W/2]``.
        qp, qpc, lam: QP of luma and chroma, lambda ``[N, H/16, W/16]``.
    """

    luma: Tensor
    chroma: Tensor
    qp: Tensor
    qpc: Tensor
    lam: Tensor


class _Coder:
    """Codes the frames of a batch in coding order."""

    def __init__(
        self,
        habits: Preset,
        constants: Constants,
        source: _Source,
        qp: Tensor,
        frames: _Frames,
        search: _Search | None,
        decided: _Decided | None,
        rate: bool,
    ) -> None:
        self.habits, self.constants, self.frames, self.search = habits, constants, frames, search
        self.decided, self.rate = decided, rate
        every = ([i for i in step if frames.types[i] in kind] for step in frames.steps for kind in ("I", "P", "Bb"))
        self.groups = [group for group in every if group]
        # in coding order once and for all: groups are then views, whose gradients are put together in one go
        order = [i for group in self.groups for i in group]
        at, qp = listed([frames.source[i] for i in order], qp.device), qp[listed(order, qp.device)]
        lam = torch.exp2((qp.detach() - 12) / 6).clamp(min=1)
        all_of_them = (source.luma[at], source.chroma[at], qp, residual.chroma_qp(qp, habits.chroma_offset), lam)
        sizes = [len(group) for group in self.groups]
        self.given = [_Given(*parts) for parts in zip(*(x.split(sizes) for x in all_of_them))]
        n, (_, h, w) = len(frames.types), source.luma.shape
        self.done_luma: list[Any] = [None] * n
        self.done_chroma: list[Any] = [None] * n
        used = sorted({r for i in range(n) for r in (*frames.past[i], *frames.future[i])})
        self.slots = {r: k for k, r in enumerate(used)}  # places of references among the phases
        self.phases = source.luma.new_empty(len(used), 16, h + 2 * MARGIN, w + 2 * MARGIN, dtype=torch.uint8)
        self.has_phases: set[int] = set()
        self.counted: list[Any] = [None] * n  # features of the rate

    def run(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """The clips' decoded frames, luma ``[S, H, W]`` and chroma ``[S, 2, H/2, W/2]``, and if wanted what bits are counted from, ``[S, 6]``."""
        for now, given in zip(self.groups, self.given):
            self._code(now, given)
        shown = self.frames.shown
        y, c = (torch.stack([done[i] for i in shown]) for done in (self.done_luma, self.done_chroma))
        return y, c, torch.stack([self.counted[i] for i in shown]) if self.rate else None

    def _code(self, now: list[int], given: _Given) -> None:
        p = self._intra(given) if self.frames.types[now[0]] == "I" else self._inter(now, given)
        qp, qpc = given.qp, given.qpc
        found, c, counted = self._residual(given, p, qp, qpc)
        y = found.decoded
        if self.habits.deblock:
            y, c = loop.deblock(y, c, loop.strengths(p.intra, found.coded, p.motion, p.use8), qp.detach(), qpc.detach())
        for i, a, d in zip(now, y.unbind(), c.unbind()):
            self.done_luma[i], self.done_chroma[i] = a, d
        if counted is not None:
            if qp.requires_grad:
                counted = self._follow_qp(given, p)
            for i, f in zip(now, counted.unbind()):
                self.counted[i] = f

    def _residual(self, given: _Given, p: _Prediction, qp: Tensor, qpc: Tensor) -> tuple[residual.CodedLuma, Tensor, Tensor | None]:
        """Luma and chroma with their residuals coded, and if wanted what bits are counted from ``[N, 6]``."""
        found = residual.code_luma(given.luma, p.luma, qp, p.intra, p.use8, p.large, self.constants.prefer, self.rate)
        c, levels_c = residual.code_chroma(given.chroma, p.chroma, qpc, p.intra, self.constants.prefer, self.rate)
        counted = rates.features([found.four, found.eight, levels_c], found.coded, p.bits, p.moved) if self.rate else None
        return found, c, counted

    def _follow_qp(self, given: _Given, p: _Prediction) -> Tensor:
        """What bits are counted from, with the gradient by QP of coding the same residual finer and coarser.

        Which levels, blocks and macroblocks are left out altogether, half of what a QP saves, has no slope of its own.
        """
        counted = self._residual(given, p, given.qp.detach(), given.qpc.detach())[2]
        assert counted is not None
        with torch.no_grad():
            fine, coarse = (self._residual(given, p, *(x + d for x in (given.qp, given.qpc)))[2] for d in (-QP_SPAN, QP_SPAN))
            slope = (coarse - fine) / (2 * QP_SPAN)  # type: ignore[operator]
        mean = given.qp.mean((1, 2))[:, None]
        return counted + slope * (mean - mean.detach())

    def _intra(self, given: _Given) -> _Prediction:
        """Prediction of intra frames from a reconstruction of themselves."""
        source, chroma, qp, qpc, lam = given
        every = torch.ones_like(qp, dtype=torch.bool)
        prefer = self.constants.prefer
        with torch.no_grad():
            around, around_c = source, chroma
            found = None
            for _ in range(PASSES):
                found = decide.choose_intra(source, around, lam, self.habits, found)
                p = decide.predict_intra(around, found)
                coded = residual.code_luma(source, p, qp, every, found.kind == 1, found.kind == 0, prefer, False)
                c = decide.predict_chroma(around_c, decide.choose_chroma(chroma, around_c, lam, self.habits))
                around = coded.decoded
                around_c = residual.code_chroma(chroma, c, qpc, every, prefer, False)[0]
            found = decide.choose_intra(source, around, lam, self.habits, found, prefer, qp)
            mode = decide.choose_chroma(chroma, around_c, lam, self.habits)
        return _Prediction(
            decide.predict_intra(replace_value(source, around), found),
            decide.predict_chroma(replace_value(chroma, around_c), mode),
            every, found.kind == 1, found.kind == 0,
            torch.zeros(*source.shape[:1], source.shape[1] // 8, source.shape[2] // 8, 6, device=source.device),
            found.bits, every,
        )  # fmt: skip

    def _inter(self, now: list[int], given: _Given) -> _Prediction:
        """Prediction of P and B frames: from references, and in P frames from neighbours in the source where that is cheaper."""
        source, chroma, _, _, lam = given
        bidirectional = self.frames.types[now[0]] in "Bb"
        if self.decided is None:
            y, c, fields, uses, names = self._searched(now, source, lam, bidirectional)
            is_intra = torch.zeros_like(lam, dtype=torch.bool)
        else:
            y, c, fields, uses, names, is_intra = self._guided(now, given, self.decided)
        predicted = inter.unblocks(y, 8)
        predicted_c = inter.unblocks(c.movedim(3, 1).flatten(0, 1), 4).view(chroma.shape)
        bits, moved = decide.motion_bits(fields, uses, lam) if self.rate else (torch.zeros_like(lam), is_intra)
        cost, use8 = decide.weigh_residual(source.detach(), predicted.detach(), self.habits)
        large = torch.zeros_like(is_intra)
        if not bidirectional or (self.decided is not None and (kernels.here(source) or is_intra.any())):
            found = decide.choose_intra(source.detach(), source.detach(), lam, self.habits)
            if self.decided is None:
                is_intra = found.cost * self.constants.intra_bias < cost
            if kernels.here(source) or is_intra.any():  # where kernels run, to look would mean to wait for them
                wide = spread(is_intra, 16)
                mode = decide.choose_chroma(chroma.detach(), chroma.detach(), lam, self.habits)
                predicted = torch.where(wide, decide.predict_intra(source, found), predicted)
                predicted_c = torch.where(wide[:, None, ::2, ::2], decide.predict_chroma(chroma, mode), predicted_c)
                use8 = torch.where(is_intra, found.kind == 1, use8)
                large = is_intra & (found.kind == 0)
                bits, moved = torch.where(is_intra, found.bits, bits), moved | is_intra
        motion = inter.motion(fields, uses, names)
        return _Prediction(predicted, predicted_c, is_intra, use8, large, motion, bits, moved)

    def _options(self, now: list[int], j: int) -> tuple[list[int], int]:
        """References of a list (0: past, 1: future), frame by frame and as many for each, the last one repeated; and how many that is."""
        options = [self.frames.future[i] if j else self.frames.past[i] for i in now]
        most = max(map(len, options))
        return [o[min(k, len(o) - 1)] for o in options for k in range(most)], most

    def _references(self, ids: list[int], place: Tensor) -> tuple[Tensor, _References]:
        """Have references at hand.

        Args:
            ids: frames.
            place: which of them each macroblock uses ``[N, H/16, W/16]``.

        Returns:
            Where the phases of each macroblock's lie ``[N, H/16, W/16]``; and the rest by blocks of 8x8.
        """
        own = list(dict.fromkeys(ids))
        new = [i for i in own if i not in self.has_phases]
        if new:
            with torch.no_grad():
                planes = inter.quarter_pel(torch.stack([self.done_luma[i] for i in new]))
                self.phases.index_copy_(0, listed([self.slots[i] for i in new], place.device), planes)
            self.has_phases.update(new)
        table = listed([[self.slots[i] for i in ids], [own.index(i) for i in ids], ids], place.device)
        slot = table[:, place]  # [3, N, H/16, W/16]
        of_blocks = spread(slot.flatten(0, 1), 2).unflatten(0, slot.shape[:2])
        return slot[0], _References(own, *of_blocks)

    def _fetched(self, r: _References, field: Tensor) -> tuple[Tensor, Tensor]:
        """8x8 blocks of references ``[N, H/8, W/8, 64]``, and of their chroma ``[N, H/8, W/8, 2, 16]``, that vectors point at."""
        luma, chroma = ([done[i] for i in r.frames] for done in (self.done_luma, self.done_chroma))
        y = inter.predict_luma(self.phases, r.slot, luma, r.which, field, 8)
        return y, inter.fetch_chroma(torch.stack(chroma), r.which, field, 4)

    def _searched(
        self, now: list[int], source: Tensor, lam: Tensor, bidirectional: bool
    ) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor], list[Tensor]]:
        """Inter prediction by search.

        Returns:
            Predictions of 8x8 blocks ``[N, H/8, W/8, 64]``, of their chroma ``[N, H/8, W/8, 2, 16]``; for each list the vectors, which blocks use
            it, and the name of the reference, all ``[N, H/8, W/8]``.
        """
        n = len(now)
        planes, chromas, fields, names = [], [], [], []
        assert self.search is not None
        for j in range(1 + bidirectional):
            ids, most = self._options(now, j)
            best, coarse = self.search.cheapest(now, ids)
            slot, references = self._references(ids, most * torch.arange(n, device=source.device)[:, None, None] + best)
            field = decide.vectors(source.detach(), self.phases, slot, coarse, lam, self.habits)
            y, c = self._fetched(references, field)
            planes.append(y)
            chromas.append(c)
            fields.append(field)
            names.append(references.name)
        if not bidirectional:
            return planes[0], chromas[0], fields, [torch.ones_like(names[0], dtype=torch.bool)], names
        which = decide.direction(source.detach(), planes[0].detach(), planes[1].detach(), fields, lam, self.habits)
        y, c = inter.mix(planes[0], planes[1], which), inter.mix(chromas[0], chromas[1], which)
        return y, c, fields, [which != 1, which != 0], names

    def _guided(
        self, now: list[int], given: _Given, decided: _Decided
    ) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor], list[Tensor], Tensor]:
        """Inter prediction with given vectors; as :meth:`_searched`. Streams do not export which reference is meant: the best one is taken."""
        n, source = len(now), given.luma
        index = listed(now, source.device)
        vectors, used = decided.vectors[index], decided.used[index]
        target = inter.blocks(source, 8).detach()
        planes, chromas, names = [], [], []
        for j in range(2):
            ids, most = self._options(now, j)
            if not most:
                continue
            field = vectors[:, j]
            first = most * torch.arange(n, device=source.device)[:, None, None]
            _, every = self._references(ids, torch.cat([(first + k).expand_as(given.qp) for k in range(most)]))
            with torch.no_grad():
                moved = inter.fetch_luma(self.phases, every.slot.unflatten(0, (most, n)), field.expand(most, *field.shape), 8)
                place = first + inter.macroblocks(intra.satd(target - moved, 8)).argmin(0)
            _, references = self._references(ids, place)
            y, c = self._fetched(references, field)
            planes.append(y)
            chromas.append(c)
            names.append(references.name)
        uses = [used[:, j] for j in range(len(planes))]
        y, c = planes[0], chromas[0]
        if len(planes) == 2:
            which = uses[1].long() * (1 + uses[0].long())
            y, c = inter.mix(planes[0], planes[1], which), inter.mix(chromas[0], chromas[1], which)
        is_intra = ~used.any(1).unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).any(4).any(2)
        return y, c, [vectors[:, j] for j in range(len(planes))], uses, names, is_intra
