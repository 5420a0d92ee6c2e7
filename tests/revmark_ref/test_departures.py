"""The manual's list of departures from the paper says what the code does."""

from pathlib import Path

import pytest
import torch
from torch import nn

import diffcodec as dc
from revmark_ref import data
from revmark_ref.blocks import TAsBlock, inverse
from revmark_ref.config import PRESETS
from revmark_ref.distortion import ATTACKS, Distortion
from revmark_ref.model import Detector, Discriminator

ROOT = Path(__file__).parents[2]
PAPER = PRESETS["paper"]


@pytest.fixture(scope="module")
def listed() -> dict[str, str]:
    """Lines of the list by what stands in italics before the colon."""
    text = (ROOT / "docs" / "revmark.rst").read_text().split("Departures from the paper\n", 1)[1].split("\nEvaluate\n", 1)[0]
    lines = [" ".join(line.split()) for line in text.split("\n- ")[1:]]
    return {line.split("*")[1]: line for line in lines if line.startswith("*")}


def test_every_section_of_the_paper_has_its_departures(listed: dict[str, str]) -> None:
    assert {name.split(",")[0] for name in listed} == {"3.1", "3.2", "3.3", "3.5", "3.6", "4.1", "4.5", "4.6", "A.2"}


def test_motion(listed: dict[str, str]) -> None:
    assert "bilinear" in listed["3.1, warping"]
    assert "one fixed-point step" in listed["3.1, warping"]
    flow = torch.zeros(1, 2, 8, 8)
    flow[:, 0] = torch.arange(8) / 4
    assert not torch.equal(inverse(flow), -flow)  # one step from -u, which is not the inverse either
    assert "without gradient" in listed["3.1, flow"]
    seen: list[bool] = []

    def motion(current: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        seen.append(torch.is_grad_enabled() or current.requires_grad or reference.requires_grad)
        return torch.full((len(current), 2, *current.shape[-2:]), 0.5)

    clip = torch.rand(1, 3, 8, 16, 16, requires_grad=True)
    TAsBlock(motion)(clip).sum().backward()
    layer = dc.DiffH264(model="revmark", motion=motion)
    layer(clip.transpose(1, 2)).sum().backward()
    assert seen == [False, False]
    own = Distortion(PAPER.training).codecs["revmark"]
    assert (own.flow_from, own.flow_gradient) == ("reconstructed", False)
    for words in ("from the reconstructed reference frame", "without gradient through the estimator", "keeps its full range"):
        assert words in listed["3.3, eqs. (7) and (8)"]


def test_distortions(listed: dict[str, str]) -> None:
    assert ATTACKS["crop"].mode == "zero"
    assert "in place on black" in listed["3.3, other attacks"]
    assert PAPER.training.stage(0) is None
    video = torch.full((1, 8, 3, 16, 16), 0.5)
    video[..., ::4, ::4] = 1.04  # as the residual leaves it
    for layer in (*ATTACKS.values(), *Distortion(PAPER.training).codecs.values()):
        wide = video.clone().requires_grad_()
        out = layer(wide)  # type: ignore[operator]
        assert out.max() <= 1
        (gradient,) = torch.autograd.grad(out.sum(), wide)
        assert gradient[..., ::4, ::4].abs().sum() > 0
    assert "clamped to [0, 1]" in listed["3.3, clamping"]


def test_losses_and_data(listed: dict[str, str]) -> None:
    widths = [m.out_channels for m in Discriminator().net if isinstance(m, nn.Conv3d)]
    assert len(widths) == 5
    assert f"({', '.join(map(str, widths[:-1]))})" in listed["3.5, discriminator"]
    first = next(s for s in range(10000) if PAPER.training.at("adversarial_weight", s + 1) > 0)
    assert f"before step {first}" in listed["3.5, discriminator"]
    assert f"first {data._LONGEST} frames" in listed["4.1, data"]
    assert f"short side of {data._SHORT_SIDE} pixels" in listed["4.1, data"]
    assert f"norm of {PAPER.training.clip_gradient:g} " in listed["4.1, optimisation"]
    clip = torch.zeros(8, 3, 16, 16, dtype=torch.uint8)
    clip[:, 0] = torch.arange(8, dtype=torch.uint8)[:, None, None]  # by time
    clip[:, 1] = torch.arange(16, dtype=torch.uint8)  # by column
    clips = data.TrainingClips([data.Video("a", "0", clip)], 8, (16, 16))
    drawn = [clips[k][0] for k in range(400)]
    shares = [sum(bool(c[0, i, 0, 0] > c[-1, i, -1, -1]) for c in drawn) / len(drawn) for i in (0, 1)]
    assert shares == [pytest.approx(0.25, abs=0.08), pytest.approx(0.5, abs=0.08)]
    assert "half are mirrored, a quarter reversed in time" in listed["4.1, data"]


def test_detector(listed: dict[str, str]) -> None:
    convs = [m for m in Detector().net if isinstance(m, nn.Conv2d)]
    assert len(convs) == 8
    assert sum(m.dilation != (1, 1) for m in convs) == 2
    assert "two of its eight convolutions are dilated" in listed["A.2, detector"]
    detector = Detector()
    dark, light = (detector(torch.full((1, 3, 32, 32), v)) for v in (0.25, 0.75))
    assert torch.allclose(dark, light, atol=1e-5)  # only differences from the neighbourhood enter
    assert "high-passed (16 times the difference from the mean of 5 x 5 pixels" in listed["A.2, detector"]
