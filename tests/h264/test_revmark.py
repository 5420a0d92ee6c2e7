"""The paper's simulator: equations (3)-(10) by hand, and its options."""

import pytest
import torch
from helpers import natural
from torch import Tensor

import diffcodec as dc
from diffcodec.color import rgb_to_ycbcr, ycbcr_to_rgb
from diffcodec.jpeg import CHROMA, LUMA
from diffcodec.rounding import cubic
from diffcodec.transform import dct_matrix


def no_motion(current: Tensor, reference: Tensor) -> Tensor:
    return torch.zeros(current.shape[0], 2, *current.shape[-2:])


def by_hand(plane: Tensor, table: Tensor) -> Tensor:
    """Equations (3)-(5) block by block."""
    d = torch.from_numpy(dct_matrix(8)).float()
    out = plane.clone()
    for y in range(0, plane.shape[0], 8):
        for x in range(0, plane.shape[1], 8):
            c = d @ plane[y : y + 8, x : x + 8] @ d.T
            out[y : y + 8, x : x + 8] = d.T @ (cubic(c / table) * table) @ d
    return out


def test_equations_by_hand_without_motion() -> None:
    x = natural(1, 3, 16, 24)
    y = dc.DiffH264(model="revmark", reference=1, motion=no_motion)(x)
    ycc = rgb_to_ycbcr(x)[0]
    base = [LUMA.value.float(), CHROMA.value.float() * 0.5, CHROMA.value.float() * 0.5]
    reference = torch.stack([by_hand(p - 128, t * 1.5) + 128 for p, t in zip(ycc[1], base)])
    for i in range(3):
        coded = reference if i == 1 else reference + torch.stack([by_hand(p, t * 5) for p, t in zip(ycc[i] - reference, base)])
        torch.testing.assert_close(y[0, i], ycbcr_to_rgb(coded).clamp(0, 1), atol=1e-4, rtol=0)


def test_motion_goes_from_the_reference_to_each_frame() -> None:
    x = natural(1, 5, 64, 64)
    psnrs = {
        m: dc.metrics.psnr(dc.DiffH264(model="revmark", reference=0, motion=f)(x), x).item()
        for m, f in (("none", no_motion), ("block", None))
    }
    assert psnrs["block"] > psnrs["none"] + 1


@pytest.mark.parametrize("reference", [0, 2, 3, -1])
def test_fixed_reference(reference: int) -> None:
    x = natural(2)
    layer = dc.DiffH264(model="revmark", reference=reference)
    assert layer.encode(x).frame_types == ["".join("I" if i == reference % 4 else "P" for i in range(4))] * 2


def test_drawn_references_differ_between_samples() -> None:
    draw = dc.DiffH264(model="revmark").sample((400, 4, 3, 8, 8), torch.Generator().manual_seed(0))
    counts = torch.bincount(draw["reference"], minlength=4)
    assert (counts > 60).all()


def test_reference_is_coded_finer_than_the_rest() -> None:
    x = natural(1, 4, 64, 64)
    y = dc.DiffH264(model="revmark", reference=1)(x)
    error = (y - x).square().mean((0, 2, 3, 4))
    assert error.argmin() == 1


def test_residuals_are_not_clamped() -> None:
    x = torch.zeros(1, 2, 3, 16, 16)
    x[:, 1] = 1  # the residual spans the whole range
    y = dc.DiffH264(model="revmark", reference=0, rounding="identity")(x)
    torch.testing.assert_close(y, x, atol=1e-5, rtol=0)


def test_one_frame_is_intra_only() -> None:
    x = natural(1, 1)
    coded = dc.DiffH264(model="revmark").encode(x)
    assert coded.frame_types == ["I"]
    assert torch.equal(coded.video, dc.DiffH264(model="revmark", reference=0)(x))


def test_gradient_runs_through_motion_only_on_request() -> None:
    torch.manual_seed(0)
    net = dc.motion.SPyNet(2)
    x = natural(1, 2, 32, 32)
    for flow_gradient in (False, True):
        net.zero_grad(set_to_none=True)
        v = x.clone().requires_grad_(True)
        dc.DiffH264(model="revmark", motion=net, flow_gradient=flow_gradient)(v).square().sum().backward()
        assert v.grad is not None
        assert v.grad.isfinite().all()
        assert any(p.grad is not None and bool(p.grad.any()) for p in net.parameters()) is flow_gradient


def test_block_motion_takes_no_gradient_but_gives_one() -> None:
    x = natural(1, 3).requires_grad_(True)
    (g,) = torch.autograd.grad(dc.DiffH264(model="revmark", reference=0, flow_gradient=True)(x)[:, 1:].sum(), x)
    assert (g[:, 0] != 0).any()  # the reference steers the frames predicted from it


def test_stronger_tables_distort_more() -> None:
    x = natural(1, 4, 64, 64)
    psnrs = [dc.metrics.psnr(dc.DiffH264(model="revmark", intra_scale=s, inter_scale=s)(x), x).item() for s in (0.2, 1.0, 5.0)]
    assert psnrs == sorted(psnrs, reverse=True)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"crf": 23}, TypeError, "knows no CRF"),
        ({"model": "x265"}, ValueError, "x265"),
        ({"quality": 3}, TypeError, "quality=3"),
        ({"reference": 1.5}, TypeError, "1.5"),
        ({"flow_from": "nowhere"}, ValueError, "nowhere"),
        ({"intra_scale": 0}, ValueError, "got 0"),
        ({"rounding": "hard"}, ValueError, "hard"),
    ],
)
def test_bad_options(options: dict, error: type[Exception], words: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(error, match=words):
        dc.DiffH264(**{"model": "revmark"} | options)


def test_reference_outside_the_clip() -> None:
    with pytest.raises(ValueError, match="reference 7 is outside a clip of 4 frames"):
        dc.DiffH264(model="revmark", reference=7)(natural(1))
