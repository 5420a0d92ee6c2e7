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
    with pytest.raises(ValueError, match="2 numbers, one per layer, got 1"):
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


def test_layers_one_after_the_other() -> None:
    x = natural(2, 6)
    first, second = dc.FrameRate(0.5, keep_length=False), dc.GaussianNoise((0.0, 0.1))
    layer = dc.Compose([first, torch.nn.Identity(), second])
    draw = layer.sample(x.shape, torch.Generator().manual_seed(0))
    assert draw["parts"][2]["noise"].shape == (2, 3, 3, *x.shape[-2:])  # at the shape that reaches it
    assert torch.equal(layer(x, draw), second(first(x, draw["parts"][0]), draw["parts"][2]))
    assert layer(x).shape == (2, 3, *x.shape[2:])
    nested = dc.Compose([dc.RandomDistortion([layer]), dc.Flip()])
    assert nested(x).shape == (2, 3, *x.shape[2:])


def test_a_call_names_strengths_of_layers_inside() -> None:
    x = natural(2)
    layer = dc.Compose([dc.DiffJPEG((20, 90)), dc.RandomDistortion([dc.DiffJPEG(50), dc.GaussianNoise(0.1)], [1, 0])])
    assert torch.equal(layer(x, quality=30), dc.DiffJPEG(30)(dc.DiffJPEG(30)(x)))
    assert torch.equal(layer(x, quality=[30, 60])[1:], dc.DiffJPEG(60)(dc.DiffJPEG(60)(x[1:])))
    draw = layer.sample(x.shape, sigma=0.0, quality=[30, 60])
    assert draw["parts"][0]["quality"].tolist() == [30, 60]
    with pytest.raises(TypeError, match="Compose got an unexpected crf=3; its strengths are quality, sigma"):
        layer(x, crf=3)
    with pytest.raises(TypeError, match=r"RandomDistortion got an unexpected before=a tensor of shape \(2, 8, 3, 32, 32\)"):
        dc.RandomDistortion([dc.DiffH264()])(x, before=torch.zeros(2, 8, 3, 32, 32))
    with pytest.raises(ValueError, match=r"RandomCrop: p expected to lie in \[0.001, 1\], got 0"):
        dc.Compose([dc.FrameDrop(), dc.RandomCrop()])(x, p=0.0)
    seldom = dc.RandomDistortion([dc.Identity(), dc.DiffJPEG(50)], [1, 0], per="sample")
    with pytest.raises(ValueError, match="quality holds 4 values, the batch has 2 samples"):
        seldom(x, quality=[10, 20, 30, 40])  # whichever member is drawn
    nested = dc.RandomDistortion([seldom, dc.Compose([dc.DiffJPEG(50), seldom])], per="sample")
    for seed in range(5):
        assert nested(natural(4), quality=[10, 20, 30, 40], generator=torch.Generator().manual_seed(seed)).shape == natural(4).shape
    late = dc.Compose([dc.GaussianNoise(dc.Ramp(0.0, 0.1, 0, 10))])
    assert not torch.equal(late(x, step=5), x)


def test_compose_errors() -> None:
    with pytest.raises(ValueError, match="at least one layer"):
        dc.Compose([])
    with pytest.raises(TypeError, match="got function"):
        dc.Compose([lambda x: x])  # type: ignore[list-item]
    for module in (dc.adapt(dc.Flip()), torch.nn.Sequential(dc.GaussianNoise(0.1))):
        with pytest.raises(TypeError, match="with a layer inside, which would draw by itself"):
            dc.Compose([module])
    with pytest.raises(TypeError, match="a list of layers, got one Resize"):
        dc.Compose(dc.Resize(0.5))  # type: ignore[arg-type]
    assert len(dc.Compose(map(dc.build, ["jpeg:quality=10", "none"])).layers) == 2  # type: ignore[arg-type]
    assert len(dc.RandomDistortion(dc.build(n) for n in ("jpeg", "none")).layers) == 2  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a number for each layer, or a schedule"):
        dc.RandomDistortion([dc.Flip(), dc.Hue()], {0: 1, 1: 3})  # type: ignore[arg-type]
    generators = [torch.Generator() for _ in range(2)]
    with pytest.raises(ValueError, match="needs per='sample'"):
        dc.Compose([dc.RandomDistortion([dc.Flip(), dc.Hue()])]).sample((2, 3, 8, 8), generators)
    assert dc.RandomDistortion([dc.Flip()]).sample((1, 3, 8, 8), generators[:1])["choice"] == [0]
    with pytest.raises(ValueError, match="without 'quality'"):
        dc.DiffJPEG().describe(dc.GaussianNoise(0.1).sample((2, 3, 8, 8)))
    x = natural(2)
    with pytest.raises(TypeError, match="a video of 2 samples from Flatten, got shape"):
        dc.Compose([torch.nn.Flatten(0, 1)])(x)
    layer = dc.Compose([dc.Flip(), dc.DiffJPEG((10, 90))])
    with pytest.raises(ValueError, match="are not those of its layers"):
        layer(x, {"parts": {0: {}}})
    with pytest.raises(ValueError, match="for 3 samples; the batch has 2"):
        layer(x, layer.sample((3, *x.shape[1:])))
    with pytest.raises(ValueError, match=r"takes videos \[B, T, 3, H, W\] only"):
        dc.Compose([dc.Flip(), dc.FrameDrop()])(x[:, 0])


def test_what_was_drawn_is_told() -> None:
    layer = dc.RandomDistortion(
        [dc.DiffH264((18, 34)), dc.FrameDrop((0.2, 0.8)), dc.Compose([dc.Flip(), dc.Hue()]), dc.Identity(), dc.RealJPEG((20, 30))],
        per="sample",
    )
    shape = (64, 4, 3, 16, 16)
    draw = layer.sample(shape, torch.Generator().manual_seed(0))
    told = layer.describe(draw)
    assert len(told) == 64
    for i, one in enumerate(told):
        member = draw["choice"][i]
        assert one["name"] == ["DiffH264", "FrameDrop", "Compose", "Identity", "RealJPEG"][member]
        at = [j for j, m in enumerate(draw["choice"]) if m == member].index(i)
        part = draw["parts"][member]
        if member == 0:
            assert one == {"name": "DiffH264", "crf": pytest.approx(part["crf"][at].item())}
        if member == 1:
            assert 0.2 <= one["p"] <= 0.8
        if member == 2:
            assert one["layers"][0] == {"name": "Flip", "flip": bool(part["parts"][0]["flip"][at])}
            assert set(one["layers"][1]) == {"name", "turn"}
    with pytest.raises(ValueError, match="give batch="):
        dc.Identity().describe({})
    assert dc.Identity().describe({}, 2) == [{"name": "Identity"}] * 2
    assert dc.GaussianNoise(0.1).describe(dc.GaussianNoise(0.1).sample((2, 3, 8, 8))) == [{"name": "GaussianNoise", "sigma": 0.1}] * 2


def test_weights_follow_schedules() -> None:
    layer = dc.RandomDistortion([dc.Identity(), dc.Flip(1.0)], dc.Ramp([1, 0], [0, 1], 0, 10))
    assert layer.sample((1, 3, 4, 4), step=0)["choice"] == [0]
    assert layer.sample((1, 3, 4, 4), step=10)["choice"] == [1]
    with pytest.raises(ValueError, match="from step 0 on"):
        dc.Steps({5: [1, 0]})
