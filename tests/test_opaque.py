"""torch.compile and torch.func: the claims of the table in docs/conventions.rst hold."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import natural
from torch import Tensor, nn

import diffcodec as dc

ROWS: dict[str, list[Callable[[], dc.Layer]]] = {
    "attacks, ``Identity``, ``JPEGMask``, ``JPEGDrop``, ``CompNet``": [
        dc.FrameAverage, dc.FrameDrop, dc.FrameSwap, dc.FrameInsert, dc.FrameRate, dc.RandomCrop, dc.Resize, dc.Rotate, dc.Flip, dc.GaussianNoise,
        dc.GaussianBlur, dc.Brightness, dc.Contrast, dc.Saturation, dc.Hue, dc.ColorDither, dc.Identity, dc.JPEGMask, dc.JPEGDrop,
        lambda: dc.CompNet(4, 2),
    ],
    "``DiffJPEG``": [lambda: dc.DiffJPEG(50)],
    "``DiffJPEG(rounding=...)``": [lambda: dc.DiffJPEG(50, rounding="cubic"), lambda: dc.DiffJPEG(50, rounding="soft")],
    "``DiffH264``": [lambda: dc.DiffH264((20, 30), "ultrafast", gop="random")],
    '``DiffH264(model="revmark")``': [lambda: dc.DiffH264(model="revmark")],
    "``RealCodec``, ``RealJPEG``": [lambda: dc.RealCodec(crf=(20, 30), preset="ultrafast"), lambda: dc.RealJPEG((30, 60))],
}  # fmt: skip
COLUMNS = ["compile", "grad", "jvp", "vmap", "second order"]


def table() -> dict[str, list[bool]]:
    """Rows of the table in the docs."""
    text = (Path(__file__).parents[1] / "docs" / "conventions.rst").read_text()
    rows: list[list[str]] = []
    for line in text.partition(".. list-table:: Supported transforms")[2].partition("\n\n\n")[0].splitlines():
        line = line.strip()
        if line.startswith("* -"):
            rows.append([line[4:]])
        elif line.startswith("- ") and rows:
            rows[-1].append(line[2:])
        elif line and rows and not line.startswith(":"):
            break
    return {row[0]: [cell.startswith("yes") for cell in row[1:]] for row in rows[1:]}


def test_the_table_lists_all_rows() -> None:
    found = table()
    assert list(found) == list(ROWS)
    assert all(len(cells) == len(COLUMNS) for cells in found.values())


CASES = [(row, i, make) for row, makes in ROWS.items() for i, make in enumerate(makes)]
every_case = pytest.mark.parametrize(("row", "make"), [(r, m) for r, _, m in CASES], ids=[f"{r[:24]}-{i}" for r, i, _ in CASES])


@every_case
def test_compile(row: str, make: Callable[[], dc.Layer]) -> None:
    """A model around a layer, as one graph, with a given draw and without; the real codecs too."""
    assert table()[row][0]
    torch._dynamo.reset()
    layer, x = make(), natural(2, 3, 24, 32)
    draw = layer.sample(x.shape, torch.Generator().manual_seed(0))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer
            self.gain = nn.Parameter(torch.tensor(0.9))

        def forward(self, x: Tensor, draw: object = None) -> Tensor:
            return (self.layer(x * self.gain, draw) * 2).square().mean()

    model = Model()
    began = time.monotonic()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = []
    for call in (model, compiled):
        v = x.clone().requires_grad_(True)
        model.gain.grad = None
        loss = call(v, draw)
        loss.backward()
        found.append((loss.detach(), v.grad, model.gain.grad))
    assert time.monotonic() - began < 10
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
    compiled(x)  # drawn inside
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, draw), model(x, draw), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("make", [lambda: dc.DiffH264(25, "ultrafast"), lambda: dc.DiffJPEG(50), lambda: dc.RealCodec(preset="ultrafast")])
def test_compiled_copies_and_the_next_size(make: Callable[[], dc.Layer]) -> None:
    """From the second size on torch compiles for any size, which takes minutes where it looks into the exact DiffJPEG."""
    import copy

    torch._dynamo.reset()
    began = time.monotonic()
    layer = make()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    other = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")
    for size in ((2, 3, 24, 32), (3, 4, 17, 19), (4, 2, 40, 33)):
        x = natural(*size)
        draw = layer.sample(x.shape)
        assert torch.equal(compiled(x, draw), layer(x, draw))
        v = x.clone().requires_grad_(True)
        compiled(v, draw).sum().backward()
        assert v.grad is not None
    assert torch.equal(other(x, draw), layer(x, draw))
    assert time.monotonic() - began < 20


@every_case
def test_functional_transforms(row: str, make: Callable[[], dc.Layer]) -> None:
    """What the table says holds, and the rest is an error that names the layer."""
    _, grad, jvp, vmap, second = table()[row]
    layer, x = make(), natural(2, 3, 16, 16)
    draw = layer.sample(x.shape, torch.Generator().manual_seed(0))

    def loss(v: Tensor) -> Tensor:
        return layer(v, draw).square().sum()

    assert grad
    v = x.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(loss(v), v)
    torch.testing.assert_close(torch.func.grad(loss)(x), expected, rtol=1e-4, atol=1e-5)
    y, pull = torch.func.vjp(lambda v: layer(v, draw), x)
    assert torch.equal(y, layer(x, draw))
    torch.testing.assert_close(pull(2 * y)[0], expected, rtol=1e-4, atol=1e-5)

    tangent = torch.randn_like(x)
    calls: list[tuple[bool, Callable[[], object]]] = [
        (jvp, lambda: torch.func.jvp(lambda v: layer(v, draw), (x,), (tangent,))),
        (vmap, lambda: torch.func.vmap(lambda v: layer(v, draw))(torch.stack([x, x]))[1]),
        (second, lambda: torch.func.grad(lambda u: (torch.func.grad(loss)(u) * tangent).sum())(x)),
        (second, lambda: second_order(loss, x)),
    ]
    for holds, call in calls:
        if holds:
            call()
        else:
            with pytest.raises(RuntimeError, match="gradients of first order|second order|does not support vmap: layers take batches"):
                call()
    if vmap:
        torch.testing.assert_close(calls[1][1](), layer(x, draw), atol=1e-5, rtol=0)


def second_order(loss: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    v = x.clone().requires_grad_(True)
    (g,) = torch.autograd.grad(loss(v), v, create_graph=True)
    return torch.autograd.grad(g.square().sum() + v.sum(), v)[0]


@pytest.mark.parametrize(
    "make",
    [lambda: dc.GaussianNoise((0, 0.1)), lambda: dc.DiffJPEG((30, 90)), lambda: dc.DiffH264((20, 30), "ultrafast", gop="random"), dc.RandomCrop,
     lambda: dc.DiffH264(model="revmark"), lambda: dc.RealCodec(crf=dc.Choice([20, 30]), preset="ultrafast"), lambda: dc.RealJPEG((30, 90))],
)  # fmt: skip
def test_what_is_drawn_inside_a_compiled_call_follows_the_size(make: Callable[[], dc.Layer]) -> None:
    """The last batch of an epoch is smaller."""
    torch._dynamo.reset()
    compiled = torch.compile(make(), fullgraph=True, backend="aot_eager")
    for size in ((4, 3, 24, 32), (3, 3, 24, 32), (2, 3, 24, 32)):
        x = natural(*size).requires_grad_(True)
        compiled(x).sum().backward()
        assert x.grad is not None


def test_a_layer_that_lives_no_longer_than_its_call() -> None:
    import gc

    x = natural(1, 2, 16, 16)
    for make in (lambda: dc.DiffJPEG(50), lambda: dc.DiffH264(23, "ultrafast"), lambda: dc.RealJPEG(50)):
        assert torch.func.grad(lambda v: make()(v).square().sum())(x).any()  # noqa: B023
        _, pull = torch.func.vjp(lambda v: make()(v), x)  # noqa: B023
        gc.collect()
        assert pull(torch.ones_like(x))[0].isfinite().all()
    torch._dynamo.reset()
    v = x.clone().requires_grad_(True)
    loss = torch.compile(dc.DiffH264(23, "ultrafast"), fullgraph=True, backend="aot_eager")(v).sum()
    gc.collect()
    loss.backward()
    assert v.grad is not None


def test_gradients_by_the_strength_alone() -> None:
    x = natural(2, 2, 16, 16)
    for layer, name, value in ((dc.DiffJPEG(50), "quality", [30.0, 60.0]), (dc.DiffH264(23, "ultrafast"), "crf", [20.0, 30.0])):
        draw = layer.sample(x.shape)
        strength = torch.tensor(value)

        def loss(s: Tensor) -> Tensor:
            return layer(x, draw | {name: s}).square().sum()  # noqa: B023

        s = strength.clone().requires_grad_(True)
        (expected,) = torch.autograd.grad(loss(s), s)
        torch.testing.assert_close(torch.func.grad(loss)(strength), expected)


def test_jacobians_by_rows() -> None:
    layer, x = dc.DiffJPEG(50), natural(1, 1, 8, 8)[:, 0]
    draw = layer.sample(x.shape)
    jacobian = torch.func.jacrev(lambda v: layer(v, draw).flatten()[:3])(x)
    for i in range(3):
        v = x.clone().requires_grad_(True)
        (row,) = torch.autograd.grad(layer(v, draw).flatten()[i], v)
        torch.testing.assert_close(jacobian[i], row)


def _graphs(module: torch.nn.Module) -> tuple[torch.nn.Module, list[int]]:
    """A module compiled in one graph, and a list that grows with each graph that is compiled."""
    from torch._dynamo.backends.registry import lookup_backend

    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        graphs.append(len(graph.graph.nodes))
        return lookup_backend("aot_eager")(graph, inputs)

    torch._dynamo.reset()
    return torch.compile(module, backend=backend, fullgraph=True), graphs


class _Training(torch.nn.Module):
    def __init__(self, layer: dc.Layer) -> None:
        super().__init__()
        self.before, self.layer, self.after = torch.nn.Linear(24, 24), layer, torch.nn.Linear(24, 1)

    def forward(self, x: Tensor, step: int | None = None) -> Tensor:
        return self.after(self.layer(torch.sigmoid(self.before(x)), step=step)).sum()


@pytest.mark.parametrize("per", ["batch", "sample"])
def test_a_mixture_is_one_graph_whatever_it_draws(per: str) -> None:
    """Dynamo gives up after eight; the result is that of eager mode from the same random state, its gradient as well."""
    inner = dc.RandomDistortion([dc.Brightness((0.5, 1.5)), dc.DiffJPEG((30, 90))], per=per)
    members = [
        dc.GaussianNoise((0, 0.1)),
        dc.FrameDrop(0.5),
        dc.DiffH264((20, 40), "ultrafast"),
        dc.Flip(0.5),
        dc.RealCodec(preset="ultrafast"),
        inner,
    ]
    eager = _Training(dc.RandomDistortion(members, dc.Ramp([1] * 6, [1, 2, 3, 1, 1, 2], 0, 30), per=per))
    compiled, graphs = _graphs(eager)
    x = natural(2, 2, 24, 24)
    chosen = set()
    for step in range(24):
        torch.manual_seed(step)
        chosen.add(tuple(eager.layer.sample(x.shape, step=step)["choice"]))
        found = []
        for module in (eager, compiled):
            torch.manual_seed(step)
            eager.zero_grad()
            loss = module(x, step)
            loss.backward()
            found.append((loss.item(), eager.before.weight.grad.clone(), torch.rand(1).item()))
        assert found[0][0] == pytest.approx(found[1][0], abs=1e-4)
        torch.testing.assert_close(found[0][1], found[1][1], atol=1e-5, rtol=1e-4)
        assert found[0][2] == found[1][2]  # the same numbers were taken from the generator
    assert len(chosen) > 3
    assert len(graphs) <= 2  # the second takes any step
    with torch.no_grad():
        assert compiled(x, 3).isfinite()


def test_a_compiled_composition_with_a_mixture_inside() -> None:
    mixture = dc.RandomDistortion([dc.Identity(), dc.Flip(1.0), dc.GaussianNoise(0.1), dc.DiffJPEG(50)])
    compiled, graphs = _graphs(dc.Compose([dc.Resize((0.5, 1.0)), mixture]))
    for _ in range(12):
        assert compiled(natural(1, 2, 16, 16)).shape == (1, 2, 3, 16, 16)
    assert len(graphs) == 1


def test_what_a_compiled_mixture_cannot_do_says_so() -> None:
    crf = torch.tensor([30.0], requires_grad=True)
    compiled, _ = _graphs(dc.RandomDistortion([dc.DiffH264(crf, "ultrafast")]))
    with pytest.raises(Exception, match=r"crf requires a gradient, .*pass mixture\.sample"):
        compiled(natural(1, 2, 16, 16))
    compiled, _ = _graphs(dc.RandomDistortion([dc.FrameRate(0.5, keep_length=False)]))
    with pytest.raises(Exception, match=r"must keep the shape of the video, got .*pass mixture\.sample"):
        compiled(natural(1, 4, 16, 16))
    compiled, _ = _graphs(dc.RandomDistortion([dc.CompNet(4, 2)]))
    with pytest.raises(Exception, match=r"a compiled mixture trains no members: freeze them, or pass a draw"):
        compiled(natural(1, 2, 16, 16))
