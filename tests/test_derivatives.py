"""Derivatives of simulators against finite differences of real codecs."""

import dataclasses

import pytest
import torch
from helpers import natural
from torch import Tensor

import diffcodec as dc
from diffcodec import derivatives
from diffcodec.layer import Codec

CLIPS = [natural(1, 3, 48, 64, seed=s)[0] for s in range(2)]


class Known(Codec):
    """Halves the contrast around grey; bits are exp(sum of squares / 1000), so that ln(bits) is known."""

    images = True

    def __init__(self, wrong: float = 1.0) -> None:
        super().__init__()
        self.wrong = wrong

    def simulate(self, video: Tensor, draw: dict, rate: bool) -> tuple[Tensor, Tensor | None]:
        v = video * self.wrong + (video * (1 - self.wrong)).detach()  # the value as it is, the gradient times wrong
        ln = (v - 0.5).square().flatten(2).sum(2).sum(1, keepdim=True) / 1000
        return 0.5 + 0.5 * (v - 0.5), torch.cat([ln.exp(), torch.zeros(len(ln), video.shape[1] - 1)], 1) if rate else None


def test_a_codec_against_itself() -> None:
    d = derivatives.compare(CLIPS, Known(), Known())
    for slope in (*d.bits.values(), *d.distortion.values()):
        assert slope.ratio == pytest.approx(1, abs=1e-2)  # quadratic functions: central differences are exact
        assert slope.ratio_simulated == pytest.approx(1)
    assert d.bits["sharpen"].real > 0 > d.bits["blur"].real
    for c in d.cosine.values():
        assert c.gradient == c.identity == pytest.approx(1, abs=1e-4)
        assert c.simulated == pytest.approx(1)


def test_slopes_by_hand() -> None:
    x = torch.full((1, 3, 32, 32), 100 / 255)
    x[..., ::2] = 200 / 255
    e = derivatives.STEP
    detail = x - dc.GaussianBlur(1.0, kernel=7, over="space")(x[None])[0]
    high, low = (((x + s * e * detail) * 255).round() / 255 for s in (1, -1))
    ln = [(v - 0.5).square().sum().item() / 1000 for v in (high, low)]
    mse = [255**2 * (0.5 * (v - 0.5)).square().mean().item() for v in (high, low)]
    d = derivatives.compare([x], Known(), Known())
    assert d.bits["sharpen"].real == pytest.approx((ln[0] - ln[1]) / (2 * e), rel=1e-4)
    assert d.distortion["sharpen"].real == pytest.approx((mse[0] - mse[1]) / (2 * e), rel=1e-4)


def test_a_wrong_gradient_shows_and_the_simulators_difference_does_not() -> None:
    d = derivatives.compare(CLIPS, Known(wrong=0.5), Known())
    for slope in d.bits.values():
        assert slope.ratio == pytest.approx(0.5, abs=1e-2)
        assert slope.ratio_simulated == pytest.approx(1)
    backwards = derivatives.compare(CLIPS, Known(wrong=-1), Known())
    assert all(c.gradient == pytest.approx(-1, abs=1e-4) and c.simulated == pytest.approx(1) for c in backwards.cosine.values())


def test_what_is_missing_is_none() -> None:
    d = derivatives.compare(CLIPS[:1], dc.Identity(), dc.RealCodec(crf=27, gradient=None))
    assert all(s.gradient is None and s.simulated is None and s.real is not None and s.ratio is None for s in d.bits.values())
    assert all(s.ratio == 0 for s in d.distortion.values())
    assert all(c.gradient == c.identity for c in d.cosine.values())
    real = dc.RealCodec(crf=27, gradient=None)
    blind = derivatives.compare(CLIPS[:1], real, real)
    assert all(s.gradient is None and s.ratio_simulated == 1 for s in (*blind.bits.values(), *blind.distortion.values()))
    assert all(c.gradient is None and c.simulated == pytest.approx(1) for c in blind.cosine.values())


def test_directions_are_the_same_for_every_simulator() -> None:
    """A simulator that draws at random must not change the probes of the real codec."""
    real = dc.RealCodec(crf=27, gradient=None)
    a, b = (derivatives.compare(CLIPS, s, real, pairs=2) for s in (dc.Identity(), dc.DiffH264(model="revmark")))
    assert {k: s.real for k, s in a.bits.items()} == {k: s.real for k, s in b.bits.items()}
    assert {k: c.identity for k, c in a.cosine.items()} == {k: c.identity for k, c in b.cosine.items()}
    again = derivatives.compare(CLIPS, dc.Identity(), real, pairs=2)
    assert dataclasses.asdict(a) == dataclasses.asdict(again)


def test_our_simulators_know_where_a_signal_survives() -> None:
    stills = [natural(1, 1, 64, 64, seed=s)[0] for s in range(2)]
    d = derivatives.compare(stills, dc.DiffJPEG(30), dc.RealJPEG(30, gradient=None))
    assert set(d.cosine) == {"static"}
    assert d.cosine["static"].gradient > d.cosine["static"].identity
    assert all(s.ratio_simulated == pytest.approx(1, abs=0.05) for s in (d.bits["sharpen"], d.bits["blur"]))
    odd = derivatives.compare([natural(1, 2, 37, 50)[0]], dc.DiffH264(27), dc.RealCodec(crf=27))
    assert odd.cosine["changing"].gradient > odd.cosine["changing"].identity


def test_errors() -> None:
    with pytest.raises(ValueError, match="none"):
        derivatives.compare([], dc.Identity(), dc.Identity())
    with pytest.raises(TypeError, match="list"):
        derivatives.compare(torch.stack(CLIPS), dc.Identity(), dc.Identity())
