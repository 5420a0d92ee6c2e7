"""Real video codecs through PyAV."""

import threading
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from helpers import natural
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import diffcodec as dc
from diffcodec.real.encoders import _av1_payload, _h264_payload, _nal_units

NAMES = ["libx264", "libx265", "libvpx-vp9", "libsvtav1"]
CRF = {"libx264": 23, "libx265": 28, "libvpx-vp9": 32, "libsvtav1": 35}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(2, 5, 3, 64, 80), (1, 1, 3, 64, 64), (1, 2, 3, 1, 1), (1, 3, 3, 17, 35), (1, 2, 3, 1, 40)])
def test_any_size_and_length(name: str, shape: tuple[int, ...]) -> None:
    b, t, _, h, w = shape
    x = natural(b, t, h, w)
    coded = dc.RealCodec(name, CRF[name]).encode(x)
    assert coded.video.shape == x.shape
    assert [len(f) for f in coded.frame_types] == [t] * b
    assert all(f[0] == "I" for f in coded.frame_types)
    assert torch.equal((coded.video * 255).round() / 255, coded.video)  # 8-bit values
    for bits, stream in zip(coded.bits.tolist(), coded.streams):
        assert 0 < bits <= 8 * len(stream)
    if min(h, w) >= 17:
        assert dc.metrics.psnr(coded.video, x).min() > 22


@pytest.mark.parametrize("name", NAMES)
def test_strength_is_monotone_and_deterministic(name: str) -> None:
    x = natural(1, 5, 64, 80)
    crfs = (10, 25, 40)
    coded = [dc.RealCodec(name, c).encode(x) for c in crfs]
    psnrs = [dc.metrics.psnr(c.video, x).item() for c in coded]
    assert psnrs == sorted(psnrs, reverse=True)
    sizes = [c.bits.item() for c in coded]
    assert sizes == sorted(sizes, reverse=True)
    again = dc.RealCodec(name, crfs[1]).encode(x)
    assert torch.equal(again.video, coded[1].video)
    assert again.streams == coded[1].streams


def test_a_batch_is_its_clips_one_by_one() -> None:
    x = natural(4, 4, 48, 48)
    codec = dc.RealCodec(crf=(15, 35))
    draw = codec.sample(x.shape, torch.Generator().manual_seed(0))
    whole = codec(x, draw)
    for i in range(4):
        assert torch.equal(codec(x[i : i + 1], {"crf": draw["crf"][i : i + 1]}), whole[i : i + 1])


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 4))
def test_x264_any_size(h: int, w: int, t: int) -> None:
    x = torch.full((1, t, 3, h, w), 0.5)
    y = dc.RealCodec(preset="ultrafast")(x)
    assert y.shape == x.shape
    assert (y - x).abs().max() < 0.03


def test_x264_against_a_file_written_by_hand(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """The same frames through a container and libav's own defaults give the same pictures."""
    x = natural(1, 6, 48, 64)
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "23", "preset": "medium", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in dc.color.to_8bit(x[0]).permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        frames = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    assert torch.equal(dc.RealCodec("libx264", 23)(x)[0], torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255)


def test_frame_rate_is_part_of_the_codec() -> None:
    x = natural(1, 8, 64, 64)
    slow, fast = (dc.RealCodec(crf=23, fps=f).encode(x).bits.item() for f in (25, 100))
    assert fast < 0.95 * slow


def test_h264_bits_are_slices_only() -> None:
    coded = dc.RealCodec().encode(natural(1, 4, 48, 48))
    stream = coded.streams[0]
    types = [n[0] & 31 for n in _nal_units(stream)]
    assert set(types) == {1, 5, 6, 7, 8}
    assert coded.bits.item() == 8 * sum(len(n) for n in _nal_units(stream) if n[0] & 31 in (1, 5))
    assert coded.bits.item() < 0.9 * 8 * len(stream)  # the SEI with x264's settings alone is 700 bytes


def test_payload_counting_by_hand() -> None:
    data = b"\x00\x00\x00\x01\x67abc\x00\x00\x01\x65defgh\x00\x00\x01\x41i"
    assert _h264_payload(data) == 6 + 2
    obus = bytes([0b0001_0010, 0]) + bytes([0b0000_1010, 2, 9, 9]) + bytes([0b0011_0010, 3, 1, 2, 3])  # delimiter, sequence header, frame
    assert _av1_payload(obus) == 5


def test_gradients() -> None:
    x = natural(2, 4, 32, 32)
    real = dc.RealCodec(crf=30)(x)
    v = x.clone().requires_grad_(True)
    assert not dc.RealCodec(crf=30, gradient=None)(v).requires_grad
    y = dc.RealCodec(crf=30, gradient="identity")(v)
    assert torch.equal(y.detach(), real)
    w = torch.randn_like(x)
    (g,) = torch.autograd.grad((y * w).sum(), v)
    assert torch.equal(g, w)

    simulator = dc.DiffH264(model="revmark", reference=0)
    y = dc.RealCodec(crf=30, gradient=simulator)(v)
    assert torch.equal(y.detach(), real)
    (g,) = torch.autograd.grad((y * w).sum(), v)
    u = x.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad((simulator(u) * w).sum(), u)
    torch.testing.assert_close(g, expected)


def test_best_gradient_is_the_simulators_at_the_same_strength() -> None:
    x = natural(2, 3, 32, 32)
    w = torch.randn_like(x)
    for codec, simulator in (
        (dc.RealCodec(crf=(20, 40), preset="veryfast"), lambda x, d, guide: dc.DiffH264(d, "veryfast")(x, guide=guide)),
        (dc.RealJPEG((20, 90)), lambda x, d, guide: dc.DiffJPEG(d)(x)),
    ):
        draw = codec.sample(x.shape, torch.Generator().manual_seed(0))
        v, u = x.clone().requires_grad_(True), x.clone().requires_grad_(True)
        coded = codec.encode(v, draw)
        (g,) = torch.autograd.grad((coded.video * w).sum(), v)
        strength = draw["crf"] if "crf" in draw else draw["quality"]
        (expected,) = torch.autograd.grad((simulator(u, strength, coded.guide) * w).sum(), u)
        torch.testing.assert_close(g, expected)
        assert not torch.equal(g, w)
    v = x.clone().requires_grad_(True)
    (g,) = torch.autograd.grad((dc.RealCodec("libvpx-vp9")(v) * w).sum(), v)
    assert torch.equal(g, w)
    dc.RealCodec(preset="placebo")
    with pytest.raises(ValueError, match="'best', 'identity'"):
        dc.RealCodec(gradient="beste")


def test_simulator_gradient_is_drawn_with_the_rest() -> None:
    x = natural(1, 4, 32, 32)
    codec = dc.RealCodec(gradient=dc.DiffH264(model="revmark"))
    draw = codec.sample(x.shape, torch.Generator().manual_seed(3))
    assert "reference" in draw["gradient"]
    grads = []
    for _ in range(2):
        v = x.clone().requires_grad_(True)
        grads.append(torch.autograd.grad(codec(v, draw).square().sum(), v)[0])
    assert torch.equal(*grads)


def test_a_mixture_as_gradient_is_drawn_and_scheduled() -> None:
    x = natural(1, 3, 32, 32)
    codec = dc.RealCodec(gradient=dc.RandomDistortion([dc.DiffJPEG(10), dc.DiffJPEG(dc.Ramp(90, 80, 0, 9))]))
    draw = codec.sample(x.shape, torch.Generator().manual_seed(3), step=3)
    grads = []
    for _ in range(2):
        v = x.clone().requires_grad_(True)
        grads.append(torch.autograd.grad(codec(v, draw).square().sum(), v)[0])
    assert torch.equal(*grads)


def test_numpy_and_fraction_numbers_are_numbers() -> None:
    assert "crf=30" in repr(dc.RealCodec(crf=np.int64(30), fps=Fraction(30000, 1001))).replace("np.int64(30)", "30")
    assert dc.DiffJPEG(np.float32(50))(natural(1)).shape == (1, 4, 3, 48, 64)


def test_works_in_a_mixture_and_on_half_precision() -> None:
    x = natural(2, 3, 32, 32)
    mix = dc.RandomDistortion([dc.RealCodec(gradient="identity"), dc.GaussianNoise()], per="sample")
    assert mix(x, generator=torch.Generator().manual_seed(1)).shape == x.shape
    assert dc.RealCodec()(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("libx266",), "libx266"),
        (("libx264", 52), "got 52"),
        (("libx264", -1), "got -1"),
        (("libx264", (30, 20)), r"\(30, 20\)"),
        (("libvpx-vp9", 64), "got 64"),
        (("libsvtav1", 0), "got 0"),
        (("libx264", 23, "warp"), "warp"),
        (("libvpx-vp9", 23, "medium"), "medium"),
        (("libx264", 23, "medium", 0), "fps"),
        (("libx264", 23, "medium", float("nan")), "fps"),
        (("libx264", 23, "medium", 25, {"bframes": 0}), "bframes='0'"),  # PyAV would pass it over
        (("libx264", 23, "medium", 25, {"x264-params": "b-frames=0"}), "b-frames"),
        (("libx264", 23, "medium", 25, {"x264-params": "aq-mode=none"}), "aq-mode"),
        (("libx264", 23, "medium", 25, {"tune": "watermark"}), "watermark"),
        (("libx264", 23, "medium", 25, {"bf": "many"}), "many"),
        (("libx264", 23, "medium", 25, {"crf": 18}), "argument of RealCodec"),
        (("libx264", 23, "medium", 25, {"qp": 40}), "constant CRF"),
        (("libx264", 23, "medium", 25, {"x264-params": "aq-mode=0:qp=40"}), "qp='40'"),
        (("libx264", 23, "medium", 25, {"threads": 4}), "one thread"),
        (("libx264", 23, "medium", 25, "bf=2"), "mapping"),
        (("libx265", 23, "medium", 25, {"x265-params": "foo=1"}), "foo"),
        (("libvpx-vp9", 23, "4", 25, {"foo": "1"}), "foo"),
        (("libsvtav1", 23, "8", 25, {"svtav1-params": "foo=1"}), "foo"),
        (("libx264", 23, "medium", 25, None, "straight"), "straight"),
    ],
)
def test_bad_arguments(arguments: tuple, words: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=words):
        dc.RealCodec(*arguments)


def test_options_reach_the_encoder() -> None:
    x = natural(1, 6, 48, 48)
    assert "B" not in dc.RealCodec(options={"bf": 0}).encode(x).frame_types[0]
    assert "B" in dc.RealCodec(options={"x264-params": "b-adapt=0:bframes=3"}).encode(x).frame_types[0]
    assert set(dc.RealCodec(options={"g": 1}).encode(x).frame_types[0]) == {"I"}


def test_log_level_is_left_as_it_was() -> None:
    import av.logging

    before = av.logging.get_level()
    dc.RealCodec()
    assert av.logging.get_level() == before


def test_codecs_work_from_many_threads() -> None:
    x = natural(1, 3, 32, 32)
    expected, results = dc.RealCodec()(x), []
    threads = [threading.Thread(target=lambda: results.append(dc.RealCodec()(x))) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == 4
    assert all(torch.equal(r, expected) for r in results)


def test_bad_video() -> None:
    with pytest.raises(ValueError, match="BCTHW"):
        dc.RealCodec()(torch.rand(1, 3, 8, 16, 16))
    with pytest.raises(ValueError, match="NaN"):
        dc.RealCodec()(torch.full((1, 2, 3, 16, 16), float("nan")))


def test_rounds_and_does_not_truncate() -> None:
    x = torch.full((1, 1, 3, 16, 16), 100.6 / 255)
    y = torch.full((1, 1, 3, 16, 16), 101.0 / 255)
    assert torch.equal(dc.RealJPEG(100)(x), dc.RealJPEG(100)(y))


def identity(v: Tensor) -> Tensor:
    return v


def test_compnet_learns_a_codec() -> None:
    torch.manual_seed(0)
    clips = [natural(2, 4, 32, 32, seed=s) for s in range(3)]
    codec = dc.RealCodec(crf=40)
    net = dc.CompNet(width=12, depth=3)
    losses = net.fit(codec, clips, steps=60, lr=3e-3)
    assert len(losses) == 60
    assert sum(losses[-6:]) < 0.85 * sum(losses[:6])
    assert not any(p.requires_grad for p in net.parameters())
    unseen = natural(1, 4, 32, 32, seed=9)
    real = codec(unseen)
    assert dc.metrics.psnr(net(unseen), real) > dc.metrics.psnr(unseen, real)  # nearer than doing nothing
    with pytest.raises(ValueError, match="used up"):
        net.fit(codec, iter(clips), steps=9)
    with pytest.raises(ValueError, match="got 0"):
        net.fit(codec, clips, steps=0)


def test_bits_take_the_gradient_of_the_simulator() -> None:
    x = natural(2).requires_grad_(True)
    for codec, simulator in (
        (dc.RealCodec(crf=30), lambda coded: dc.DiffH264(30).encode(x, guide=coded.guide)),
        (dc.RealJPEG(50), lambda coded: dc.DiffJPEG(50).encode(x[:, 0])),
        (dc.RealCodec("libx265", crf=30, gradient=dc.DiffH264(30)), lambda coded: dc.DiffH264(30).encode(x)),
    ):
        v = x[:, 0] if isinstance(codec, dc.RealJPEG) else x
        coded = codec.encode(v)
        with torch.no_grad():
            real = codec.encode(v)
        assert torch.equal(coded.bits, real.bits)
        assert torch.equal(coded.frame_bits, real.frame_bits)
        (found,) = torch.autograd.grad(coded.bits.sum(), x)
        (wanted,) = torch.autograd.grad(simulator(coded).bits.sum(), x)
        assert found.abs().max() > 0
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    "codec",
    [dc.RealCodec(crf=30, gradient="identity"), dc.RealCodec("libx265", crf=30), dc.RealJPEG(gradient=dc.GaussianBlur())],
    ids=["identity", "no simulator", "no codec"],
)
def test_bits_without_a_gradient_say_so(codec: dc.Layer) -> None:
    """A loss with lambda x bits would otherwise train on the distortion alone."""
    x = natural(1).requires_grad_(True)
    coded = codec.encode(x)  # type: ignore[operator]
    coded.video.sum().backward(retain_graph=True)
    (coded.video.sum() + coded.bits.detach().sum()).backward()
    with pytest.raises(RuntimeError, match=r"bits of .* have no gradient: give a simulator .*DiffH264"):
        (coded.video.sum() + coded.bits.sum()).backward()
    with torch.no_grad():
        assert not codec.encode(x).bits.requires_grad  # type: ignore[operator]
