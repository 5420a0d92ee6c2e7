"""Fused kernels of the parts of H.264 against their twins in torch: in Triton's interpreter where there is no GPU, else on the GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from conftest import natural
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import diffcodec as dc
from diffcodec import kernels
from diffcodec.h264 import deblock, decide, inter, intra, rate_control, residual
from diffcodec.h264.habits import PRESETS, constants_of
from diffcodec.h264.lookahead import Lookahead

pytest.importorskip("triton")
pytestmark = pytest.mark.usefixtures("poisoned")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = [(1, 16, 16), (2, 48, 32)]
MEDIUM = PRESETS["medium"]
HABITS = {"SATD": MEDIUM, "SAD": PRESETS["superfast"], "no 8x8 transform": dataclasses.replace(MEDIUM, transform8=False)}


def planes(n: int, h: int, w: int, seed: int = 0, grain: float = 8) -> Tensor:
    """Moving luma with some grain, whole numbers."""
    g = torch.Generator().manual_seed(seed)
    smooth = natural(1, n, h, w, seed)[0].mean(1) * 255
    return (smooth + grain * torch.randn(n, h, w, generator=g)).round().clamp(0, 255).to(DEVICE)


def of_macroblocks(n: int, h: int, w: int, chance: float) -> Tensor:
    return torch.rand(n, h // 16, w // 16, device=DEVICE) < chance


def whole(low: int, high: int, *shape: int) -> Tensor:
    return torch.randint(low, high, shape, device=DEVICE)


def both(call: Callable[..., Any], *inputs: Tensor) -> list[list[Tensor]]:
    """What a part returns, and gradients of the inputs, by reference and by kernel."""
    found = []
    for backend in ("reference", "triton"):
        leaves = [x.clone().requires_grad_() for x in inputs]
        with kernels.using(backend):
            out = call(*leaves)
        outs: Sequence[Tensor] = [out] if isinstance(out, Tensor) else out
        torch.manual_seed(3)
        loss = sum(
            ((o.float() * torch.randn(o.shape, device=DEVICE)).sum() for o in outs if o.requires_grad), torch.zeros((), device=DEVICE)
        )
        grads = torch.autograd.grad(loss, leaves) if inputs else ()
        found.append([*(o.detach() for o in outs), *grads])
    return found


def same(found: list[list[Tensor]], outs: int, relative: float = 2e-6, differ: float = 0.0) -> None:
    """Equal values, but for a share of ``differ``, and gradients that are close."""
    if DEVICE == "cuda":  # logarithms and sums of its own: where two costs tie to the last bit the other one may win
        relative, differ = max(relative, 2e-3), max(differ, 5e-3)
    reference, fused = found
    assert len(reference) == len(fused)
    for i, (a, b) in enumerate(zip(reference, fused)):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        if i < outs:
            assert (a != b).float().mean() <= differ
        else:
            assert torch.isfinite(b).all()
            assert a.norm() > 0
            assert (a - b).norm() <= relative * a.norm()


# Colour


@pytest.mark.parametrize("size", [(1, 2, 2), (2, 16, 36)], ids=str)
def test_colour(size: tuple[int, int, int]) -> None:
    n, h, w = size
    rgb = torch.rand(n, 3, h, w, device=DEVICE) * 1.2 - 0.1
    same(both(dc.color.rgb_to_yuv420, rgb), 2)
    luma, chroma = whole(0, 256, n, h, w).float(), whole(0, 256, n, 2, h // 2, w // 2).float()
    same(both(dc.color.yuv420_to_rgb, luma, chroma), 1)


# Loop filter


def edges(n: int, h: int, w: int) -> tuple[Tensor, Tensor]:
    """Strengths as they come: 4 at macroblocks' edges only, 0 at the picture's."""
    out = []
    for dim in (2, 1):
        bs = whole(0, 5, n, h // 4, w // 4).float()
        place = torch.arange(bs.shape[dim], device=DEVICE)
        place = place if dim == 2 else place[:, None]
        out.append(torch.where(place % 4 == 0, bs, bs.clamp(max=3)) * (place > 0))
    return out[0], out[1]


@pytest.mark.parametrize("size", [(2, 16, 16), (1, 32, 48)], ids=str)
def test_deblocking(size: tuple[int, int, int]) -> None:
    n, h, w = size
    luma, chroma = planes(n, h, w, 0, 3), planes(2 * n, h // 2, w // 2, 1, 3).view(n, 2, h // 2, w // 2)
    bs, qp = edges(*size), whole(22, 50, n, h // 16, w // 16).float()
    found = both(lambda y, c: deblock.deblock(y, c, bs, qp, qp - 3), luma, chroma)
    assert (found[0][0] != luma).float().mean() > 0.05
    same(found, 2)


def test_strengths() -> None:
    n, h, w = 2, 48, 32
    motion = whole(-3, 3, n, h // 8, w // 8, 6).float()
    motion[..., [2, 5]] = (motion[..., [2, 5]] > 0).float()
    some = torch.rand(n, h // 4, w // 4, device=DEVICE) < 0.2
    masks = of_macroblocks(n, h, w, 0.3), of_macroblocks(n, h, w, 0.4)
    found = both(lambda: deblock.strengths(masks[0], some, motion, masks[1]))
    assert set(found[0][0].unique().tolist()) == {0, 1, 2, 3, 4}
    same(found, 2)


# Inter prediction


def test_quarter_pel_planes() -> None:
    x = torch.cat([planes(1, 32, 16), 255.0 * whole(0, 2, 1, 32, 16)])  # the second one makes filters clip
    found = both(lambda: inter.quarter_pel(x))
    assert found[0][0].dtype == torch.uint8
    same(found, 1)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_prediction(size: tuple[int, int, int]) -> None:
    n, h, w = size
    references = torch.cat([planes(n, h, w)[:1], 255.0 * whole(0, 2, 1, h, w)])
    with kernels.using("reference"):
        phases = inter.quarter_pel(references).flip(0)
    vectors, which = whole(-150, 150, n, h // 8, w // 8, 2), whole(0, 2, n, h // 8, w // 8)
    vectors[0, 0, :2] = 0
    same(both(lambda a: inter.predict_luma(phases, 1 - which, list(a), which, vectors, 8), references), 1)
    same(both(lambda: inter.fetch_luma(phases, which, vectors.expand(3, -1, -1, -1, -1), 8)), 1)
    colour = planes(4, h // 2, w // 2, 2).view(2, 2, h // 2, w // 2)
    same(both(lambda c: inter.fetch_chroma(c, which, vectors, 4), colour), 1)


@pytest.mark.parametrize("k", [8, 16])
@pytest.mark.parametrize(("fine", "subpel", "rounds"), [(True, 4, 1), (False, 2, 2), (False, 1, 1)])
def test_search(k: int, fine: bool, subpel: int, rounds: int) -> None:
    n, h, w = 2, 48, 32
    x = planes(4, h, w)
    with kernels.using("reference"):
        phases = inter.quarter_pel(x[2:])
    shape = (n, h // k, w // k)
    start = [whole(-16, 17, *shape, 2) * i for i in range(3)]
    lam, which = 4 * torch.rand(shape, device=DEVICE), whole(0, 2, *shape)
    found = both(lambda: inter.refine(phases, which, x[:2], start, start[1], lam, k, subpel, fine, rounds))
    assert (found[0][0] - start[0]).abs().max() > 0
    same(found, 1)
    torch.testing.assert_close(found[1][1], found[0][1], atol=1e-2, rtol=0)


def test_full_search() -> None:
    x = planes(4, 32, 40)
    same(both(lambda: inter.whole_search(x[:2], x[2:], 8, 8)), 1)


@pytest.mark.parametrize("name", ["medium", "superfast", "ultrafast"])
def test_vectors_and_partitions(name: str) -> None:
    x, habits = planes(4, 48, 32), dataclasses.replace(PRESETS[name], partitions=name != "ultrafast")
    with kernels.using("reference"):
        phases = inter.quarter_pel(x[2:])
    lam, coarse, which = 0.5 * torch.ones(2, 3, 2, device=DEVICE), 4 * whole(-2, 3, 2, 3, 2, 2), whole(0, 2, 2, 3, 2)
    found = both(lambda: decide.vectors(x[:2], phases, which, coarse, lam, habits))
    if habits.partitions:
        assert (found[0][0][:, ::2] != found[0][0][:, 1::2]).any()  # some macroblocks are divided
    same(found, 1)


@pytest.mark.parametrize("name", ["medium", "ultrafast"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_direction_of_b_frames(size: tuple[int, int, int], name: str) -> None:
    n, h, w = size
    source, noise = planes(*size), planes(2 * n, h, w, 1).view(2, n, h, w)
    past, future = (inter.blocks((source + 0.1 * (o - source)).round(), 8) for o in noise)
    fields = [whole(-3, 4, n, h // 8, w // 8, 2) for _ in range(2)]
    lam = torch.rand(n, h // 16, w // 16, device=DEVICE)
    found = both(lambda: decide.direction(source, past, future, fields, lam, PRESETS[name]))
    assert n == 1 or len(found[0][0].unique()) == 3
    same(found, 1)
    same(both(lambda: inter.median_predictor(fields[0])), 1)
    which = whole(0, 3, n, h // 8, w // 8)
    same(both(lambda a, b: inter.mix(a, b, which), past, future), 1)
    same(both(lambda a, b: inter.mix(a, b, which), past.unflatten(-1, (2, 32)), future.unflatten(-1, (2, 32))), 1)


@pytest.mark.parametrize("lists", [1, 2])
def test_motion_for_the_loop_filter(lists: int) -> None:
    shape = (2, 6, 4)
    fields, names = [whole(-9, 9, *shape, 2) for _ in range(lists)], [whole(0, 5, *shape) for _ in range(lists)]
    uses = [whole(0, 2, *shape) > 0 for _ in range(lists)]
    same(both(lambda: inter.motion(fields, uses, names)), 1)


# Residual


@pytest.mark.parametrize("name", HABITS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_weight_of_residuals(size: tuple[int, int, int], name: str) -> None:
    source, predicted = planes(*size), planes(*size, 1, 20)
    found = both(lambda: decide.weigh_residual(source, predicted, HABITS[name]))
    assert found[0][1].any() == HABITS[name].transform8
    same(found, 2)


@pytest.mark.parametrize("levels", [False, True], ids=["", "levels"])
@pytest.mark.parametrize("name", ["medium", "veryfast"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_residual(size: tuple[int, int, int], name: str, levels: bool) -> None:
    n, h, w = size
    source, predicted = planes(n, h, w), planes(n, h, w, 1)
    predicted = (source + 0.15 * (predicted - source)).round()
    qp = whole(16, 36, n, h // 16, w // 16).float()
    is_intra, use8 = of_macroblocks(*size, 0.6), of_macroblocks(*size, 0.3)
    is_intra[0, 0, 0], use8[0, 0, 0] = True, False
    large = is_intra & ~use8 & of_macroblocks(*size, 0.5)
    large[0, 0, 0] = True
    prefer = constants_of(PRESETS[name]).prefer

    def luma(s: Tensor, p: Tensor, q: Tensor) -> list[Tensor]:
        found = residual.code_luma(s, p, q, is_intra, use8, large, prefer, levels)
        return [found.decoded, found.coded, *([found.four, found.eight] if levels else [])]

    def chroma(s: Tensor, p: Tensor, q: Tensor) -> list[Tensor]:
        return list(residual.code_chroma(s, p, q, is_intra, prefer, levels)[: 1 + levels])

    # a decision of the trellis that two costs nearly tie for may fall the other way: the gradient sees it
    close = 2e-6 if prefer.trellis is None else 5e-3
    found = both(luma, source, predicted, qp)
    assert found[0][1].any()
    same(found, 2 + 2 * levels, close, 1e-3)
    of_colour = [x[:, : h // 2, : w // 2].unsqueeze(1).repeat(1, 2, 1, 1) for x in (source, predicted)]
    same(both(chroma, *of_colour, qp), 1 + levels, close, 1e-3)


def test_quantisers_that_settle() -> None:
    qp, frame = whole(22, 26, 3, 4, 5).float(), whole(22, 26, 3).float()
    found = both(lambda: rate_control.settled(qp, frame))
    assert (found[0][0] != qp).any()
    same(found, 1)


# Intra prediction


@pytest.mark.parametrize("name", HABITS)
def test_choice_of_modes(name: str) -> None:
    source, around = planes(2, 48, 32), planes(2, 48, 32, 5)
    around = (source + 0.1 * (around - source)).round()
    lam, habits = 5 * torch.rand(2, 3, 2, device=DEVICE), HABITS[name]
    with kernels.using("reference"):
        before = decide.choose_intra(source, around, lam, habits)

    def choose(known: decide.Intra | None) -> list[Tensor]:
        found = decide.choose_intra(source, around, lam, habits, known)
        return [found.kind, (10 * found.bits).round(), *found.modes]

    assert len(before.modes[-1].unique()) > 3
    same(both(lambda: choose(None)), 5)
    same(both(lambda: choose(before)), 5)
    if habits.rate_distortion:
        qp, prefer = whole(18, 34, 2, 3, 2).float(), constants_of(habits).prefer

        def priced() -> list[Tensor]:
            found = decide.choose_intra(source, around, lam, habits, before, prefer, qp)
            return [found.kind, (10 * found.bits).round()]

        found = both(priced)
        assert len(found[0][0].unique()) > 1
        same(found, 2)
    colour = [x[:, None, ::2, ::2].repeat(1, 2, 1, 1).contiguous() for x in (source, around)]
    same(both(lambda: decide.choose_chroma(*colour, lam, habits)), 1)


def usable_modes(count: int, usable: Tensor, n: int, otherwise: int) -> Tensor:
    """At random. Shape: ``[M, modes] -> [N, M]``."""
    mode = whole(0, count, n, len(usable))
    return torch.where(usable[torch.arange(len(usable), device=DEVICE), mode], mode, otherwise)


def test_intra_prediction() -> None:
    around = planes(2, 48, 32)
    around[1] = 255.0 * whole(0, 2, 48, 32)  # makes the plane mode clip
    with kernels.using("reference"):
        usable = [intra.predict_large(around)[1], intra.predict_all(around, 8)[1], intra.predict_all(around, 4)[1]]
        usable_chroma = intra.predict_chroma(around[:, :24, :16])[1]
    modes = tuple(usable_modes(u.shape[1], u, 2, 2) for u in usable)
    nothing = torch.zeros(2, 3, 2, device=DEVICE)
    found = decide.Intra(whole(0, 3, 2, 3, 2), nothing, nothing, modes)
    same(both(lambda x: decide.predict_intra(x, found), around), 1)
    alone = decide.Intra(torch.zeros_like(found.kind), nothing, nothing, modes[:1])
    same(both(lambda x: decide.predict_intra(x, alone), around), 1)
    mode = usable_modes(4, usable_chroma, 2, 0)
    same(both(lambda x: decide.predict_chroma(x, mode), around.view(2, 2, 24, 32)[..., :16].contiguous()), 1)


# The contract of operators, and the whole


def test_operators_keep_the_compilers_contract() -> None:
    ops, size = torch.ops.diffcodec, (1, 16, 16)
    x, y = planes(*size).requires_grad_(), planes(*size, 1).requires_grad_()
    qp = torch.full((1, 1, 1), 28.0, device=DEVICE, requires_grad=True)
    no, yes = of_macroblocks(*size, 0.0), of_macroblocks(*size, 2.0)
    numbers = constants_of(MEDIUM).prefer.numbers()
    phases, block = ops.quarter_pel(x.detach()), torch.zeros(1, 2, 2, dtype=torch.long, device=DEVICE)
    vectors = whole(-9, 9, 1, 2, 2, 2)
    colour = planes(2, 8, 8).view(1, 2, 8, 8).requires_grad_()
    check: Callable[..., Any] = torch.library.opcheck
    check(ops.rgb_to_yuv420.default, (x.detach()[None].repeat(1, 3, 1, 1).requires_grad_(),))
    check(ops.yuv420_to_rgb.default, (x, colour))
    check(ops.quarter_pel.default, (x.detach(),))
    check(ops.predict_luma.default, (x, phases, block, block, vectors, 8))
    check(ops.half_resolution.default, (x.detach(),))
    check(ops.weigh_residual.default, (x.detach(), y.detach()))
    check(ops.motion.default, ([vectors], [block > 0], [block]))
    check(ops.fetch_luma.default, (phases, block, vectors, 8))
    check(ops.fetch_chroma.default, (colour, block, vectors, 4))
    check(ops.whole_search.default, (x.detach(), y.detach(), 2, 8))
    lam, one = torch.ones(1, 2, 2, device=DEVICE), vectors[:, :1, :1]
    check(ops.refine.default, (phases, block, x.detach(), vectors[None], vectors, lam, 8, 1, False, 0))
    check(ops.vectors.default, (x.detach(), phases, block[:, :1, :1], one, lam[:, :1, :1], 1, False, True))
    check(ops.look.default, (x.detach(), y.detach(), phases, block[:, :1, :1], 2, 1, False))
    check(ops.median_predictor.default, (vectors,))
    rows = inter.blocks(x.detach(), 8).requires_grad_()
    check(ops.direction.default, (x.detach(), rows.detach(), rows.detach(), vectors, vectors, lam[:, :1, :1], False))
    check(ops.mix.default, (rows, rows.detach().flip(1).requires_grad_(), block))
    check(ops.deblock.default, (x, colour, *edges(*size), qp.detach(), qp.detach()))
    check(ops.deblock_strengths.default, (no, torch.zeros(1, 4, 4, dtype=torch.bool, device=DEVICE), lam.new_zeros(1, 2, 2, 6), no))
    check(ops.settle.default, (qp.detach(), qp.detach()[:, 0, 0]))
    check(ops.code_luma.default, (x, y, qp, yes, no, no, numbers, True))
    check(ops.code_chroma.default, (colour, colour.detach().flip(1).requires_grad_(), qp, yes, numbers, True))
    mode = torch.full((1, 1), 2, device=DEVICE)
    check(ops.predict_intra.default, (x, [mode], None))
    small, one = lam[:, :1, :1], torch.ones(9, device=DEVICE)
    check(ops.cheapest_intra.default, (x.detach(), y.detach(), small, one[:4], None, None, 16))
    check(ops.choose_intra.default, (x.detach(), y.detach(), small, one[:4], one, [], [], True))
    modes, numbers = [torch.full((1, m), 2, device=DEVICE) for m in (1, 4, 16)], constants_of(PRESETS["veryfast"]).prefer.numbers()
    check(ops.price_intra.default, (x.detach(), y.detach(), modes, qp.detach(), small, torch.ones(3, 1, 1, 1, device=DEVICE), numbers))


@pytest.mark.parametrize("quick", [False, True], ids=["SATD", "SAD"])
def test_lookahead(quick: bool) -> None:
    luma, pairs = planes(3, 48, 32), [(1, 0), (2, 0), (1, 2)]

    def look() -> list[Tensor]:
        ahead = Lookahead(luma, quick)
        ahead.both([(1, 0, 2)])
        ahead.search(pairs)
        cost, vectors = ahead.one.of(pairs)
        cost_of_two, share = ahead.two.of([(1, 0, 2)])
        return [ahead.small, ahead.phases, vectors, share, *((16 * c).round() for c in (ahead.intra, cost, cost_of_two))]

    same(both(look), 7)


def test_frame_types() -> None:
    luma = planes(4, 32, 32)
    types = []
    for backend in ("reference", "triton"):
        with kernels.using(backend):
            types.append(Lookahead(luma).types([range(4)], 3))
    assert types[0] == types[1]


@pytest.mark.parametrize(("preset", "frames", "dtype"), [("medium", 3, torch.float32), ("ultrafast", 2, torch.bfloat16)], ids=str)
def test_whole_codec(preset: str, frames: int, dtype: torch.dtype) -> None:
    video = natural(1, frames, 20, 30).to(DEVICE, dtype)
    found = []
    for backend in ("reference", "triton"):
        layer = dc.DiffH264(24, preset, backend=backend)
        draw = layer.sample(video.shape, torch.Generator().manual_seed(1), device=video.device)
        x = video.clone().requires_grad_()
        coded = layer.encode(x, draw)
        torch.manual_seed(2)
        loss = (coded.video.float() * torch.randn(video.shape, device=DEVICE)).sum() + 1e-3 * coded.bits.sum()
        found.append((coded.video.detach(), coded.frame_bits.detach(), torch.autograd.grad(loss, x)[0]))
    (a, bits, g), (b, fused_bits, h) = found
    assert b.dtype == h.dtype == dtype
    if DEVICE == "cuda":  # one decision that falls the other way changes what follows
        noise = [(v.float() - video.float()).square().mean() for v in (a, b)]
        torch.testing.assert_close(noise[1], noise[0], rtol=0.05, atol=0)
        torch.testing.assert_close(fused_bits, bits, rtol=0.1, atol=10)
        torch.testing.assert_close(h.float().norm(), g.float().norm(), rtol=0.1, atol=0)
        return
    assert (a != b).float().mean() < 1e-2
    torch.testing.assert_close(fused_bits, bits, rtol=1e-2, atol=1)
    assert (g - h).float().norm() < 0.02 * g.float().norm()


def test_gradient_of_the_real_codec() -> None:
    pytest.importorskip("av")
    video, grads = natural(1, 4, 32, 48).to(DEVICE), []
    for backend in ("reference", "triton"):
        x = video.clone().requires_grad_()
        out = dc.RealCodec(crf=24, gradient=dc.DiffH264(24, backend=backend))(x)
        torch.manual_seed(2)
        grads.append(torch.autograd.grad((out * torch.randn(video.shape, device=DEVICE)).sum(), x)[0])
    assert (grads[0] - grads[1]).norm() < (0.02 if DEVICE == "cpu" else 0.3) * grads[0].norm()


@pytest.mark.parametrize("preset", ["medium", "ultrafast"])
def test_nothing_waits_for_a_gpu(preset: str) -> None:
    """Where frame types are given, values are never asked for: fake tensors have none."""
    types = "IPBbPP" if preset == "medium" else "IPPPPP"
    layer = dc.DiffH264(24, preset, gop=dc.h264.Gop(types), backend="triton")
    draw = layer.sample((2, 6, 3, 32, 48), torch.Generator().manual_seed(0))
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        video = torch.rand(2, 6, 3, 32, 48, requires_grad=True)
        out = layer.simulate(video, {**draw, "crf": fake.from_tensor(draw["crf"])}, True)[0]
        (grad,) = torch.autograd.grad(out.sum(), video)
    assert out.shape == grad.shape == video.shape


def test_a_backend_that_cannot_run_says_why() -> None:
    with pytest.raises(ValueError, match="unknown backend 'cuda'"):
        dc.DiffH264(backend="cuda")
    with pytest.raises(RuntimeError, match="float64"):
        dc.DiffH264(backend="triton")(natural(1, 1, 16, 16).to(DEVICE).double())
    with pytest.raises(TypeError, match="backend='triton'"):
        dc.DiffH264(model="revmark", backend="triton")
