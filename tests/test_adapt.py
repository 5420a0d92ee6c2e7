"""Layers behind another layout and range."""

import pytest
import torch
from helpers import natural

import diffcodec as dc


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
    with pytest.raises(TypeError, match="Flip is not a codec"):
        dc.adapt(dc.Flip(), layout="BCTHW").encode(x.transpose(1, 2))


def test_frames_of_one_video_get_one_draw() -> None:
    x = natural(1, 6)
    layer = dc.RandomDistortion([dc.Rotate((-30, 30)), dc.DiffJPEG((10, 90)), dc.FrameDrop(0.5)])
    adapted = dc.adapt(layer, layout="TCHW")
    for seed in range(6):
        draw = adapted.sample(x[0].shape, torch.Generator().manual_seed(seed))
        assert torch.equal(adapted(x[0], draw), layer(x, draw)[0])
        assert len(adapted.describe(draw)) == 1
    assert torch.equal(adapted(x[0], draw), dc.adapt(layer, layout="HWTC")(x[0].permute(2, 3, 0, 1), draw).permute(2, 3, 0, 1))


def test_bgr_normalised_values_and_bytes() -> None:
    x = natural(2)
    layer = dc.Compose([dc.Saturation(1.7), dc.DiffJPEG(30)])
    y = layer(x)
    mean, std = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    normal = dc.adapt(layer, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    torch.testing.assert_close(normal((x - mean) / std) * std + mean, y, atol=2e-3, rtol=0)
    assert torch.equal(dc.adapt(layer, channels="BGR")(x.flip(2)), y.flip(2))
    bgr = dc.adapt(layer, channels="BGR", mean=(0.406, 0.456, 0.485), std=(0.225, 0.224, 0.229))  # the caller's order
    torch.testing.assert_close(bgr(((x - mean) / std).flip(2)).flip(2) * std + mean, y, atol=2e-3, rtol=0)
    bytes_ = (x * 255).round().to(torch.uint8)
    out = dc.adapt(dc.DiffJPEG(30), layout="BTHWC", range=(-1, 1))(bytes_.permute(0, 1, 3, 4, 2))
    assert out.dtype == torch.uint8
    assert out.is_contiguous()
    assert torch.equal(out, (dc.DiffJPEG(30)(bytes_.float() / 255) * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2))
    with pytest.raises(ValueError, match="std expected a number for each of 3 channels, above 0"):
        dc.adapt(layer, std=(0.2, 0, 0.2))
    with pytest.raises(ValueError, match="'GBR'"):
        dc.adapt(layer, channels="GBR")


def test_lists_and_masks() -> None:
    x = natural(3)
    mask = (natural(3, seed=5)[:, :, :1] > 0.5).float()
    noised, cover = dc.adapt(dc.DiffJPEG(50))([x, x + 1])
    assert torch.equal(noised, dc.DiffJPEG(50)(x))
    assert torch.equal(cover, x + 1)
    geometry = dc.Compose([dc.Flip(1.0), dc.FrameSwap(1.0), dc.DiffJPEG(50)])
    layer = dc.RandomDistortion([geometry, dc.RandomCrop(0.5), dc.GaussianNoise(0.1)], per="sample")
    adapted = dc.adapt(layer, layout="BCTHW", range=(-1, 1))
    for seed in range(4):
        draw = adapted.sample(x.transpose(1, 2).shape, torch.Generator().manual_seed(seed))
        _, moved = adapted(x.transpose(1, 2) * 2 - 1, draw, mask=mask.transpose(1, 2))
        moved = moved.transpose(1, 2)
        for i, member in enumerate(draw["choice"]):
            if member == 0:
                assert torch.equal(moved[i], mask[i].flip(-1)[dc.FrameSwap(1.0).sample((1, *x.shape[1:]))["index"][0]])
            elif member == 1:
                assert 0 < moved[i].sum() < mask[i].sum()
            else:
                assert torch.equal(moved[i], mask[i])
    video, moved = dc.adapt(dc.RandomCrop((0.2, 0.9)))(x, mask=torch.ones_like(mask), p=0.5)
    assert torch.equal(moved.expand_as(video) == 0, video == 0)


def test_guides_and_neighbours_go_through() -> None:
    x = natural(1, 6, 32, 32)
    layer = dc.DiffH264(28, "veryfast")
    guide = dc.RealCodec("libx264", crf=28, preset="veryfast").encode(x[:, 2:4]).guide
    adapted = dc.adapt(layer, layout="BTHWC", range=(-1, 1))

    def theirs(v: torch.Tensor) -> torch.Tensor:
        return (v * 2 - 1).permute(0, 1, 3, 4, 2)

    draw = layer.sample((1, 2, 3, 32, 32))
    for options in ({"guide": guide}, {"before": x[:, :2]}, {"before": x[:, :2], "after": x[:, 4:]}):
        g = torch.Generator().manual_seed(0)
        ours = layer(x[:, 2:4], generator=g, **options)
        g = torch.Generator().manual_seed(0)
        out = adapted(theirs(x[:, 2:4]), generator=g, **{k: theirs(v) if k != "guide" else v for k, v in options.items()})
        torch.testing.assert_close(out, theirs(ours), atol=2e-2, rtol=0)
    assert dc.build(adapted.config()).config() == adapted.config()
    assert adapted(theirs(x[:, 2:4]), draw).shape == theirs(x[:, 2:4]).shape


def test_masks_that_do_not_fit_are_named() -> None:
    adapted = dc.adapt(dc.FrameDrop(0.5), layout="TCHW")
    frames = natural(1, 4)[0]
    for mask, error, words in (
        (torch.ones(6, 1, 48, 64), ValueError, r"\(4, 1, 48, 64\), got \(6, 1, 48, 64\)"),
        (torch.ones(4, 3, 48, 64), ValueError, "with one channel"),
        (torch.ones(4, 1, 48, 64, dtype=torch.uint8), TypeError, "uint8"),
        (frames[:, :1].numpy(), TypeError, "ndarray"),
    ):
        with pytest.raises(error, match=words):
            adapted(frames, mask=mask)
    with pytest.raises(ValueError, match="an empty one"):
        adapted([])
    with pytest.raises(TypeError, match="its strengths are quality"):
        dc.adapt(dc.DiffJPEG(), layout="BCHW")(frames, qualty=40)
    rotate, x, mask = dc.adapt(dc.Rotate((5, 30))), natural(2), torch.ones(2, 4, 1, 48, 64)
    for draw, words in (({}, "without 'degrees'"), (dc.Rotate().sample((3, *x.shape[1:])), "is for 3 samples")):
        for options in ({}, {"mask": mask}):
            with pytest.raises(ValueError, match=words):
                rotate(x, draw, **options)


def test_masks_go_as_without_autocast_and_sequences_keep_their_kind() -> None:
    x, mask = natural(2), (natural(2, seed=5)[:, :, :1] > 0.5).float()
    layer = dc.adapt(dc.RandomCrop(0.5, mode="resize"))
    draw = layer.sample(x.shape)
    _, moved = layer(x, draw, mask=mask)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x, draw, mask=mask)[1], moved)
    for kind in (list, tuple):
        given = kind([x, "cover"])
        whole, again = layer(given, draw, mask=mask)
        assert type(whole) is type(layer(given, draw)) is kind
        assert whole[1] == "cover"
        assert torch.equal(again, moved)


def test_unrelated_images_in_the_layout_of_a_video() -> None:
    """VideoSeal's augmenter(imgs, masks, is_video=False): each image is coded alone, with a draw of its own."""
    images = natural(3, 1, 32, 48)[:, 0]  # [N, 3, H, W], three scenes
    codec = dc.adapt(dc.DiffH264(30, "veryfast"), layout="TCHW")
    alone = torch.cat([dc.DiffH264(30, "veryfast")(x[None, None])[:, 0] for x in images])
    assert torch.equal(codec(images, is_video=False), alone)
    assert not torch.equal(codec(images), alone)  # predicted from one another
    assert codec.encode(images, is_video=False).bits.shape == (3,)
    turned = dc.adapt(dc.Rotate((-30, 30)), layout="TCHW")
    draw = turned.sample(images.shape, is_video=False)
    assert draw["degrees"].shape == (3,)
    assert [d["name"] for d in turned.describe(draw)] == ["Rotate"] * 3
    assert len(turned.describe(turned.sample(images.shape))) == 1
    out, mask = turned(images, draw, mask=torch.ones(3, 1, 32, 48), is_video=False)
    assert out.shape == images.shape
    assert mask.shape == (3, 1, 32, 48)
    assert torch.equal(dc.adapt(dc.FrameDrop(0.9), layout="TCHW")(images, is_video=False), images)  # a clip of one frame
    mixture = dc.adapt(dc.RandomDistortion([dc.DiffJPEG(50), dc.Rotate((-30, 30))], per="sample"), layout="TCHW")
    assert mixture(images, is_video=False).shape == images.shape


def test_lists_as_in_hidden_and_mbrs() -> None:
    noised, cover = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    hidden = dc.adapt(dc.DiffJPEG(50), layout="BCHW")
    both = hidden([noised, cover])
    assert isinstance(both, list)
    assert both[1] is cover
    mbrs = dc.adapt(dc.DiffJPEG(50), layout="BCHW", returns="video")
    assert torch.equal(mbrs([noised, cover]), both[0])
    assert torch.equal(mbrs(noised), both[0])
    assert dc.build(mbrs.config()).returns == "video"
    with pytest.raises(ValueError, match="unknown returns 'tensor'"):
        dc.adapt(dc.DiffJPEG(50), returns="tensor")
