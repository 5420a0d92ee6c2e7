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
    with pytest.raises(TypeError, match="Flip is no codec"):
        dc.adapt(dc.Flip(), layout="BCTHW").encode(x.transpose(1, 2))
