"""Strengths: numbers, ranges, schedules."""

import pytest
import torch
from helpers import natural
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
    with pytest.raises(ValueError, match="two numbers, two ranges or two lists"):
        dc.Ramp(0, (0, 1), 0, 1)
    for make in (
        lambda: dc.Ramp(dc.Choice([1, 2]), dc.Choice([3, 4]), 0, 1),  # type: ignore[arg-type]
        lambda: dc.Ramp(torch.zeros(2), torch.ones(2), 0, 1),  # type: ignore[arg-type]
        lambda: dc.Choice([(10, 20), (30, 40)]),  # type: ignore[list-item]
    ):
        with pytest.raises(TypeError, match="expected numbers"):
            make()
    with pytest.raises(ValueError, match=r"Steps expected whole numbers of steps, got 0\.5"):
        dc.Steps({0: 1, 0.5: 2})  # type: ignore[dict-item]


def test_the_largest_value_is_known_of_schedules() -> None:
    for value, most in (
        (0.5, 0.5), ((0.1, 0.7), 0.7), (dc.Choice([0.2, 0.9]), 0.9), (dc.Ramp(0.1, 0.6, 0, 9), 0.6), (dc.Ramp((0.1, 0.2), (0.3, 0.8), 0, 9), 0.8),
        (dc.Steps({0: 0.5, 10: (0.2, 0.9)}), 0.9), (lambda step: 0.1, 2.0), (torch.tensor([0.5]), 2.0),
    ):  # fmt: skip
        assert Strength(value, "scale", 0, 2).most() == most  # type: ignore[arg-type]


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
    for bad in ("5", None, [1, 2, 30], [], ["2"], [True], (1, 2, 3), (1,), True):
        with pytest.raises((TypeError, ValueError)):
            Strength(bad, "q", 0, 10)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        Strength(torch.zeros(2, 2), "q", 0, 10)


def test_a_list_is_one_value_per_sample_everywhere() -> None:
    """In a constructor, at a call and in a schedule; a range is a tuple, values to choose from are a Choice."""
    x = natural(2, 2, 16, 16)
    each = dc.DiffJPEG([30, 90])
    assert each.sample(x.shape)["quality"].tolist() == [30, 90]
    assert torch.equal(each(x), dc.DiffJPEG()(x, quality=[30, 90]))
    assert torch.equal(each(x), dc.DiffJPEG(torch.tensor([30.0, 90]))(x))
    steps = dc.Steps({0: [30, 90], 5: (30, 90)})
    assert dc.DiffJPEG(steps).sample(x.shape, step=0)["quality"].tolist() == [30, 90]
    mixture = dc.RandomDistortion([dc.DiffJPEG([30, 90]), dc.Identity()], weights=[1, 0], per="sample")
    assert torch.equal(mixture(x), each(x))
    cure = r"a list is one value per sample; a range is a tuple \(low, high\), values to choose from are diffcodec\.Choice"
    for bad in (lambda: dc.DiffJPEG([30, 50, 95])(x), lambda: dc.DiffJPEG()(x, quality=[30]), lambda: dc.DiffJPEG(["30", "90"])):  # type: ignore[list-item]
        with pytest.raises((TypeError, ValueError), match=cure):
            bad()
    with pytest.raises(TypeError, match=cure):
        dc.DiffJPEG(dc.Ramp([30, 40], [50, 60], 0, 9))


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
