"""Every operation on its cases (``diffcodec/ops/*/cases.py``): timed on every available backend, or compiled ahead of time.

``--compile`` needs no GPU: kernel launches of the cases are recorded instead of executed, and each kernel is compiled for the target GPUs, which need
not be present; registers, spills and shared memory are read from the binary.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from benchmarks.common import RESULTS, record
from diffcodec import backend
from diffcodec.ops.common.cases import Case, Scene, all_cases

REGISTERS, THREADS = 65536, 2048  # of a multiprocessor
TARGETS = {"sm_80": 80, "sm_90": 90}
TYPES = {
    torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64", torch.int64: "i64", torch.int32: "i32",
    torch.uint8: "u8", torch.bool: "i1",
}  # fmt: skip


def tensors(values: Any) -> list[Tensor]:
    """All tensors in arguments or outputs."""
    if isinstance(values, Tensor):
        return [values]
    return [t for v in values for t in tensors(v)] if isinstance(values, (list, tuple)) else []


def with_gradient(case: Case, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments, the differentiable ones with ``requires_grad``."""
    case.operation.backends()  # imports them: they say what is differentiable
    names = case.operation.parameters
    return tuple(x.detach().requires_grad_() if n in case.operation.differentiable else x for n, x in zip(names, args))


def forward(case: Case, name: str, args: tuple[Any, ...]) -> list[Tensor]:
    return tensors(case.operation.on(name, *args))


def backward(out: list[Tensor], leaves: list[Tensor]) -> None:
    wanted = [o for o in out if o.requires_grad and o.numel()]
    torch.autograd.grad(wanted, leaves, [torch.ones_like(o) for o in wanted], retain_graph=True, allow_unused=True)


# Timing


def clock(call: Callable[[], Any], device: torch.device, least_s: float) -> float:
    """Minimum milliseconds of a call: GPU time on CUDA devices, else CPU time."""
    best, spent = float("inf"), 0.0
    call()
    while spent < least_s:
        began = time.perf_counter()
        if device.type == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            call()
            end.record()
            torch.cuda.synchronize()
            took = start.elapsed_time(end)
        else:
            cpu = time.process_time()
            call()
            took = 1e3 * (time.process_time() - cpu)
        best, spent = min(best, took), spent + time.perf_counter() - began
    return best


def timed(case: Case, scene: Scene, least_s: float) -> dict[str, Any]:
    """Milliseconds of each backend, and the minimum number of bytes moved."""
    args = case.inputs(scene)
    row: dict[str, Any] = {"operation": case.operation.name, "case": case.name, "bytes": 0}
    for name in case.operation.backends():
        if name == "triton" and scene.device.type != "cuda":
            continue
        with torch.no_grad():
            out = forward(case, name, args)
            row["bytes"] = sum(t.numel() * t.element_size() for t in [*tensors(args), *out])
            row[name] = {"forward_ms": clock(lambda n=name: forward(case, n, args), scene.device, least_s)}  # type: ignore[misc]
        if case.operation.differentiable:
            given = with_gradient(case, args)
            out, leaves = forward(case, name, given), [x for x in tensors(given) if x.requires_grad]
            if any(o.requires_grad for o in out):
                row[name]["backward_ms"] = clock(lambda o=out, x=leaves: backward(o, x), scene.device, least_s)  # type: ignore[misc]
    return row


# Compiling ahead of time


class Launch(NamedTuple):
    """A kernel as a case launches it.

    Attributes:
        kernel, warps: the kernel function, and its warps per program.
        signature, constants: type of each parameter, "constexpr" if its value is known at compile time, and those values.
        aligned: indices of the parameters that are multiples of 16.
    """

    kernel: Any
    warps: int
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    aligned: tuple[int, ...]


def launches(case: Case, scene: Scene) -> list[Launch]:
    """Launches of a case, forward and backward. Outputs, which no kernel fills, are zeros, so that torch can use them as indices in between."""
    from triton.runtime.jit import JITFunction

    found: list[Launch] = []

    def write_down(self: Any, *args: Any, grid: Any, warmup: bool, num_warps: int = 4, **kwargs: Any) -> None:
        signature, constants, aligned = [], [], []
        for i, (p, value) in enumerate(zip(self.params, [*args, *(kwargs[p.name] for p in self.params[len(args) :])])):
            if p.is_constexpr or (isinstance(value, int) and value == 1):  # Triton specialises on the value 1
                signature.append((p.name, "constexpr"))
                constants.append((p.name, value))
            elif isinstance(value, Tensor):
                signature.append((p.name, f"*{TYPES[value.dtype]}"))
                aligned.append(i)
            else:
                signature.append((p.name, "fp32" if isinstance(value, float) else "i32"))
                if isinstance(value, int) and value % 16 == 0:
                    aligned.append(i)
        found.append(Launch(self, num_warps, tuple(signature), tuple(constants), tuple(aligned)))

    given = with_gradient(case, case.inputs(scene))
    zeros = mock.patch.object(Tensor, "new_empty", Tensor.new_zeros), mock.patch.object(torch, "empty_like", torch.zeros_like)
    with mock.patch.object(JITFunction, "run", write_down), mock.patch.object(backend, "_INTERPRETED", True), zeros[0], zeros[1]:
        out, leaves = forward(case, "triton", given), [x for x in tensors(given) if x.requires_grad]
        if any(o.requires_grad for o in out):
            backward(out, leaves)
    return found


def compiled(launch: Launch, arch: int) -> dict[str, Any]:
    """Compile, and read the binary."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"

    def run(tool: str, *args: str) -> str:
        return subprocess.run([str(tools / tool), *args], capture_output=True, text=True, check=True).stdout

    hints: dict[tuple[int, ...], Any] = {(i,): [["tt.divisibility", 16]] for i in launch.aligned}
    began = time.perf_counter()
    source = ASTSource(fn=launch.kernel, signature=dict(launch.signature), constexprs=dict(launch.constants), attrs=hints)
    binary = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": launch.warps})
    took = time.perf_counter() - began
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage = run("cuobjdump", "-res-usage", file.name)
        code = run("nvdisasm", "-c", file.name)
    registers, stack, shared = (int(re.search(rf"{word}:(\d+)", usage)[1]) for word in ("REG", "STACK", "SHARED"))  # type: ignore[index]
    a_block = 32 * launch.warps
    return {
        "registers": registers,
        "spills": len(re.findall(r"\b(?:STL|LDL)\b", code)),
        "stack_bytes": stack,
        "shared_bytes": shared,
        "instructions": len(re.findall(r"^\s*/\*[0-9a-f]{4,}\*/", code, re.MULTILINE)),
        "threads_per_multiprocessor": min(THREADS, REGISTERS // (-(-registers // 8) * 8 * a_block) * a_block),
        "compile_s": round(took, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compile", action="store_true", help="compile the kernels that the cases launch, instead of timing the cases")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS), help="GPU architectures for --compile")
    parser.add_argument("--size", nargs=3, type=int, default=None, metavar=("FRAMES", "HEIGHT", "WIDTH"), help="multiples of 16")
    parser.add_argument("--seconds", type=float, default=0.5, help="duration of the timing of a call")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    parser.add_argument("--commit", default="", help="commit of the checkout, if git is not available")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    cases = [c for c in all_cases() if args.only in str(c)]
    if args.compile:
        sys.exit(compile_all(cases, Scene(*(args.size or (2, 128, 128))), args.targets, not args.only))
    torch.set_num_threads(1)
    size = args.size or ((16, 256, 256) if args.device == "cuda" else (4, 128, 128))
    found: dict[str, Any] = {"device": args.device, "size": size} | ({"commit": args.commit} if args.commit else {})
    if args.device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    rows: list[dict[str, Any]] = []
    for c in cases:
        try:
            rows.append(timed(c, Scene(*size, device=args.device), args.seconds))
        except Exception as error:  # one row lost is better than all
            rows.append({"operation": c.operation.name, "case": c.name, "fault": f"{type(error).__name__}: {error}".splitlines()[0]})
            print(f"{c!s:50s} FAILED: {rows[-1]['fault']}", flush=True)
            continue
        ways = {k: v for k, v in rows[-1].items() if isinstance(v, dict)}
        print(f"{c!s:50s} {'; '.join(f'{k} ' + ', '.join(f'{w} {ms:.3f}' for w, ms in v.items()) for k, v in ways.items())}", flush=True)
        if not args.only:  # after every row: a run that is cut off keeps what it has
            with contextlib.redirect_stdout(io.StringIO()):
                record("ops" if args.device == "cpu" else "ops_gpu", {**found, "rows": rows}, args.out)


def compile_all(cases: list[Case], scene: Scene, targets: list[str], keep: bool) -> int:
    """Compile every launch once; returns 1 if a binary spills registers, else 0."""
    import triton

    seen: dict[Launch, str] = {}
    of_any_size = {c.operation.name for c in cases if not c.fixed}
    for c in cases:
        if c.fixed and c.operation.name in of_any_size:
            continue  # odd and tiny sizes, further modes: compiled on first use only
        for launch in launches(c, scene):
            seen.setdefault(launch, f"{launch.kernel.__module__.split('.')[-2]}.{launch.kernel.__name__.lstrip('_')}")
    rows = []
    for launch, name in seen.items():
        known = ", ".join(f"{k}={v}" for k, v in launch.constants)
        for target in targets:
            row = compiled(launch, TARGETS[target])
            rows.append({"kernel": name, "constants": known, "target": target, **row})
            print(f"{name:40s} {target} {row['registers']:4d} registers, {row['spills']} spills, {row['compile_s']} s  {known}", flush=True)
    spilt = sorted({r["kernel"] for r in rows if r["spills"] or r["stack_bytes"]})
    print(f"{len(rows)} binaries; with spills: {', '.join(spilt) or 'none'}")
    if keep:
        record("kernels", {"triton": triton.__version__, "rows": rows})
    return int(bool(spilt))


if __name__ == "__main__":
    main()
