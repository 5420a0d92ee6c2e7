"""A default dtype and a default device are the caller's: layers compute the same under every one of them."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from helpers import natural
from test_contract import LAYERS
from torch import Tensor

import diffcodec as dc
import revmark_ref

DTYPES = [torch.bfloat16, torch.float16, torch.float64]
MORE: dict[str, Callable[[], dc.Layer]] = {
    "DiffH264 medium": lambda: dc.DiffH264(30, gop="random"),
    "DiffH264 reference": lambda: dc.DiffH264(30, backend="reference"),
    "DiffH264 ultrafast reference": lambda: dc.DiffH264(30, "ultrafast", backend="reference"),
    "DiffH264 bitrate": lambda: dc.DiffH264(bitrate=200e3),
    "DiffJPEG reference": lambda: dc.DiffJPEG(50, backend="reference"),
    "RealCodec guided": lambda: dc.RealCodec(crf=30, preset="veryfast"),
}
ALL = LAYERS | MORE


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def used(make: Callable[[], dc.Layer], x: Tensor) -> list[Tensor]:
    """A layer made, drawn, called and differentiated: its draw, output and gradient."""
    torch.manual_seed(3)  # for weights
    layer = make().to(torch.float32)  # its parameters, where it has some
    x = x.clone().requires_grad_(True)
    draw = layer.sample(x.shape, torch.Generator("cpu").manual_seed(1))
    out = layer(x, draw)
    (grad,) = torch.autograd.grad(out.square().sum(), x)
    coded = [layer.encode(x, draw)] if isinstance(layer, dc.Codec) else []
    return [*flat(draw), out.detach(), grad, *(c.frame_bits.detach() for c in coded)]


def flat(draw: object) -> Iterator[Tensor]:
    if isinstance(draw, Tensor):
        yield draw
    elif isinstance(draw, dict):
        for value in draw.values():
            yield from flat(value)


def same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert a.dtype == b.dtype
        assert a.device == b.device
        assert torch.equal(a, b)


@pytest.fixture(scope="module")
def expected() -> dict[str, list[Tensor]]:
    return {}


def wanted(name: str, store: dict[str, list[Tensor]]) -> list[Tensor]:
    if name not in store:
        store[name] = used(ALL[name], natural(2))
    return store[name]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_layers_do_not_depend_on_the_default_dtype(name: str, dtype: torch.dtype, expected: dict[str, list[Tensor]]) -> None:
    before, x = wanted(name, expected), natural(2)
    with default_dtype(dtype):
        same(used(ALL[name], x), before)


@pytest.mark.parametrize("name", ALL)
def test_layers_do_not_depend_on_the_default_device(name: str, expected: dict[str, list[Tensor]]) -> None:
    if any(p.numel() for p in ALL[name]().parameters()):
        pytest.skip("parameters are made on the default device, as those of every module are")
    before, x = wanted(name, expected), natural(2)
    with torch.device("meta"):  # a tensor that follows the default holds no values
        same(used(ALL[name], x), before)


@pytest.mark.parametrize("given", [torch.float16, torch.float64], ids=str)
def test_other_inputs_under_another_default(given: torch.dtype) -> None:
    """What Lightning's "bf16-true" does, with inputs of other dtypes besides."""
    for make in (lambda: dc.DiffH264(30), lambda: dc.DiffJPEG(50), lambda: dc.RealCodec(crf=30)):
        x = natural(1).to(given)
        before = used(make, x)
        with default_dtype(torch.bfloat16):
            same(used(make, x), before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_files_figures_and_marks(dtype: torch.dtype, clip_file: Path, tmp_path: Path) -> None:
    def all_of_it() -> list[Tensor]:
        clips = dc.Clips([clip_file], frames=4, size=32, length=2, seed=0)
        video = dc.read_video(clip_file, 0, 4)
        figures = dc.fidelity.compare([clips[0]], dc.DiffH264(30), dc.RealCodec(crf=30, gradient=None))
        steering = dc.fidelity.steering([clips[0]], dc.DiffJPEG(50), dc.RealJPEG(50), steps=2)
        return [clips[1], video, torch.tensor([figures.survival_error, figures.skill, steering.static], dtype=torch.float64, device="cpu")]

    before = all_of_it()
    assert before[0].dtype == before[1].dtype == torch.float32
    with default_dtype(dtype):
        same(all_of_it(), before)
    with torch.device("meta"):
        same(all_of_it(), before)


FLOATING = {"zeros", "ones", "empty", "full", "linspace", "logspace", "eye", "rand", "randn", "tensor", "as_tensor"}
WHOLE = {"arange", "randint", "randperm"}
PARAMETERS = {"nn.Parameter", "torch.nn.Parameter"}  # those of a network follow the defaults, as torch's own do


def constructors(path: Path) -> Iterator[tuple[ast.Call, set[str]]]:
    """Calls that make a tensor from nothing, and the names of their keyword arguments."""
    inside: set[int] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in PARAMETERS:
            inside |= {id(n) for n in ast.walk(node)}
        if isinstance(node, ast.Call) and id(node) not in inside:
            module, _, name = ast.unparse(node.func).rpartition(".")
            if module == "torch" and name in FLOATING | WHOLE:
                yield node, {k.arg or "" for k in node.keywords}


@pytest.mark.parametrize("package", [dc, revmark_ref], ids=["diffcodec", "revmark_ref"])
def test_every_tensor_is_made_with_its_dtype_and_device(package: object) -> None:
    folder = Path(package.__file__ or "").parent  # type: ignore[attr-defined]
    wrong = []
    for path in sorted(folder.rglob("*.py")):
        for node, given in constructors(path):
            kind = ast.unparse(node.func).removeprefix("torch.")
            if "" not in given and not ({"device"} | ({"dtype"} if kind in FLOATING else set())) <= given:
                wrong.append(f"{path.relative_to(folder)}:{node.lineno} {ast.unparse(node)}")
    assert not wrong
