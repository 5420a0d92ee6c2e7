"""Fidelity and steering."""

import json
import math

import pytest
import scipy.stats
import torch
from helpers import natural
from torch import Tensor

import diffcodec as dc
from diffcodec import fidelity
from diffcodec.blocks import split
from diffcodec.transform import dct2

CLIPS = [natural(1, 4, 48, 64, seed=s)[0] for s in range(2)]


def nothing(x: Tensor) -> Tensor:
    return x


def test_probes_stay_in_their_band_at_their_strength() -> None:
    p = fidelity.probes(3, 32, 40, torch.Generator().manual_seed(0))
    assert p.shape == (10, 3, 3, 32, 40)
    torch.testing.assert_close(-10 * torch.log10(p.square().mean((2, 3, 4))), torch.full((10, 3), 37.5))
    assert torch.equal(p[:, :, 0], p[:, :, 2])
    u = torch.arange(8)
    index = u[:, None] + u
    for i, (low, high) in enumerate(fidelity.BANDS):
        energy = dct2(split(p[2 * i, 0, 0], 8)).square().sum((0, 1))
        assert energy[(index < low) | (index > high)].max() < 1e-9
        assert torch.equal(p[2 * i, 0], p[2 * i, 2])  # static
        assert not torch.equal(p[2 * i + 1, 0], p[2 * i + 1, 2])  # changing


def test_the_real_codec_as_its_own_simulator() -> None:
    real = dc.RealCodec(crf=27)
    f = fidelity.compare(CLIPS, real, real)
    assert f.survival_error == f.per_clip_survival_error == f.distortion_gap == 0
    assert f.skill == math.inf
    assert f.error_cosine == pytest.approx(1)
    assert f.rank_correlation == pytest.approx(1)
    assert f.rate_error == 0
    assert json.loads(f.to_json())["skill"] is None


def test_doing_nothing() -> None:
    f = fidelity.compare(CLIPS, nothing, dc.RealCodec(crf=27))
    g = list(f.survival_real.values())
    assert all(v == pytest.approx(1) for v in f.survival_simulated.values())
    assert f.survival_error == pytest.approx(sum(abs(1 - v) for v in g) / 10)
    assert f.distortion_gap == math.inf
    assert f.skill == 0
    assert math.isnan(f.error_cosine)
    assert f.bits_simulated is None
    assert f.rate_error is None
    read = json.loads(f.to_json())
    assert read["distortion_gap"] is None
    assert read["error_cosine"] is None
    assert read["clips"] == 2


def test_survival_of_a_known_codec() -> None:
    """A codec that halves everything lets half of every probe through."""
    clip = torch.full((3, 3, 32, 32), 0.5)
    m = fidelity.measure(lambda x: 0.5 * x, clip, torch.Generator().manual_seed(0))
    torch.testing.assert_close(m.survival, torch.full((10,), 0.5), atol=1e-4, rtol=0)


def test_lower_strength_survives_more() -> None:
    real = dc.RealCodec(crf=24)
    weak, strong = (fidelity.measure(real, CLIPS[0], torch.Generator().manual_seed(0), s).survival.mean() for s in (45.0, 30.0))
    assert strong > weak


def test_random_decisions_are_held_for_all_probes() -> None:
    """With another reference frame for every probe, survival would be noise."""
    f = fidelity.compare(CLIPS, dc.DiffH264(model="revmark"), dc.DiffH264(model="revmark"))
    assert f.survival_error == 0
    assert f.skill == math.inf
    assert abs(f.survival_simulated["0 static"] - 1) < 0.5


def test_figures_by_hand() -> None:
    x = torch.full((1, 3, 8, 8), 0.4)
    s, r = x.clone(), x.clone()
    s[:, 0] += 2 / 255
    r[:, 0] += 4 / 255
    r[:, 1] += 4 / 255
    ms, mr = (fidelity.Measured(fidelity.quantised(v), torch.full((10,), g), b) for v, g, b in ((s, 0.5, 90.0), (r, 0.2, 100.0)))
    f = fidelity.compare([x], [ms], [mr])
    assert f.survival_error == pytest.approx(0.3, abs=1e-6)
    assert f.psnr_simulated == pytest.approx(10 * math.log10(255**2 / (4 / 3)), abs=1e-3)
    assert f.psnr_real == pytest.approx(10 * math.log10(255**2 / (32 / 3)), abs=1e-3)
    assert f.distortion_gap == pytest.approx(10 * math.log10(8), abs=1e-3)
    assert f.skill == pytest.approx(10 * math.log10(32 / 20), abs=1e-3)
    assert f.error_cosine == pytest.approx(1 / math.sqrt(2), abs=1e-5)
    assert f.rate_error == pytest.approx(0.1)


def test_rate_agreement_is_scipys() -> None:
    g = torch.Generator().manual_seed(0)
    a = (torch.randint(1, 8, (30,), generator=g)).tolist()  # with ties
    b = (torch.randint(1, 8, (30,), generator=g)).tolist()
    rank, error = fidelity.rate_agreement(a, b)
    assert rank == pytest.approx(scipy.stats.spearmanr(a, b).statistic)
    assert error == pytest.approx(float(torch.tensor([abs(p - q) / q for p, q in zip(a, b)], dtype=torch.float64).quantile(0.5)))
    with pytest.raises(ValueError, match="2 and 1"):
        fidelity.rate_agreement([1, 2], [1])


def test_steering_through_nothing_gains_nothing() -> None:
    real = dc.RealCodec(crf=24)
    s = fidelity.steering(CLIPS[:1], nothing, real)
    assert s.static == pytest.approx(1, abs=1e-3)
    assert s.changing == pytest.approx(1, abs=1e-3)
    same = fidelity.steering(CLIPS[:1], dc.RealCodec(crf=24, gradient="identity"), real)
    assert same.static == pytest.approx(1, abs=1e-3)


def test_steering_through_a_codec_beats_steering_blind() -> None:
    x = [natural(1, 1, 64, 64)[0]]
    through = fidelity.steering(x, dc.DiffJPEG(25), dc.RealJPEG(25))
    assert through.static > 1.2
    bands = fidelity.steering(x, nothing, dc.RealJPEG(50), bands=fidelity.BANDS)
    assert bands.static == pytest.approx(1, abs=1e-3)


def test_errors() -> None:
    with pytest.raises(ValueError, match="none"):
        fidelity.compare([], nothing, nothing)
    m = fidelity.measure(nothing, CLIPS[0], torch.Generator())
    with pytest.raises(ValueError, match="2 clips, but 1 and 1"):
        fidelity.compare(CLIPS, [m], [m])


@pytest.mark.parametrize(
    ("clips", "error", "words"),
    [
        ([CLIPS[0] * 255], ValueError, "255"),
        ([(CLIPS[0] * 255).to(torch.uint8)], TypeError, "uint8"),
        (torch.stack(CLIPS), TypeError, "list"),
        ([CLIPS[0][0]], ValueError, "got shape"),
        ([], ValueError, "none"),
    ],
)
def test_clips_are_checked(clips: list[Tensor], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        fidelity.compare(clips, nothing, nothing)
    with pytest.raises(error, match=words):
        fidelity.steering(clips, nothing, nothing)


def test_steering_needs_a_gradient_and_a_sane_strength() -> None:
    with pytest.raises(ValueError, match="gradient='identity'"):
        fidelity.steering(CLIPS, dc.RealCodec(gradient=None), dc.RealCodec())
    with pytest.raises(ValueError, match="200"):
        fidelity.steering(CLIPS, nothing, nothing, strength=200)


def test_an_unchanged_clip_does_not_spoil_the_cosine() -> None:
    black = torch.zeros_like(CLIPS[0])
    real = dc.RealJPEG(50)
    assert fidelity.compare([CLIPS[0], black], real, real).error_cosine == pytest.approx(1)


def test_chroma_probes_leave_luma_alone() -> None:
    p = fidelity.chroma_probes(3, 31, 40, torch.Generator().manual_seed(0))
    assert p.shape == (8, 3, 3, 31, 40)
    torch.testing.assert_close(-10 * torch.log10(p.square().mean((2, 3, 4))), torch.full((8, 3), 37.5))
    assert dc.color.luma(p).abs().max() < 1e-6
    ycc = dc.color.rgb_to_ycbcr(0.5 + p) - 128
    assert ycc[:4, :, 2].abs().max() < 1e-3 < ycc[:4, :, 1].abs().max()  # Cb, and no Cr
    assert ycc[4:, :, 1].abs().max() < 1e-3 < ycc[4:, :, 2].abs().max()
    assert torch.equal(p[..., 0:30:2, ::2], p[..., 1:31:2, 1::2])  # one value for 2 x 2 pixels
    for i, name in enumerate(fidelity.CHROMA_PROBES):
        assert torch.equal(p[i, 0], p[i, 2]) == name.endswith("static")


def test_chroma_has_a_survival_error_of_its_own() -> None:
    """A codec that drops colour keeps every grey probe."""

    def grey(video: Tensor) -> Tensor:
        return dc.color.luma(video)[:, :, None].expand_as(video)

    flat = [torch.full((2, 3, 32, 32), 0.5)]
    f = fidelity.compare(flat, grey, nothing)
    assert f.survival_error < 1e-5
    assert f.chroma_survival_error == pytest.approx(1, abs=0.02)  # rounding to 8 bits leaves a little luma
    assert set(f.chroma_survival_real) == set(fidelity.CHROMA_PROBES)
    real = dc.RealCodec(crf=20)
    close = fidelity.compare(CLIPS, dc.DiffH264(20), real)
    assert close.chroma_survival_error < 0.1 < fidelity.compare(CLIPS, nothing, real).chroma_survival_error


def test_random_decisions_do_not_change_the_chroma_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    made = fidelity.chroma_probes
    monkeypatch.setattr(fidelity, "chroma_probes", lambda *a, **k: given.append(made(*a, **k)) or given[-1])
    for codec in (nothing, dc.DiffH264(model="revmark"), dc.GaussianNoise(0.1)):
        fidelity.measure(codec, CLIPS[0], torch.Generator().manual_seed(3))
    assert torch.equal(given[0], given[1])
    assert torch.equal(given[0], given[2])


def test_figures_of_luma_alone() -> None:
    x = torch.full((1, 3, 8, 8), 100 / 255)
    s, r = x.clone(), x.clone()
    s[:, 2] += 20 / 255  # blue: .114 of luma
    r[:, 1] += 2 / 255
    ms, mr = (fidelity.Measured(v, torch.zeros(10), None) for v in (s, r))
    f = fidelity.compare([x], [ms], [mr])
    assert f.luma_psnr_simulated == pytest.approx(-20 * math.log10(219 / 255 * 0.114 * 20 / 255), abs=1e-3)
    assert f.luma_psnr_real == pytest.approx(-20 * math.log10(219 / 255 * 0.587 * 2 / 255), abs=1e-3)
    assert f.luma_distortion_gap == pytest.approx(abs(f.luma_psnr_simulated - f.luma_psnr_real), abs=1e-4)
    assert f.distortion_gap > 15 > f.luma_distortion_gap
    assert f.chroma_survival_error is None
