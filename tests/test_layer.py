"""A layer of a user's own."""

from collections.abc import Callable

import pytest
import torch
from helpers import natural
from torch import Tensor

import diffcodec as dc


class Grey(dc.Layer):
    """A user's own layer: one method is enough."""

    def distort(self, video: Tensor, draw: object) -> Tensor:
        return video.mean(2, keepdim=True).expand_as(video)


def test_a_users_own_layer_fits_in() -> None:
    x = natural(2)
    assert dc.RandomDistortion([Grey()])(x).std(2).max() == 0


@pytest.mark.parametrize(
    ("call", "cure"),
    [
        (lambda x: dc.DiffJPEG(50)([x, x]), r"got list; for \[noised, cover\] wrap the layer with diffcodec\.adapt"),
        (lambda x: dc.DiffJPEG(50)(x, x), r"got a tensor of shape .*diffcodec\.adapt\(layer\)\(video, mask=mask\)"),
        (lambda x: dc.DiffJPEG(50)(x, x, x), r"takes \(video, draw\), got 1 more.*diffcodec\.adapt"),
        (
            lambda x: dc.RandomDistortion([dc.Identity()])(x, mask=x[:, :1]),
            r"unexpected mask=.*diffcodec\.adapt\(layer\)\(video, mask=mask\)",
        ),
        (lambda x: dc.DiffJPEG(Q=50), r"DiffJPEG has no argument Q=50 \(did you mean 'quality'\?\); it takes quality, subsampling"),
        (lambda x: dc.RealCodec(presett="fast"), r"RealCodec has no argument presett='fast' \(did you mean 'preset'\?\)"),
        (lambda x: dc.GaussianNoise(q=1), r"GaussianNoise has no argument q=1; it takes sigma"),
        (lambda x: dc.RandomDistortion([torch.nn.Identity()]), r"got Identity; a plain module becomes one as diffcodec\.Compose"),
    ],
)
def test_wrong_calls_name_the_cure(call: Callable[[Tensor], object], cure: str) -> None:
    with pytest.raises(TypeError, match=cure):
        call(torch.rand(2, 3, 16, 16))


def test_the_cure_for_a_plain_module_works() -> None:
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(dc.RandomDistortion([dc.Compose([torch.nn.Identity()])])(x), x)


def test_vmap_and_second_order_name_the_cure() -> None:
    x = torch.rand(2, 2, 3, 16, 16)
    with pytest.raises(RuntimeError, match="DiffH264 does not support vmap: layers take batches, put the mapped dimension into B"):
        torch.func.vmap(lambda clip: dc.DiffH264(30)(clip[None])[0])(x)
    image = x[0].clone().requires_grad_(True)

    def second(layer: dc.Layer) -> Tensor:
        (grad,) = torch.autograd.grad(layer(image).square().sum(), image, create_graph=True)
        return torch.autograd.grad(grad.sum(), image)[0]

    with pytest.raises(RuntimeError, match=r"second order.*DiffJPEG\(rounding='cubic'\) has them, and attacks with backend='reference'"):
        second(dc.DiffJPEG(50))
    assert second(dc.DiffJPEG(50, rounding="cubic")).isfinite().all()
    assert second(dc.GaussianBlur(2.0, backend="reference")).isfinite().all()
