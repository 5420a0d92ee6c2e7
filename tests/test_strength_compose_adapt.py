import pytest
import torch
from conftest import natural
from torch import Tensor

import diffcodec as dc
from diffcodec.strength import Strength


def test_ramp() -> None:
    r = dc.Ramp(0.0, 1.0, 100, 200)
    assert [r(s) for s in (0, 100, 150, 200, 999)] == [0, 0, 0.5, 1, 1]
    assert dc.Ramp((0.0, 1.0), (10.0, 21.0), 0, 10)(5) == (5.0, 11.0)
    assert dc.Ramp(1.0, 2.0, 5, 5)(4) == 1.0
    assert dc.Ramp(1.0, 2.0, 5, 5)(5) == 2.0
    with pytest.raises(ValueError, match="start=5, stop=4"):
        dc.Ramp(0, 1, 5, 4)
    with pytest.raises(ValueError, match="two numbers or two ranges"):
        dc.Ramp(0, (0, 1), 0, 1)


def test_schedule_takes_the_step_from_the_call() -> None:
    layer = dc.Brightness(dc.Ramp(1.0, 0.5, 0, 10))
    x = natural(1)
    torch.testing.assert_close(layer(x, step=10), x * 0.5)
    torch.testing.assert_close(layer(x, step=0), x)
    with pytest.raises(ValueError, match="step="):
        layer(x)
    with pytest.raises(ValueError, match="-3"):
        dc.Brightness(lambda step: -3.0)(x, step=1)
    with pytest.raises(ValueError, match="got 99"):
        dc.Brightness(dc.Ramp(1.0, 99.0, 0, 1))


def test_integer_ranges_reach_both_ends_evenly() -> None:
    values = Strength((2, 4), "n", 1, 9, integer=True).draw(3000, torch.Generator().manual_seed(0))
    counts = torch.bincount(values.long())
    assert counts[:2].sum() == 0
    assert (counts[2:] > 900).all()


def test_strength_types() -> None:
    for bad in ("5", None, [1, 2, 30], [2], True):
        with pytest.raises((TypeError, ValueError)):
            Strength(bad, "q", 0, 10)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        Strength(torch.zeros(2, 2), "q", 0, 10)


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
    assert names == ["DiffH264", "FrameAverage", "FrameDrop", "FrameSwap", "RandomCrop", "GaussianNoise", "GaussianBlur"]
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


@pytest.mark.parametrize(("layout", "order"), [("BCTHW", (0, 2, 1, 3, 4)), ("BTHWC", (0, 1, 3, 4, 2)), ("TBCHW", (1, 0, 2, 3, 4))])
@pytest.mark.parametrize("scale", [(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)])
def test_adapt_gives_what_the_layer_gives(layout: str, order: tuple[int, ...], scale: tuple[float, float]) -> None:
    x = natural(2)
    low, high = scale
    layer = dc.DiffJPEG((30, 70))
    adapted = dc.adapt(layer, layout=layout, range=scale)
    theirs = (x * (high - low) + low).permute(order)
    draw = adapted.sample(theirs.shape, torch.Generator().manual_seed(0))
    y = adapted(theirs, draw)
    assert y.shape == theirs.shape
    torch.testing.assert_close(y, (layer(x, draw) * (high - low) + low).permute(order), atol=1e-3 * (high - low), rtol=0)


def test_adapt_images_and_errors() -> None:
    x = torch.rand(2, 16, 16, 3)
    assert dc.adapt(dc.DiffJPEG(50), layout="BHWC")(x).shape == x.shape
    with pytest.raises(ValueError, match="BTCX"):
        dc.adapt(dc.DiffJPEG(50), layout="BTCX")
    with pytest.raises(ValueError, match=r"\(1, 1\)"):
        dc.adapt(dc.DiffJPEG(50), range=(1, 1))
    with pytest.raises(TypeError, match="Linear"):
        dc.adapt(torch.nn.Linear(1, 1))  # type: ignore[arg-type]
    adapted = dc.adapt(dc.DiffJPEG(50), layout="BCTHW", range=(-1, 1))
    with pytest.raises(ValueError, match="layout BCTHW"):
        adapted(torch.rand(2, 3, 16, 16))
    with pytest.raises(ValueError, match="BCTHW"):
        adapted(torch.rand(2, 8, 3, 16, 16))
    with pytest.raises(ValueError, match=r"layout='BCTHW', range=\(-1.0, 1.0\)"):
        adapted(torch.rand(2, 3, 4, 16, 16) * 255)
    with pytest.raises(TypeError, match="int"):
        adapted(torch.zeros(2, 3, 4, 16, 16, dtype=torch.int32))


def test_adapted_codecs_encode() -> None:
    x = natural(2)
    adapted = dc.adapt(dc.DiffJPEG(50), layout="BCTHW", range=(-1, 1))
    coded, plain = adapted.encode(x.transpose(1, 2) * 2 - 1), dc.DiffJPEG(50).encode(x)
    torch.testing.assert_close(coded.video, plain.video.transpose(1, 2) * 2 - 1, atol=1e-3, rtol=0)
    torch.testing.assert_close(coded.bits, plain.bits, rtol=1e-3, atol=1)
    with pytest.raises(TypeError, match="Flip is no codec"):
        dc.adapt(dc.Flip(), layout="BCTHW").encode(x.transpose(1, 2))


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


class Grey(dc.Layer):
    """A user's own layer: one method is enough."""

    def distort(self, video: Tensor, draw: object) -> Tensor:
        return video.mean(2, keepdim=True).expand_as(video)


def test_a_users_own_layer_fits_in() -> None:
    x = natural(2)
    assert dc.RandomDistortion([Grey()])(x).std(2).max() == 0


def test_a_sample_draws_the_same_in_any_batch() -> None:
    layers = [dc.GaussianNoise(0.1), dc.FrameDrop(0.5), dc.RandomCrop((0.3, 0.9)), dc.DiffH264(crf=(18, 30), gop="random")]
    mixture = dc.RandomDistortion(layers, per="sample")
    x = natural(4, 8, 32, 32)

    def keyed(rows: list[int]) -> Tensor:
        generators = [torch.Generator().manual_seed(100 + r) for r in rows]
        return mixture(x[rows], mixture.sample(x[rows].shape, generators))

    whole = keyed([0, 1, 2, 3])
    torch.testing.assert_close(torch.cat([keyed([0, 1]), keyed([2, 3])]), whole)
    torch.testing.assert_close(keyed([3, 1]), whole[[3, 1]])
    for layer in layers:
        draw = layer.sample(x.shape, [torch.Generator().manual_seed(i) for i in range(4)])
        assert layer(x, draw).shape == x.shape
    with pytest.raises(ValueError, match="3 generators for a batch of 4"):
        layers[0].sample(x.shape, [torch.Generator()] * 3)
    with pytest.raises(ValueError, match="per='sample'"):
        dc.RandomDistortion(layers).sample(x.shape, [torch.Generator()] * 4)


@pytest.mark.parametrize("per", ["batch", "sample"])
def test_x264_inside_a_mixture_is_what_it_is_alone(per: str) -> None:
    layer = dc.DiffH264(crf=25, gop="middle")
    mixture = dc.RandomDistortion([layer], per=per)
    x = natural(2, 8, 32, 48)
    draw = mixture.sample(x.shape, torch.Generator().manual_seed(0))
    torch.testing.assert_close(mixture(x, draw), layer(x, draw["parts"][0]))
