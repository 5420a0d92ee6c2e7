import pytest
import torch
from torch.autograd import gradcheck

from diffcodec import rounding
from diffcodec.rounding import ROUNDINGS

INTEGERS = torch.arange(-3.0, 4)


def slope(f: rounding.Rounding, x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_(True)
    (g,) = torch.autograd.grad(f(x).sum(), x)
    return g


def test_at_integers() -> None:
    for name in ("cubic", "straight_through", "identity"):
        assert torch.equal(ROUNDINGS[name](INTEGERS), INTEGERS)
    torch.testing.assert_close(rounding.soft(INTEGERS), INTEGERS)
    assert torch.equal(slope(rounding.cubic, INTEGERS), torch.zeros(7))
    assert torch.equal(slope(rounding.straight_through, INTEGERS), torch.ones(7))


def test_between_integers() -> None:
    x = torch.tensor([0.2, 0.4, -0.3, 1.25, -2.4])
    torch.testing.assert_close(rounding.cubic(x), torch.tensor([0.008, 0.064, -0.027, 1.015625, -2.064]))
    torch.testing.assert_close(rounding.paper(x), torch.tensor([0.008, 0.064, -0.027, 1.25, -2.4]))  # eq. (1) rounds only the dead zone
    assert rounding.straight_through(x).tolist() == [0.0, 0.0, 0.0, 1.0, -2.0]
    assert torch.equal(rounding.identity(x), x)
    torch.testing.assert_close(slope(rounding.cubic, x), 3 * (x - x.round()) ** 2)
    torch.testing.assert_close(slope(rounding.paper, x), torch.tensor([0.12, 0.48, 0.27, 1.0, 1.0]))


def test_noise_is_uniform_and_can_be_given() -> None:
    x = torch.zeros(100_000)
    y = rounding.noise(x)
    assert y.abs().max() <= 0.5
    assert abs(y.mean()) < 0.01
    assert abs(y.var() - 1 / 12) < 0.01
    assert torch.equal(rounding.noise(x, torch.full_like(x, 0.75)), torch.full_like(x, 0.25))
    assert torch.equal(slope(rounding.noise, x[:5]), torch.ones(5))


def test_soft_goes_from_identity_to_round() -> None:
    x = torch.tensor([0.2, 1.7, -0.4])
    torch.testing.assert_close(rounding.soft(x, 1e-2), x, atol=1e-4, rtol=0)
    torch.testing.assert_close(rounding.soft(x, 200.0), x.round())
    with pytest.raises(ValueError, match="-1"):
        rounding.soft(x, -1)


@pytest.mark.parametrize("name", ["cubic", "soft", "identity", "paper"])
def test_gradcheck_where_smooth(name: str) -> None:
    x = torch.tensor([0.1, 0.3, -0.2, 1.3, 2.6, -1.2], dtype=torch.float64, requires_grad=True)
    assert gradcheck(ROUNDINGS[name], x)


def test_rounded_values_are_exact_however_large() -> None:
    x = torch.cat([torch.randn(1000) * 10.0**k for k in range(6)])
    assert torch.equal(rounding.straight_through(x), x.round())


def test_names() -> None:
    assert rounding.get("cubic") is rounding.cubic
    assert rounding.get(torch.round) is torch.round
    with pytest.raises(ValueError, match="'hard'"):
        rounding.get("hard")
