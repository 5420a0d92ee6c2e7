"""What every layer promises, one matrix over all of them."""

from __future__ import annotations

import copy
import inspect
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import natural
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import diffcodec as dc
from diffcodec import checks

# how those are made that have to be told something, or are small only then
MAKE: dict[str, Callable[[], dc.Layer]] = {
    "CompNet": lambda: dc.CompNet(4, 2),
    "Compose": lambda: dc.Compose([dc.FrameSwap((0.2, 0.8)), dc.Resize((0.5, 1.0)), dc.DiffH264((20, 30), "ultrafast")]),
    "DiffH264": lambda: dc.DiffH264(22),
    "DiffJPEG": lambda: dc.DiffJPEG(50),
    "RandomDistortion": lambda: dc.RandomDistortion([dc.GaussianNoise(), dc.FrameDrop(), dc.DiffJPEG((10, 90))], per="sample"),
    "RealCodec": lambda: dc.RealCodec(crf=30, preset="ultrafast", gradient="identity"),
    "RealJPEG": lambda: dc.RealJPEG(50),
}
EXPORTED = sorted(
    n for n in dc.__all__ if inspect.isclass(getattr(dc, n)) and issubclass(getattr(dc, n), dc.Layer) and n not in ("Layer", "Codec")
)
VARIANTS: dict[str, Callable[[], dc.Layer]] = {
    "DiffJPEG cubic gradient": lambda: dc.DiffJPEG(50, gradient="cubic"),
    "DiffJPEG identity gradient": lambda: dc.DiffJPEG(50, "4:2:2", gradient="identity"),
    "DiffJPEG soft forward": lambda: dc.DiffJPEG(50, rounding="cubic"),
    "DiffJPEG range": lambda: dc.DiffJPEG((20, 90), "4:2:2"),
    "DiffJPEG 444 straight_through": lambda: dc.DiffJPEG(50, "4:4:4", "straight_through"),
    "DiffJPEG noise": lambda: dc.DiffJPEG(50, rounding="noise"),
    "DiffJPEG soft": lambda: dc.DiffJPEG(50, rounding="soft"),
    "DiffJPEG paper": lambda: dc.DiffJPEG(50, rounding="paper"),
    "DiffH264 ultrafast range": lambda: dc.DiffH264((18, 34), "ultrafast"),
    "DiffH264 superfast": lambda: dc.DiffH264(30, "superfast", fps=50),
    "DiffH264 revmark": lambda: dc.DiffH264(model="revmark"),
    "DiffH264 revmark noise": lambda: dc.DiffH264(model="revmark", rounding="noise"),
    "DiffH264 revmark original": lambda: dc.DiffH264(model="revmark", flow_from="original", reference=-1),
    "FrameAverage range": lambda: dc.FrameAverage((1, 4)),
    "RandomCrop resize": lambda: dc.RandomCrop((0.3, 0.9), mode="resize"),
    "revmark_distortion": dc.revmark_distortion,
}
LAYERS = {name: MAKE.get(name, getattr(dc, name)) for name in EXPORTED} | VARIANTS
CODECS = {name: make for name, make in LAYERS.items() if name.startswith(("Diff", "Real", "JPEG", "CompNet"))}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())
every_codec = pytest.mark.parametrize("make", CODECS.values(), ids=CODECS.keys())


def part(draw: object, i: int) -> object:
    """The draw of one sample."""
    return {k: part(v, i) if isinstance(v, dict) else v[i : i + 1] for k, v in draw.items()}  # type: ignore[attr-defined]


@every_layer
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 40), st.integers(1, 40))
def test_shape_range_and_finite_gradient_for_any_size(make: Callable[[], dc.Layer], b: int, t: int, h: int, w: int) -> None:
    x = torch.rand(b, t, 3, h, w, requires_grad=True)
    y = make()(x)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert 0 <= y.min() <= y.max() <= 1
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@every_layer
def test_gradient_reaches_every_sample(make: Callable[[], dc.Layer], video: Tensor) -> None:
    x = video.clone().requires_grad_(True)
    layer = make()
    (layer(x) - 0.3).square().sum().backward()
    assert x.grad is not None
    assert (x.grad.flatten(1).norm(dim=1) > 0).all()


@every_layer
def test_same_seed_same_result(make: Callable[[], dc.Layer], video: Tensor) -> None:
    layer = make()
    draws = [layer.sample(video.shape, torch.Generator().manual_seed(s)) for s in (1, 1)]
    first, second = (layer(video, d) for d in draws)
    assert torch.equal(first, second)
    assert torch.equal(first, layer(video, generator=torch.Generator().manual_seed(1)))


@every_layer
def test_input_is_left_alone(make: Callable[[], dc.Layer], video: Tensor) -> None:
    before = video.clone()
    make()(video).mul(2)
    assert torch.equal(video, before)


@pytest.mark.parametrize("name", [n for n in LAYERS if n not in ("RandomDistortion", "revmark_distortion")])
def test_samples_do_not_affect_each_other(name: str) -> None:
    layer, x = LAYERS[name](), natural(3)
    draw = layer.sample(x.shape, torch.Generator().manual_seed(0))
    whole = layer(x, draw)
    for i in range(3):
        torch.testing.assert_close(layer(x[i : i + 1], part(draw, i)), whole[i : i + 1], atol=2e-5, rtol=0)


def test_samples_of_a_mixture_do_not_affect_each_other() -> None:
    layer = LAYERS["RandomDistortion"]()
    x = natural(6)
    draw = layer.sample(x.shape, torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[2] = 1 - changed[2]
    a, b = layer(x, draw), layer(changed, draw)
    keep = [0, 1, 3, 4, 5]
    assert torch.equal(a[keep], b[keep])
    assert not torch.equal(a[2], b[2])


@every_layer
def test_no_parameters_no_state(make: Callable[[], dc.Layer]) -> None:
    layer = make()
    if not isinstance(layer, dc.CompNet):
        assert not list(layer.parameters())
        assert not layer.state_dict()


@every_layer
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtype_is_kept_and_does_not_change_the_result(make: Callable[[], dc.Layer], dtype: torch.dtype) -> None:
    layer, x = make(), natural(2, 3, 24, 24)
    draw = layer.sample(x.shape, torch.Generator().manual_seed(0))
    y = layer(x.to(dtype), draw)
    assert y.dtype == dtype
    expected = layer(x.to(dtype).float(), draw)
    close = (y.double() - expected.double()).abs() < {torch.bfloat16: 4e-3, torch.float16: 5e-4, torch.float64: 1e-4}[dtype]
    assert close.double().mean() > 0.995  # rounding ties and motion ties may fall the other way in float64


@every_layer
def test_autocast_changes_nothing(make: Callable[[], dc.Layer], video: Tensor) -> None:
    layer = make()
    draw = layer.sample(video.shape, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(video, draw)
    assert y.dtype == torch.float32
    assert torch.equal(y, layer(video, draw))


@every_layer
def test_compiles_as_one_graph(make: Callable[[], dc.Layer]) -> None:
    torch._dynamo.reset()
    layer, x = make(), natural(2, 3, 24, 32)
    if isinstance(layer, dc.DiffH264) and layer.model == "x264":
        pytest.skip("its coding order is a loop over data; its documentation says so")
    draw = layer.sample(x.shape, torch.Generator().manual_seed(0))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    gradients = []
    for call in (layer, compiled):
        v = x.clone().requires_grad_(True)
        y = call(v, draw)
        y.square().sum().backward()
        gradients.append((y.detach(), v.grad))
    (y, g), (yc, gc) = gradients
    assert ((y - yc).abs() < 1e-4).float().mean() >= 0.999
    assert ((g - gc).abs() < 1e-3).float().mean() >= 0.99


@every_layer
def test_slightly_outside_values_are_clamped_and_steerable(make: Callable[[], dc.Layer]) -> None:
    layer = make()
    x = natural(1)
    draw = layer.sample(x.shape, torch.Generator().manual_seed(0))
    wide = (x * 1.4 - 0.2).requires_grad_(True)
    y = layer(wide, draw)
    torch.testing.assert_close(y, layer(wide.detach().clamp(0, 1), draw))
    y.sum().backward()
    assert wide.grad is not None
    if not isinstance(layer, (dc.RandomCrop, dc.FrameDrop, dc.FrameInsert, dc.FrameRate)) and "paper" not in repr(layer):
        outside = (wide.detach() < 0) | (wide.detach() > 1)
        assert (wide.grad[outside] != 0).any()


@every_layer
def test_copies_and_pickles(make: Callable[[], dc.Layer], video: Tensor) -> None:
    layer = make()
    draw = layer.sample(video.shape, torch.Generator().manual_seed(0))
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for other in (copy.deepcopy(layer), torch.load(file, weights_only=False)):
        assert torch.equal(other(video, draw), layer(video, draw))
    assert type(layer).__name__ in repr(layer)


def test_layers_chain_in_sequential(video: Tensor) -> None:
    chain = nn.Sequential(dc.FrameSwap(), dc.DiffJPEG(50), dc.GaussianNoise(0.01))
    assert chain(video).shape == video.shape


@every_codec
def test_codecs_estimate_differentiable_bits(make: Callable[[], dc.Layer], video: Tensor) -> None:
    layer = make()
    if not isinstance(layer, dc.Codec) or isinstance(layer, (dc.RealCodec, dc.RealJPEG)):
        pytest.skip("no codec with levels: a mask, or a real one, whose bits are counted")
    draw = layer.sample(video.shape, torch.Generator().manual_seed(0))
    x = video.clone().requires_grad_(True)
    coded = layer.encode(x, draw)
    assert torch.equal(coded.video, layer(x, draw))
    assert coded.bits.shape == (2,)
    assert coded.frame_bits.shape == (2, 4)
    torch.testing.assert_close(coded.frame_bits.sum(1), coded.bits)
    assert (coded.bits > 0).all()
    assert [len(t) for t in coded.frame_types] == [4, 4]
    (gradient,) = torch.autograd.grad(coded.bits.sum(), x)
    assert gradient.isfinite().all()
    assert gradient.any()
    if any(k.startswith("noise") for k in draw):
        return  # additive noise leaves no level at zero, so nothing is cheap
    flat = layer.encode(torch.full_like(video, 0.5), draw).bits
    assert (flat < 0.2 * coded.bits).all()


BAD = {
    "BCTHW": (torch.rand(1, 3, 8, 16, 16), ValueError, "BCTHW"),
    "channels last": (torch.rand(1, 8, 16, 16, 3), ValueError, "BTHWC"),
    "no batch": (torch.rand(3, 16, 16), ValueError, "batch dimension"),
    "two channels": (torch.rand(1, 4, 2, 16, 16), ValueError, r"\(1, 4, 2, 16, 16\)"),
    "integers": (torch.zeros(1, 4, 3, 16, 16, dtype=torch.uint8), TypeError, "uint8"),
    "0..255": (torch.rand(1, 4, 3, 16, 16) * 255, ValueError, "divide by 255"),
    "far below": (torch.rand(1, 4, 3, 16, 16) - 5, ValueError, "min"),
    "NaN": (torch.full((1, 4, 3, 16, 16), float("nan")), ValueError, "NaN"),
    "infinity": (torch.full((1, 4, 3, 16, 16), float("inf")), ValueError, "infinity"),
    "empty batch": (torch.rand(0, 4, 3, 16, 16), ValueError, r"\(0, 4, 3, 16, 16\)"),
    "no frames": (torch.rand(1, 0, 3, 16, 16), ValueError, "at least 1"),
    "a list": ([1.0], TypeError, "list"),
}


@every_layer
@pytest.mark.parametrize(("x", "error", "words"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named(make: Callable[[], dc.Layer], x: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()(x)


@every_layer
def test_a_draw_for_another_batch_is_an_error(make: Callable[[], dc.Layer]) -> None:
    layer = make()
    x = natural(2, 3, 16, 16)
    draw = layer.sample((3, *x.shape[1:]), torch.Generator().manual_seed(0))
    if draw:
        with pytest.raises(ValueError, match="3 samples"):
            layer(x, draw)


def test_draws_for_another_size_or_layer_are_errors() -> None:
    x = natural(1, 8, 16, 16)
    short = (1, 4, 3, 16, 16)
    for layer in (dc.FrameDrop(), dc.GaussianNoise(), dc.revmark_distortion(dc.DiffJPEG(50), codec_share=0.0)):
        draw = layer.sample(short, torch.Generator().manual_seed(2))
        if isinstance(layer, dc.RandomDistortion) and draw["choice"][0] not in (2, 3, 5):
            continue
        with pytest.raises(ValueError, match="8 frames|input has|shape"):
            layer(x, draw)
    with pytest.raises(ValueError, match="without 'quality'"):
        dc.DiffJPEG(50)(x, {})
    with pytest.raises(ValueError, match="without 'choice'"):
        dc.revmark_distortion()(x, {})
    with pytest.raises(ValueError, match="without 'reference'"):
        dc.DiffH264(model="revmark")(x, {})
    with pytest.raises(ValueError, match=r"\[9\] for clips of 8 frames"):
        dc.DiffH264(model="revmark")(x, {"reference": torch.tensor([9])})


def test_one_bad_value_is_enough() -> None:
    x = natural(1)
    x[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        dc.GaussianNoise()(x)


@pytest.fixture
def unwarned(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nobody had been warned yet."""
    monkeypatch.setattr(checks, "_warned", set())


def test_an_untrained_encoder_is_clamped_with_one_warning(unwarned: None) -> None:
    x = natural(1)
    wild = (x + torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).requires_grad_(True)
    layer = dc.GaussianBlur()
    with pytest.warns(
        UserWarning, match=r"GaussianBlur expected values in \[0, 1\], got min -.*% of them lie outside and are clamped; for another range"
    ):
        y = layer(wild)
    torch.testing.assert_close(y, layer(wild))  # the second time in silence: a warning is an error here
    torch.testing.assert_close(y, layer(wild.detach().clamp(0, 1)))
    y.sum().backward()
    with dc.validate(False):
        layer(wild * 1000)


def test_pictures_around_0_are_told_of_adapt(unwarned: None) -> None:
    x = natural(1)[:, 0]
    with pytest.warns(UserWarning, match=r"for values in \[-1, 1\] wrap the layer with diffcodec.adapt\(layer, range=\(-1, 1\)\)"):
        dc.DiffJPEG(50)(2 * x - 1)
    dc.adapt(dc.DiffJPEG(50), "BCHW", (-1, 1))(2 * x - 1)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (lambda x: 255 * x, "a 0..255 video. divide by 255"),
        (lambda x: 255 * x - 10, "a 0..255 video"),
        (lambda x: 1023 * x, "a 0..255 video"),
        (lambda x: x - 5, "all of them lie outside"),
        (lambda x: x + 1.5, "all of them lie outside"),
        (lambda x: x / 0, "NaN or infinity"),
    ],
)
def test_other_scales_are_told_apart(values: Callable[[Tensor], Tensor], words: str) -> None:
    x = values(natural(1))
    for layer in (dc.GaussianBlur(), dc.DiffH264(), dc.RandomDistortion([dc.Identity()])):
        with pytest.raises(ValueError, match=words):
            layer(x)
        with dc.validate(False):
            layer(x.nan_to_num(0, 1, 0))


def test_a_batch_of_images_is_a_batch_of_clips() -> None:
    with pytest.raises(ValueError, match=r"clips of one frame each, x\[:, None\]; the frames of one clip are x\[None\]"):
        dc.DiffH264()(torch.rand(4, 3, 16, 16))
    assert dc.DiffH264(preset="ultrafast")(torch.rand(4, 3, 16, 16)[:, None]).shape == (4, 1, 3, 16, 16)


def test_validate_is_a_switch_and_a_context() -> None:
    bad = torch.full((1, 1, 3, 8, 8), float("nan"))
    layer = dc.Identity()

    def checked() -> bool:
        try:
            layer(bad)
        except ValueError:
            return True
        return False

    assert checked()
    with dc.validate(False) as off:
        assert not checked()
        with dc.validate(True):
            assert checked()
        assert not checked()
    assert checked()
    with off:  # once more
        assert not checked()
        with off:
            assert not checked()
        assert not checked()
    assert checked()
    dc.validate(False)
    assert not checked()
    with ThreadPoolExecutor(1) as pool:  # another thread neither sees nor undoes it
        assert pool.submit(checked).result()
        pool.submit(dc.validate, True).result()
    assert not checked()
    dc.validate(True)
    assert checked()


@pytest.mark.parametrize("name", ["DiffJPEG", "DiffH264 revmark", "GaussianBlur", "FrameAverage"])
def test_inductor_equals_eager(name: str) -> None:
    import shutil

    if not shutil.which("c++") and not shutil.which("g++"):
        pytest.skip("no C++ compiler")
    torch._dynamo.reset()
    layer, x = LAYERS[name](), natural(1, 3, 24, 32)
    draw = layer.sample(x.shape, torch.Generator().manual_seed(0))
    compiled = torch.compile(layer, fullgraph=True)
    assert ((layer(x, draw) - compiled(x, draw)).abs() < 1e-4).float().mean() >= 0.999
