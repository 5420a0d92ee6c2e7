"""The encoder's block diagram, one function: :func:`encode_video`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..constants import listed
from ..ops.color.reference import yuv420_to_rgb
from ..ops.deblock.reference import boundary_strengths, deblock
from ..ops.residual.reference import code_chroma, code_luma
from . import bits
from .dpb import DecodedPictureBuffer
from .gop import Gop
from .guide import Guide
from .inter import without_residual
from .lookahead import LookaheadCosts, look_ahead
from .motion import GuideMotion, SearchedMotion
from .plan import CodingPlan, FrameGroup, SourceFrames
from .prediction import Prediction, predict_inter_frames, predict_intra_frames
from .presets import Constants, Preset, quantiser
from .rate_control import QPOffsets, frame_qps, macroblock_qp

QP_SPAN = 2  # QP difference, either way, for the finite-difference gradient of bits by QP


class Settings(NamedTuple):
    """How a video is encoded: frame rate, preset settings, fitted constants, and whether bits are counted."""

    fps: float
    preset: Preset
    constants: Constants
    rate: bool


class Analysis(NamedTuple):
    """What is known of clips before a CRF: source frames, the lookahead's frame types and costs, QPs of frames at CRF 0 and offsets from them."""

    source: SourceFrames
    plan: CodingPlan
    costs: LookaheadCosts
    offsets: QPOffsets
    frame_qp: Tensor

    @staticmethod
    def of(video: Tensor, gops: Sequence[Gop], settings: Settings) -> Analysis:
        """Of clips ``[B, T, 3, H, W]``, float32 in [0, 1]; see :func:`encode_video`."""
        source, preset = SourceFrames.of(video), settings.preset
        plan, costs = look_ahead(source.luma, gops, video.shape[1], preset, settings.fps)
        offsets = QPOffsets.of(source, plan, costs, preset)
        frame_qp = frame_qps(video.new_zeros(len(video)), settings.fps, plan, costs, offsets, preset)
        return Analysis(source, plan, costs, offsets, frame_qp)

    def decided(self, crf: Tensor, settings: Settings) -> tuple[CodingPlan, SearchedMotion, Tensor]:
        """Frames, motion and QPs at the CRFs of the clips ``[B]``."""
        frame_qp = self.frame_qp + crf[listed(self.plan.clip, crf.device)]  # QPs depend on the CRF linearly, with slope 1
        return (
            self.plan,
            SearchedMotion(self.plan, self.costs, settings.preset),
            macroblock_qp(frame_qp, self.offsets, settings.constants.qp),
        )


def encode_video(
    video: Tensor, crf: Tensor, gops: Sequence[Gop], guides: Sequence[Guide] | None, settings: Settings, analysis: Analysis | None = None
) -> tuple[Tensor, Tensor | None, list[str]]:
    """Encode and decode clips.

    Args:
        video: ``[B, T, 3, H, W]``, float32 in [0, 1].
        crf: CRF of each clip ``[B]``, 0..51.
        gops: GOP of each clip; types may be left open. Not used with guides.
        guides: decisions of a real encode of each clip, which replace lookahead and motion search; None for none.
        settings: frame rate, preset, constants, and whether bits are counted.
        analysis: of these clips, where it is known.

    Returns:
        Decoded video ``[B, T, 3, H, W]`` in [0, 1]; rate features of each frame ``[B, T, 6]`` (see :mod:`diffcodec.h264.bits`), None unless
        ``settings.rate``; frame types, one string of I, P and B per clip.
    """
    b, t, _, h, w = video.shape
    analysis = analysis or (Analysis.of(video, gops, settings) if guides is None else None)
    source = SourceFrames.of(video) if analysis is None else analysis.source
    # lookahead, frame types, QP: an encoder's own or a guide's
    plan, motion, qp = guided(crf, guides or (), t, settings) if analysis is None else analysis.decided(crf, settings)
    dpb, features = encode_frames(source, plan, motion, qp, settings)
    out = yuv420_to_rgb(*dpb.output())[..., :h, :w].reshape(b, t, 3, h, w)  # colour
    types = ["".join(plan.types[i] for i in plan.shown[k * t : k * t + t]).upper() for k in range(b)]
    return out, torch.stack([features[i] for i in plan.shown]).view(b, t, -1) if settings.rate else None, types


@torch.no_grad()
def size_of(analysis: Analysis, crf: Tensor, settings: Settings) -> Tensor:
    """Bits of clips coded at the CRFs ``[B]``, as :func:`encode_video` counts them, without a picture and without a gradient."""
    source, settings = SourceFrames(*(x.detach() for x in (analysis.source.luma, analysis.source.chroma))), settings._replace(rate=True)
    plan, motion, qp = analysis.decided(crf, settings)
    features = encode_frames(source, plan, motion, qp, settings, pictures=False)[1]
    of_frames = bits.count(torch.stack([features[i] for i in plan.shown]), settings.constants.rate)
    return of_frames.view(len(crf), -1).sum(1)


def encode_frames(
    source: SourceFrames, plan: CodingPlan, motion: SearchedMotion | GuideMotion, qp: Tensor, settings: Settings, pictures: bool = True
) -> tuple[DecodedPictureBuffer, dict[int, Tensor]]:
    """Code the frames of a plan: decoded pictures, and rate features of each frame ``[6]`` by its number, none unless ``settings.rate``.

    Args:
        source, plan, settings: the frames and how they are coded.
        motion, qp: from the lookahead or from guides.
        pictures: whether every decoded picture is wanted, or only those that others refer to.
    """
    _, preset, constants, rate = settings
    dpb, features = DecodedPictureBuffer(plan, source.luma, isinstance(motion, SearchedMotion) and preset.subpel == 1), dict[int, Tensor]()
    direct = preset.direct and any(letter in "Bb" for letter in plan.types)
    referred = set(plan.references())
    for group in plan.groups(source, qp, preset.chroma_offset):
        intra = group.type == "I"
        p = predict_intra_frames(group, preset, constants) if intra else predict_inter_frames(group, dpb, motion, preset, constants, rate)
        luma, chroma, coded, counted = code_residual(group, p, settings)
        features |= dict(zip(group.frames, () if counted is None else counted.unbind()))
        if not pictures and referred.isdisjoint(group.frames):
            continue
        if preset.deblock:
            strengths = boundary_strengths(p.intra, coded, p.motion, p.transform_8x8)
            stronger = 2 * preset.deblock_offset  # indexes of tables 8-16 and 8-17 are QPs and offsets
            luma, chroma = deblock(luma, chroma, *strengths, group.qp.detach() + stronger, group.qpc.detach() + stronger)
        dpb.store(group.frames, luma, chroma)
        if direct:
            dpb.store_motion(group.frames, p.motion, p.intra)
    return dpb, features


def guided(crf: Tensor, guides: Sequence[Guide], frames: int, settings: Settings) -> tuple[CodingPlan, GuideMotion, Tensor]:
    """The same from a real encode; the CRF receives the gradient of the QPs."""
    plan = CodingPlan.of([Gop(g.types, references=max(1, settings.preset.references)) for g in guides], frames)
    of_frames = crf.repeat_interleave(frames)[:, None, None]
    qp = torch.cat([g.qp for g in guides]).to(crf) + (of_frames - of_frames.detach())
    return (
        plan,
        GuideMotion(plan, torch.cat([g.vectors for g in guides]).to(qp.device), torch.cat([g.used for g in guides]).to(qp.device)),
        qp,
    )


def code_residual(group: FrameGroup, p: Prediction, settings: Settings) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Reconstructed luma and chroma, 4x4 blocks that have coefficients, and rate features ``[N, 6]`` or None."""
    if p.skipped is not None:
        luma, chroma = without_residual(group, p.luma, p.chroma, p.skipped)
        group = group._replace(luma=luma, chroma=chroma)
    out = _code(group, p, group.qp, group.qpc, settings)
    if settings.rate and group.qp.requires_grad:
        out = (*out[:3], _features_by_qp(group, p, settings))
    return out


def _code(group: FrameGroup, p: Prediction, qp: Tensor, qpc: Tensor, settings: Settings) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    quant, rate = quantiser(settings.preset, settings.constants).numbers(), settings.rate
    luma, levels4, levels8, coded = code_luma(group.luma, p.luma, qp, p.intra, p.transform_8x8, p.intra16x16, quant, rate)
    chroma, levels_c = code_chroma(group.chroma, p.chroma, qpc, p.intra, quant, rate)
    if not rate:
        return luma, chroma, coded, None
    of_luma = levels4 + levels8 if settings.preset.transform8 else levels4  # one of them is 0 in every macroblock
    return luma, chroma, coded, bits.features([of_luma, levels_c], coded, p.side_bits, p.not_skipped)


def _features_by_qp(group: FrameGroup, p: Prediction, settings: Settings) -> Tensor:
    """Rate features whose gradient by QP is a finite difference: the same residual coded finer and coarser.

    Zeroed levels, blocks and macroblocks account for half of the bits that a higher QP saves, and have no gradient of their own.
    """

    def features(span: int) -> Tensor:
        out = _code(group, p, group.qp.detach() + span, group.qpc.detach() + span, settings)[3]
        assert out is not None
        return out

    own = features(0)
    with torch.no_grad():
        slope = (features(QP_SPAN) - features(-QP_SPAN)) / (2 * QP_SPAN)
    mean = group.qp.mean((1, 2))[:, None]
    return own + slope * (mean - mean.detach())
