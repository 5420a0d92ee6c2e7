"""Native code: the same bits on every instruction set and any number of threads, in forks and workers; a clear error where it cannot run."""

from __future__ import annotations

import ctypes.util
import hashlib
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import natural
from torch import Tensor

import diffcodec as dc
from diffcodec import backend
from diffcodec.implement import _moved
from diffcodec.ops.common import native

pytestmark = pytest.mark.skipif(not dc.backends()["native"].runs, reason=dc.backends()["native"].why)

LAYERS = {
    "DiffH264 medium": lambda: dc.DiffH264(24, backend="native"),
    "DiffH264 ultrafast": lambda: dc.DiffH264(24, "ultrafast", backend="native"),
    "DiffJPEG": lambda: dc.DiffJPEG(60, backend="native"),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def digest(layer: dc.Layer, video: Tensor) -> str:
    """Of the bits of output and gradient."""
    x = video.clone().requires_grad_()
    out = layer(x)
    weight = torch.linspace(-1, 1, out.numel()).view(out.shape)
    (grad,) = torch.autograd.grad((out * weight).sum(), x)
    return hashlib.sha256(out.detach().numpy().tobytes() + grad.numpy().tobytes()).hexdigest()


def on_threads(n: int, layer: dc.Layer, video: Tensor) -> str:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        return digest(layer, video)
    finally:
        torch.set_num_threads(before)


@every_layer
def test_any_number_of_threads_gives_the_same_bits(name: str) -> None:
    layer = LAYERS[name]()
    for video in (natural(3, 5, 64, 80), natural(1, 4, 200, 176)):
        assert len({on_threads(n, layer, video) for n in (1, 2, 3, 8)}) == 1


def test_every_instruction_set_gives_the_same_bits() -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]; import test_native as t; from helpers import natural; from diffcodec.ops.common import native;"
        "print(native.library().isa, *(t.digest(make(), natural(2, 4, 48, 72)) for make in t.LAYERS.values()))"
    )
    found = {}
    for isa in native.ISAS:
        run = subprocess.run(
            [sys.executable, "-c", code, str(Path(__file__).parent)],
            capture_output=True,
            text=True,
            env={**os.environ, native.VARIABLE: isa},
            check=False,
        )
        if "expected one of" in run.stderr:
            continue  # not on this processor
        assert run.returncode == 0, run.stderr
        name, *digests = run.stdout.split()
        assert name == isa
        found[isa] = digests
    assert "base" in found
    assert len({tuple(d) for d in found.values()}) == 1, found


def _converted(rgb: Tensor) -> bytes:
    """By native code alone: torch's own threads do not survive a fork."""
    n, _, h, w = rgb.shape
    luma, chroma = torch.empty(n, h, w), torch.empty(n, 2, h // 2, w // 2)
    native.call("rgb_to_yuv420", rgb, luma, chroma, n, h, w)
    return luma.numpy().tobytes() + chroma.numpy().tobytes()


def _in_child(rgb: Tensor, pipe: Any) -> None:
    pipe.send(_converted(rgb))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_in_a_child_of_a_fork() -> None:
    """Threads of the parent do not exist in the child, which starts its own."""
    rgb, before = natural(8, 1, 128, 128)[:, 0], torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = _converted(rgb)  # the parent has threads now
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        child = context.Process(target=_in_child, args=(rgb, theirs), daemon=True)
        child.start()
        assert ours.poll(60), "the child hangs"
        assert ours.recv() == expected
        child.join(10)
        assert child.exitcode == 0
        assert _converted(rgb) == expected
    finally:
        torch.set_num_threads(before)


class _Distorted(torch.utils.data.Dataset[Tensor]):
    def __init__(self, name: str) -> None:
        self.layer = LAYERS[name]()

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> Tensor:
        with torch.no_grad():
            return self.layer(natural(1, 3, 32, 48))[0]  # type: ignore[no-any-return]


@every_layer
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_in_a_worker_of_a_data_loader(name: str) -> None:
    data = _Distorted(name)
    for batch in torch.utils.data.DataLoader(data, batch_size=2, num_workers=2, timeout=60):
        assert torch.equal(batch[0], data[0])


@every_layer
def test_from_eight_threads_at_once(name: str) -> None:
    layer, videos = LAYERS[name](), [natural(1 + i % 2, 3, 48, 48 + 16 * i) for i in range(8)]
    alone = [digest(layer, v) for v in videos]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda v: digest(layer, v), videos)) == alone
    finally:
        torch.set_num_threads(before)


@every_layer
def test_twice_and_on_the_next_size(name: str) -> None:
    layer = LAYERS[name]()
    first = digest(layer, natural(2, 3, 40, 56))
    digest(layer, natural(1, 5, 64, 32))
    assert digest(layer, natural(2, 3, 40, 56)) == first


def test_inside_a_mixture_as_alone() -> None:
    video = natural(2, 4, 48, 48)
    layer = LAYERS["DiffH264 medium"]()
    mixture = dc.RandomDistortion([dc.RandomDistortion([layer], per="sample")], per="batch")
    assert torch.equal(mixture(video), layer(video))


def test_real_clips_are_those_of_the_reference(real_clips: list[Path]) -> None:
    for preset in ("ultrafast", "medium"):
        for path in real_clips[:4]:
            clip = dc.read_video(path)[None, :6, :, :96, :96]
            found = []
            for name in ("reference", "native"):
                x = clip.clone().requires_grad_()
                out = dc.DiffH264(24, preset, backend=name)(x)
                found.append((out.detach(), torch.autograd.grad((out - 0.5).square().sum(), x)[0].double().flatten()))
            (a, g), (b, h) = found
            assert (a == b).double().mean() >= 0.999
            assert (g @ h) / (g.norm() * h.norm()) >= 0.9999


# What cannot run


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **env}, check=False)


CODE = (
    "import torch, diffcodec as dc; print(dc.backends()['native']);"
    "dc.DiffH264(30)(torch.rand(1, 2, 3, 32, 32)); dc.DiffJPEG(30)(torch.rand(1, 3, 8, 8))"
)


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        (native.LIBRARY_VARIABLE, "/nowhere/libdiffcodec_native.so", "is not there"),
        (native.LIBRARY_VARIABLE, __file__, "invalid ELF header" if sys.platform == "linux" else ""),
        (native.LIBRARY_VARIABLE, ctypes.util.find_library("m") or "", "" if sys.platform != "linux" else "not there"),
        (native.VARIABLE, "sse9", "expected one of"),
    ],
)
def test_without_a_library_everything_runs_in_torch_and_says_so_once(variable: str, value: str, why: str) -> None:
    run = python(CODE, **{variable: value})
    assert run.returncode == 0, run.stderr
    assert "runs=False" in run.stdout
    assert why in run.stdout
    assert run.stderr.count("native code does not run") == 1, run.stderr
    assert len(run.stderr.strip().splitlines()) == 1, run.stderr


def test_a_library_of_another_version_is_not_used(tmp_path: Path) -> None:
    data = Path(native.library().path).read_bytes()  # type: ignore[union-attr]
    mark = dc.__version__.encode() + b"\0"
    assert mark in data
    other = tmp_path / "libdiffcodec_native.so"
    other.write_bytes(data.replace(mark, b"9" + mark[1:]))
    run = python(CODE, **{native.LIBRARY_VARIABLE: str(other)})
    assert run.returncode == 0, run.stderr
    assert f"is of version 9{dc.__version__[1:]}, this is diffcodec {dc.__version__}" in run.stdout


def test_switched_off_without_a_word() -> None:
    run = python(CODE, **{native.VARIABLE: "off"})
    assert run.returncode == 0
    assert "DIFFCODEC_NATIVE is off" in run.stdout
    assert not run.stderr
    named = python("import torch, diffcodec as dc; dc.DiffJPEG(30, backend='native')(torch.rand(1, 3, 8, 8))", **{native.VARIABLE: "off"})
    assert "RuntimeError: backend='native' cannot run: the environment variable DIFFCODEC_NATIVE is off" in named.stderr


def test_what_native_code_has_not_is_said() -> None:
    x = natural(1, 2, 16, 16)
    with pytest.raises(RuntimeError, match="backend='native' cannot run: kernels compute in float32, the input is float64"):
        dc.DiffJPEG(50, backend="native")(x.double())
    blurred = [dc.GaussianBlur(2.0, backend=b)(x) for b in ("native", "reference")]  # an operation that native code has not
    assert torch.equal(*blurred)
    assert dc.DiffJPEG(50)(x.double()).dtype == torch.float64  # the reference's
    assert dc.GaussianBlur(2.0)(x).shape == x.shape


def test_functions_check_what_they_are_given() -> None:
    x, wrong = torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4).double()
    luma, chroma = torch.empty(1, 4, 4), torch.empty(1, 2, 2, 2)
    with pytest.raises(TypeError, match="argument 1 expected torch.float32, got torch.float64"):
        native.call("rgb_to_yuv420", wrong, luma, chroma, 1, 4, 4)
    with pytest.raises(TypeError, match="takes 6 arguments, got 5"):
        native.call("rgb_to_yuv420", x, luma, chroma, 1, 4)
    with pytest.raises(TypeError, match="expected a tensor, got int"):
        native.call("rgb_to_yuv420", 1, luma, chroma, 1, 4, 4)
    with pytest.raises(ValueError, match="argument 2: it is not contiguous"):
        native.call("rgb_to_yuv420", x, luma.mT, chroma, 1, 4, 4)


def test_no_memory_is_an_error_and_no_crash() -> None:
    x, many = torch.zeros(1), torch.zeros(1, dtype=torch.long)
    side = 2**20  # macroblocks: planes of 2^48 bytes
    with pytest.raises(MemoryError, match="no memory"):
        native.call("choose_modes", x, x, x, None, None, None, many, x, x, x, many, None, None, 1, side, side, 1, 1, 0, x, x, x)


def test_devices_are_copied_to_and_from() -> None:
    values = [torch.ones(2), [torch.zeros(1), 3], None, "mode"]
    moved = _moved(values, torch.device("meta"))
    assert moved[0].device.type == moved[1][0].device.type == "meta"
    assert moved[1][1:] == [3]
    assert moved[2:] == [None, "mode"]
    assert backend.obstacle("native", torch.empty(0, device="meta")) is not None
