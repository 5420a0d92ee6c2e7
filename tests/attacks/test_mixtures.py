"""Any mixture of any layers: per sample and per batch, nested, adapted, on images and videos; kernels inside; what was drawn."""

from __future__ import annotations

import contextlib
import inspect
import io
from collections.abc import Callable

import pytest
import torch
from helpers import natural
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import diffcodec as dc
from diffcodec import backend, implement
from diffcodec.strength import Strength, per_sample

# every exported layer that can be made without further thought, small where that matters
MAKE: dict[str, Callable[[], dc.Layer]] = {
    "CompNet": lambda: dc.CompNet(4, 2),
    "Compose": lambda: dc.Compose([dc.FrameDrop((0, 1)), dc.DiffJPEG((10, 90)), torch.nn.Identity()]),
    "DiffH264": lambda: dc.DiffH264((18, 34), "veryfast", gop="random"),
    "DiffJPEG": lambda: dc.DiffJPEG((10, 90)),
    "RandomDistortion": lambda: dc.RandomDistortion([dc.GaussianNoise((0, 0.1)), dc.Flip()], per="sample"),
    "RealCodec": lambda: dc.RealCodec("libx264", crf=(20, 40), preset="ultrafast"),
    "RealJPEG": lambda: dc.RealJPEG((20, 90)),
}
NAMES = sorted(
    name
    for name in dc.__all__
    if inspect.isclass(getattr(dc, name)) and issubclass(getattr(dc, name), dc.Layer) and name not in ("Layer", "Codec")
)
MORE: dict[str, Callable[[], dc.Layer]] = {
    "DiffJPEG tables": lambda: dc.DiffJPEG(tables=torch.full((2, 8, 8), 16.0)),
    "DiffJPEG noise": lambda: dc.DiffJPEG(50, rounding="noise"),
    "DiffH264 revmark": lambda: dc.DiffH264(model="revmark"),
    "revmark_distortion": lambda: dc.revmark_distortion(dc.DiffH264(crf=dc.Choice([20, 30]), preset="ultrafast"), 0.4),
    "RealCodec bitrate": lambda: dc.RealCodec(bitrate=(1e5, 4e5), preset="ultrafast", gradient="identity"),
}
ALL = [*NAMES, *MORE]


def make(name: str) -> dc.Layer:
    return MORE[name]() if name in MORE else MAKE.get(name, getattr(dc, name, None))()  # type: ignore[misc]


def test_every_exported_layer_is_here() -> None:
    assert len(NAMES) >= 25
    for name in ALL:
        assert isinstance(make(name), dc.Layer)


@st.composite
def mixtures(draw: st.DrawFn, depth: int = 2) -> dc.RandomDistortion:
    names = draw(st.lists(st.sampled_from(ALL), min_size=1, max_size=4))
    layers = [make(n) for n in names]
    if depth > 1 and draw(st.booleans()):
        layers.append(draw(mixtures(depth - 1)))
    weights = draw(st.lists(st.floats(0.1, 5), min_size=len(layers), max_size=len(layers)) | st.none())
    return dc.RandomDistortion(layers, weights, draw(st.sampled_from(["sample", "batch"])))


@given(mixtures(), st.integers(1, 4), st.integers(1, 3), st.sampled_from([(24, 24), (17, 34)]), st.integers(0, 99), st.booleans())
@settings(max_examples=100)
def test_any_mixture_of_any_layers(mixture: dc.RandomDistortion, b: int, t: int, size: tuple[int, int], seed: int, adapted: bool) -> None:
    still = mixture.images and seed % 2 == 0
    x = torch.rand(b, 3, *size) if still else torch.rand(b, t, 3, *size)
    x = x.requires_grad_(True)
    g = torch.Generator().manual_seed(seed)
    if adapted:
        layout = "BHWC" if still else "BCTHW"
        inward = (0, 2, 3, 1) if still else (0, 2, 1, 3, 4)
        y = dc.adapt(mixture, layout, (-1, 1))((2 * x - 1).permute(inward), generator=g)
        assert y.shape == x.permute(inward).shape
        assert -1.001 <= y.min() <= y.max() <= 1.001
    else:
        draw = mixture.sample(x.shape, g)
        y = mixture(x, draw)
        assert y.shape == x.shape
        assert 0 <= y.min() <= y.max() <= 1
        assert torch.equal(mixture(x, reloaded(draw)), y)
    if y.requires_grad:
        y.sum().backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()


def reloaded(draw: object) -> dict[str, object]:
    file = io.BytesIO()
    torch.save(draw, file)
    file.seek(0)
    return torch.load(file, weights_only=True)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ALL)
def test_draws_are_tensors_and_plain_data(name: str) -> None:
    layer, x = make(name), natural(2, 3, 24, 32)
    draw = layer.sample(x.shape, torch.Generator().manual_seed(0))
    assert torch.equal(layer(x, reloaded(draw)), layer(x, draw))


@pytest.mark.parametrize("name", ALL)
def test_a_sample_drawn_alone_is_itself_in_the_batch(name: str) -> None:
    layer, x = make(name), natural(3, 3, 24, 32)
    if isinstance(layer, dc.RandomDistortion) and layer.per == "batch":
        pytest.skip("draws one layer for the batch")

    def drawn(rows: list[int]) -> Tensor:
        return layer(x[rows], layer.sample(x[rows].shape, [torch.Generator().manual_seed(r) for r in rows]))

    torch.testing.assert_close(torch.cat([drawn([0]), drawn([2, 1])]), drawn([0, 2, 1]), atol=2e-5, rtol=0)


def test_the_guides_first_loop() -> None:
    distortion = dc.RandomDistortion(
        [dc.DiffH264((18, 34), gop="random"), dc.DiffJPEG((40, 95)), dc.FrameDrop((0, 0.5)), dc.GaussianNoise((0, 0.04))],
        weights=[4, 2, 1, 1],
        per="sample",
    )
    x = natural(4, 4, 32, 32)
    for step in range(6):
        v = x.clone().requires_grad_(True)
        y = distortion(v, step=step)
        y.sum().backward()
        assert y.shape == x.shape
        assert (v.grad.flatten(1).abs().sum(1) > 0).all()  # type: ignore[union-attr]


def test_strengths_per_sample_survive_mixtures_and_generators() -> None:
    x = natural(4)
    q = torch.tensor([10.0, 90, 10, 90])
    plain = torch.cat([dc.DiffJPEG(v.item())(x[i : i + 1]) for i, v in enumerate(q)])
    layer = dc.DiffJPEG(q)
    generators = [torch.Generator().manual_seed(i) for i in range(4)]
    assert torch.equal(layer(x, layer.sample(x.shape, generators)), plain)
    nested = dc.RandomDistortion([dc.RandomDistortion([layer, dc.DiffJPEG(q, "4:2:0")], per="sample"), layer], per="sample")
    assert torch.equal(nested(x), plain)
    assert torch.equal(nested(x, nested.sample(x.shape, generators)), plain)
    tables = torch.stack([torch.full((2, 8, 8), v) for v in (1.0, 50.0, 1.0, 50.0)])
    own = dc.DiffJPEG(tables=tables)
    mixed = dc.RandomDistortion([own, dc.DiffJPEG(tables=tables, gradient="cubic")], per="sample")
    assert torch.equal(mixed(x), own(x))
    assert not torch.equal(own(x)[0], own(x.flip(0)).flip(0)[0])


class Traced(dc.Layer):
    """Says how it was entered: with the video as it came, or as layers compute with it."""

    def __init__(self, raw: bool) -> None:
        super().__init__()
        self.raw, self.entered = raw, list[bool]()

    def distort(self, video: Tensor, draw: object) -> Tensor:
        self.entered.append(video.dtype == torch.float16)
        return video


@pytest.mark.parametrize("per", ["batch", "sample"])
def test_mixtures_enter_members_as_they_are_entered_alone(per: str) -> None:
    x = natural(4).half()
    for layer in (Traced(True), Traced(False)):
        layer(x)
        dc.RandomDistortion([layer, layer], per=per)(x)
        dc.adapt(dc.RandomDistortion([dc.RandomDistortion([layer], per=per)], per=per), "BCTHW")(x.transpose(1, 2))
        nn.Sequential(layer, dc.Identity())(x)
        assert set(layer.entered) == {layer.raw}
        assert len(layer.entered) >= 4


@pytest.mark.parametrize("name", ["DiffJPEG", "FrameAverage", "FrameDrop", "GaussianNoise", "GaussianBlur"])
def test_kernels_run_inside_mixtures(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Triton's interpreter where there is no GPU."""
    pytest.importorskip("triton")
    layer = getattr(dc, name)(backend="triton")
    called = []
    run = implement.Implementation.__call__
    monkeypatch.setattr(implement.Implementation, "__call__", lambda self, *args: called.append(self.backend) or run(self, *args))
    x = natural(2, 3, 16, 16)
    mixture = dc.RandomDistortion([layer, dc.Flip(1.0)], weights=[1, 0], per="sample")
    draw = mixture.sample(x.shape, torch.Generator().manual_seed(0))
    y = mixture(x, draw)
    assert called == ["triton"]
    twin = getattr(dc, name)(backend="reference")
    torch.testing.assert_close(y, twin(x, draw["parts"][0]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("layer", [dc.DiffJPEG(50, backend="triton"), dc.DiffH264(23, backend="triton"), dc.GaussianBlur(backend="triton")])
def test_a_backend_that_cannot_run_says_so_in_a_mixture_too(layer: dc.Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_INTERPRETED", False)
    x = natural(2, 2, 16, 16)
    for call in (layer, dc.RandomDistortion([layer]), dc.RandomDistortion([dc.RandomDistortion([layer])], per="sample")):
        with pytest.raises(RuntimeError, match="backend='triton' cannot run"):
            call(x)


def test_wrong_draws_are_named_errors() -> None:
    """Every layer with the draw of every other one, and of other sizes: taken where it fits, a named error where not."""
    x = natural(2, 3, 24, 32)
    layers = {name: make(name) for name in ALL}
    draws = [layer.sample(x.shape, torch.Generator().manual_seed(0)) for layer in layers.values()]
    for shape in ((3, 3, 3, 24, 32), (2, 5, 3, 24, 32), (2, 3, 3, 40, 24)):
        draws += [layer.sample(shape, torch.Generator().manual_seed(0)) for layer in layers.values()]
    refused = 0
    for layer in layers.values():
        for draw in draws:
            with contextlib.suppress(ValueError):  # anything else fails here
                layer.check_draw(draw, x.shape)
                continue
            refused += 1
    assert refused > 0.8 * len(layers) * len(draws)


@pytest.mark.parametrize(
    ("layer", "draw", "words"),
    [
        (dc.DiffH264(), {"crf": torch.tensor([400.0]), "phase": torch.tensor([-1])}, r"crf expected to lie in \[0, 51\], got 400"),
        (dc.DiffH264(), {"crf": torch.tensor([23.0]), "phase": torch.tensor([9])}, "phases"),
        (dc.DiffH264(), {"crf": torch.tensor([23.0])}, "without 'phase'"),
        (dc.DiffJPEG(), {"quality": torch.tensor([0.0])}, r"quality expected to lie in \[1, 100\]"),
        (dc.DiffJPEG(), {"quality": torch.tensor([float("nan")])}, "quality expected to lie"),
        (dc.DiffJPEG(), {"quality": 50.0}, "'quality' is float"),
        (dc.FrameAverage(), {"n": torch.tensor([2.5])}, "whole numbers"),
        (dc.FrameDrop(), {"index": torch.tensor([[0, 9, 1]]), "p": torch.tensor([0.5])}, "frames"),
        (dc.FrameDrop(), {"index": torch.rand(1, 3), "p": torch.tensor([0.5])}, "dtype"),
        (dc.RealCodec(), {}, "without 'crf'"),
        (dc.RealCodec("libvpx-vp9"), {"crf": torch.tensor([30.5])}, "whole numbers"),
        (dc.GaussianNoise(), {"sigma": torch.tensor([0.1]), "noise": torch.zeros(1, 3, 3, 8, 8)}, "shape"),
        (dc.RandomDistortion([dc.Identity()]), {"choice": [1], "parts": {}}, "1 layers"),
        (dc.RandomDistortion([dc.Identity()]), {"choice": [0], "parts": {}}, "'parts'"),
    ],
)
def test_draws_out_of_range_are_errors(layer: dc.Layer, draw: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        layer(natural(1, 3, 16, 16), draw)


class Shifted(dc.Layer):
    """A user's layer that draws more than its strengths and does not say what."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = Strength((0.5, 1.0), "gain", 0, 1)

    def draw(self, shape, generator, step, device):  # type: ignore[no-untyped-def]
        return super().draw(shape, generator, step, device) | {"shift": torch.rand(shape[0], 2, generator=generator), "note": "plain"}

    def distort(self, video: Tensor, draw: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
        return per_sample(draw["gain"] * draw["shift"][:, 0], video) * video


def test_a_users_layer_need_not_describe_its_draw() -> None:
    x = natural(3)
    layer = Shifted()
    draw = layer.sample(x.shape, torch.Generator().manual_seed(0))
    assert torch.equal(layer(x, draw), layer(x, draw))
    mixture = dc.RandomDistortion([layer, dc.Flip()], per="sample")
    assert mixture(x, mixture.sample(x.shape, torch.Generator().manual_seed(0))).shape == x.shape
    with pytest.raises(ValueError, match="3 samples; the batch has 2"):
        layer(x[:2], draw)
    with pytest.raises(ValueError, match="gain expected to lie"):
        layer(x, draw | {"gain": torch.full((3,), 2.0)})


def test_strength_at_the_call() -> None:
    x = natural(2, 3, 24, 32)
    assert torch.equal(dc.DiffJPEG((10, 90))(x, quality=40), dc.DiffJPEG(40)(x))
    assert torch.equal(dc.DiffJPEG()(x, quality=[30, 50]), dc.DiffJPEG(torch.tensor([30.0, 50]))(x))
    assert torch.equal(dc.DiffH264(preset="ultrafast")(x, crf=40), dc.DiffH264(40, "ultrafast")(x))
    assert torch.equal(dc.DiffH264(preset="ultrafast").encode(x, crf=40).bits, dc.DiffH264(40, "ultrafast").encode(x).bits)
    real = dc.RealCodec(preset="ultrafast")
    assert torch.equal(real(x, crf=torch.tensor([20, 40])), dc.RealCodec(crf=torch.tensor([20.0, 40]), preset="ultrafast")(x))
    assert torch.equal(real(x), dc.RealCodec(crf=23, preset="ultrafast")(x))  # the layer itself is as it was
    drawn = dc.DiffJPEG().sample((500, 3, 8, 8), torch.Generator().manual_seed(0), quality=(20, 30))["quality"]
    assert 20 <= drawn.min() < 21 < 29 < drawn.max() <= 30
    adapted = dc.adapt(dc.DiffJPEG(), "BCTHW", (-1, 1))
    assert adapted((2 * x - 1).transpose(1, 2), quality=10).shape == x.transpose(1, 2).shape
    coded = real.encode(x, crf=40)
    guided = dc.DiffH264(preset="ultrafast")(x, guide=coded.guide, crf=40)
    assert guided.shape == x.shape


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: dc.DiffJPEG()(x, quality=400), ValueError, r"quality expected to lie in \[1, 100\], got 400"),
        (lambda x: dc.DiffJPEG()(x, quality=[30, 50, 70]), ValueError, "holds 3 values, the batch has 2"),
        (lambda x: dc.DiffJPEG()(x, quality=["a", "b"]), TypeError, "number for each sample"),
        (lambda x: dc.DiffJPEG()(x, crf=20), TypeError, "its strengths are quality"),
        (lambda x: dc.Identity()(x, crf=20), TypeError, "has no strengths"),
        (lambda x: dc.RandomDistortion([dc.DiffJPEG()])(x, crf=20), TypeError, "its strengths are quality"),
        (lambda x: dc.DiffJPEG(tables=torch.ones(2, 8, 8))(x, quality=20), TypeError, "has no strengths"),
        (lambda x: dc.DiffJPEG()(x, dc.DiffJPEG().sample(x.shape), quality=20), TypeError, "both a draw and quality"),
        (lambda x: dc.DiffJPEG()(x, torch.ones(2, 1, 16, 16)), TypeError, "masks and cover images"),
        (lambda x: dc.DiffH264()(x, torch.ones(2, 1, 16, 16)), TypeError, "masks and cover images"),
        (lambda x: dc.RandomDistortion([dc.DiffJPEG()])(x, 40), TypeError, "got int"),
        (lambda x: dc.DiffJPEG()(x, generator=3), TypeError, "torch.Generator"),
        (lambda x: dc.DiffJPEG()(x, generator=[1, 2]), TypeError, "torch.Generator"),
    ],
)
def test_wrong_arguments_at_the_call_are_named(call: Callable[[Tensor], Tensor], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call(natural(2, 3, 16, 16))


def test_choices() -> None:
    drawn = dc.DiffH264(crf=dc.Choice([28, 34, 40], weights=[1, 0, 1])).sample((600, 2, 3, 8, 8), torch.Generator().manual_seed(0))["crf"]
    assert set(drawn.tolist()) == {28, 40}
    assert 200 < (drawn == 28).sum() < 400
    assert set(dc.RealCodec(crf=dc.Choice([28, 34, 40])).sample((60, 2, 3, 8, 8))["crf"].tolist()) == {28, 34, 40}
    with pytest.raises(ValueError, match="52"):
        dc.DiffH264(crf=dc.Choice([28, 52]))
    with pytest.raises(ValueError, match=r"Choice\(\[40, 28\]\)"):
        dc.DiffH264(crf=(40, 28))
    with pytest.raises(ValueError, match="at least one"):
        dc.Choice([])
    with pytest.raises(ValueError, match="2 weights"):
        dc.Choice([1, 2], [1])


def test_numpy_strengths() -> None:
    import numpy as np

    x = natural(2, 2, 16, 16)
    assert torch.equal(dc.DiffJPEG(np.float32(40))(x), dc.DiffJPEG(40)(x))
    assert torch.equal(dc.DiffJPEG(np.int64(40))(x), dc.DiffJPEG(40)(x))
    assert torch.equal(dc.DiffJPEG(np.array([30, 50]))(x), dc.DiffJPEG(torch.tensor([30.0, 50]))(x))
    assert torch.equal(dc.DiffJPEG()(x, quality=np.array([30.0, 50])), dc.DiffJPEG(torch.tensor([30.0, 50]))(x))
