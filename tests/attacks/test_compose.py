"""Mixtures of layers."""

import pytest
import torch
from helpers import natural

import diffcodec as dc


def test_weights_are_kept() -> None:
    layer = dc.RandomDistortion([dc.Identity(), dc.Flip(1.0)], weights=[3, 1])
    g = torch.Generator().manual_seed(0)
    chosen = torch.tensor([layer.sample((1, 1, 3, 2, 2), g)["choice"][0] for _ in range(2000)]).float()
    assert 0.22 < chosen.mean() < 0.28
    per_sample = dc.RandomDistortion([dc.Identity(), dc.Flip(1.0)], weights=[3, 1], per="sample")
    choice = per_sample.sample((2000, 1, 3, 2, 2), g)["choice"]
    assert 440 < sum(choice) < 560


def test_mixture_per_sample_puts_samples_back_in_order() -> None:
    x = natural(8)
    layer = dc.RandomDistortion([dc.Identity(), dc.Flip(1.0)], per="sample")
    draw = layer.sample(x.shape, torch.Generator().manual_seed(0))
    y = layer(x, draw)
    flipped = [j for j, i in enumerate(draw["choice"]) if i == 1]
    assert 0 < len(flipped) < 8
    for i in range(8):
        assert torch.equal(y[i], x[i].flip(-1) if i in flipped else x[i])


def test_mixture_errors() -> None:
    with pytest.raises(ValueError, match="none"):
        dc.RandomDistortion([])
    with pytest.raises(TypeError, match="Linear"):
        dc.RandomDistortion([torch.nn.Linear(1, 1)])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="2 numbers, one a layer, got 1"):
        dc.RandomDistortion([dc.Identity(), dc.Flip()], weights=[1])
    with pytest.raises(ValueError, match="not all 0"):
        dc.RandomDistortion([dc.Identity()], weights=[0])
    with pytest.raises(ValueError, match="clip"):
        dc.RandomDistortion([dc.Identity()], per="clip")
    with pytest.raises(ValueError, match="must keep the shape"):
        dc.RandomDistortion([dc.Identity(), dc.FrameRate(0.5, keep_length=False)], per="sample")(
            natural(8), generator=torch.Generator().manual_seed(0)
        )
    with pytest.raises(ValueError, match="FrameDrop takes videos"):
        dc.RandomDistortion([dc.FrameDrop(), dc.Flip()])(torch.rand(1, 3, 4, 4))


def test_the_papers_layer() -> None:
    layer = dc.revmark_distortion()
    names = [type(v).__name__ for v in layer.layers]
    assert names == ["REVMarkH264", "FrameAverage", "FrameDrop", "FrameSwap", "RandomCrop", "GaussianNoise", "GaussianBlur"]
    assert layer.weights[0] == 0.86  # type: ignore[index]
    assert sum(layer.weights) == pytest.approx(1)  # type: ignore[arg-type]
    late = dc.revmark_distortion(start=3000)
    x = natural(1)
    assert torch.equal(late(x, step=2999), x)
    g = torch.Generator().manual_seed(0)
    assert not torch.equal(late(x, step=3000, generator=g), x)
    with pytest.raises(ValueError, match="step="):
        late(x)
    with pytest.raises(ValueError, match="1.5"):
        dc.revmark_distortion(codec_share=1.5)
    codec = dc.DiffJPEG(50)
    assert dc.revmark_distortion(codec).layers[0] is codec


def test_mixtures_pass_strengths_per_sample_and_nest() -> None:
    x = natural(6)
    q = torch.tensor([10.0, 90, 10, 90, 10, 90])
    layer = dc.RandomDistortion([dc.DiffJPEG(q), dc.Identity()], per="sample")
    draw = layer.sample(x.shape, torch.Generator().manual_seed(0))
    y = layer(x, draw)
    rows = [j for j, i in enumerate(draw["choice"]) if i == 0]
    for i in rows:
        torch.testing.assert_close(y[i], dc.DiffJPEG(q[i].item())(x[i : i + 1])[0])
    nested = dc.RandomDistortion([dc.RandomDistortion([dc.FrameDrop(1.0), dc.Flip()], per="sample"), dc.Identity()], per="sample")
    assert nested(x).shape == x.shape
    with pytest.raises(ValueError, match="videos"):
        nested(x[:, 0])


@pytest.mark.parametrize("per", ["batch", "sample"])
def test_x264_inside_a_mixture_is_what_it_is_alone(per: str) -> None:
    layer = dc.DiffH264(crf=25, gop="middle")
    mixture = dc.RandomDistortion([layer], per=per)
    x = natural(2, 8, 32, 48)
    draw = mixture.sample(x.shape, torch.Generator().manual_seed(0))
    torch.testing.assert_close(mixture(x, draw), layer(x, draw["parts"][0]))
