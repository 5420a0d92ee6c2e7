"""Number of kernel launches and torch operations in a pass through DiffH264 with fused kernels, and of torch operations without them.

On a GPU each costs microseconds of CPU time, whatever the size of the batch. Runs in Triton's interpreter, so frames are tiny.
``cpu_ms`` is the time of a pass whose launches do nothing: Python, and the little that torch computes at that size.
"""

from __future__ import annotations

import argparse
import collections
import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime import interpreter

import diffcodec as dc
from benchmarks.common import record
from benchmarks.gpu import natural

NO_WORK = {"empty", "empty_like", "empty_strided", "new_empty", "detach", "_reshape_alias", "_unsafe_view"}


class Counter(TorchDispatchMode):
    """Counts torch operators that do work: no views, no allocations."""

    def __init__(self) -> None:
        super().__init__()
        self.found: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func._schema.name.split("::")[1]
        if name not in NO_WORK and not func.is_view:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def counted(call: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    launches: collections.Counter[str] = collections.Counter()
    run = interpreter.GridExecutor.__call__

    def launch(self: Any, *args: Any, **kwargs: Any) -> Any:
        launches[self.fn.__name__] += 1
        with torch.utils._python_dispatch._disable_current_modes():  # the interpreter's own copies
            return run(self, *args, **kwargs)

    with mock.patch.object(interpreter.GridExecutor, "__call__", launch), Counter() as counter:
        out = call()
    return out, {
        "kernels": launches.total(),
        "torch": counter.found.total(),
        "of_kernels": dict(launches.most_common()),
        "of_torch": dict(counter.found.most_common()),
    }


def nothing(*args: Any, **kwargs: Any) -> None:
    """Replaces a launch."""


def without_launches(call: Callable[[], Any], then: Callable[[Any], Any], repeats: int = 10) -> tuple[float, float]:
    """Minimum milliseconds of a call and of ``then`` on its result, with kernels that do nothing; their outputs are zeros."""
    new_zeros, zeros_like = torch.Tensor.new_zeros, torch.zeros_like
    times: tuple[list[float], list[float]] = ([], [])
    with (
        mock.patch.object(interpreter.GridExecutor, "__call__", nothing),
        mock.patch.object(torch.Tensor, "new_empty", lambda *args, **kwargs: new_zeros(*args, **kwargs)),
        mock.patch.object(torch, "empty_like", lambda *args, **kwargs: zeros_like(*args, **kwargs)),
    ):
        for _ in range(3 + repeats):
            began = time.perf_counter()
            out = call()
            middle = time.perf_counter()
            then(out)
            times[0].append(1e3 * (middle - began))
            times[1].append(1e3 * (time.perf_counter() - middle))
    return min(times[0]), min(times[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=["ultrafast", "veryfast", "medium"])
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=2, default=(32, 48))
    args = parser.parse_args()
    shape = (1, args.frames, 3, *args.size)
    rows: dict[str, Any] = {}
    for preset in args.presets:
        x = natural(shape, torch.device("cpu"), 0).requires_grad_()
        rows[preset] = {}
        for backend in ("reference", "triton"):
            layer = dc.DiffH264(24, preset, backend=backend)
            draw = layer.sample(shape, torch.Generator().manual_seed(1))
            out, forward = counted(functools.partial(layer, x, draw))
            _, backward = counted(functools.partial(torch.autograd.grad, out.sum(), x))
            rows[preset][backend] = {"forward": forward, "backward": backward}
            if backend == "triton":
                spent = without_launches(functools.partial(layer, x, draw), lambda out, x=x: torch.autograd.grad(out.sum(), x))
                rows[preset]["cpu_ms"] = dict(zip(("forward", "backward"), spent))
                print(f"{preset}: with launches that do nothing {spent[0]:.1f} + {spent[1]:.1f} ms", flush=True)
            counts = (f"{w} {r['kernels']} kernels, {r['torch']} of torch" for w, r in (("forward", forward), ("backward", backward)))
            print(f"{preset}, {backend}: {'; '.join(counts)}", flush=True)
    record("calls", {"shape": list(shape), "rows": rows})


if __name__ == "__main__":
    main()
