"""Speed and memory on the CPU, as ratios to one GEMM pass in the same process.

Every job is timed twice: interleaved with all others of a table, where it finds caches and heap as the others left them, and alone with the GEMM pass
in a process of its own, where large allocations are new pages every time. A layer is timed only after it has passed a check of its output.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import diffcodec as dc
from benchmarks.common import forward_backward, forward_only, interleaved, peak_memory, record
from benchmarks.gemm import gemm_pass

Job = Callable[[Tensor], Tensor]


def photographs(n: int, side: int = 256) -> Tensor:
    """Smooth random fields with edges: natural enough for timing, the same everywhere. ``[n, 3, side, side]``."""
    g = torch.Generator().manual_seed(0)
    out = torch.zeros(n, 3, side, side)
    for k in (4, 16, 64):
        out += nn.functional.interpolate(torch.rand(n, 3, k, k, generator=g), size=side, mode="bicubic") / 3
    return out.clamp(0, 1)


def video(b: int, t: int, side: int) -> Tensor:
    """A moving window over photographs. ``[b, t, 3, side, side]``."""
    still = photographs(b, side + max(32, 2 * t))
    return torch.stack([still[..., 2 * i : 2 * i + side, i : i + side] for i in range(t)], 1)


def torch_dct_pass(x: Tensor) -> Tensor:
    import torch_dct

    blocks = dc.blocks.split(x, 8)
    return dc.blocks.join(torch_dct.idct_2d(dc.rounding.cubic(torch_dct.dct_2d(blocks, norm="ortho") * 16) / 16, norm="ortho"))


def one_draw(layer: dc.Layer) -> Job:
    """A layer with a fixed draw for each shape, so that the time does not include random number generation."""
    draws: dict[tuple[torch.Size, torch.device], Any] = {}

    def job(x: Tensor) -> Tensor:
        key = (x.shape, x.device)
        if key not in draws:
            draws[key] = layer.sample(x.shape, torch.Generator().manual_seed(1), device=x.device)
        return layer(x, draws[key])  # type: ignore[no-any-return]

    return job


def still_jobs() -> dict[str, Job]:
    jobs: dict[str, Job] = {
        "GEMM pass": gemm_pass,
        "clone": torch.clone,
        "DiffJPEG 4:2:0, exact": dc.DiffJPEG(50),
        "DiffJPEG 4:2:0, exact, straight-through": dc.DiffJPEG(50, gradient="straight_through"),
        "DiffJPEG 4:2:0, soft": dc.DiffJPEG(50, rounding="cubic"),
        "DiffJPEG 4:4:4, exact": dc.DiffJPEG(50, "4:4:4"),
        "DiffJPEG 4:4:4, soft": dc.DiffJPEG(50, "4:4:4", rounding="cubic"),
        "JPEGMask": dc.JPEGMask(),
        "RealJPEG, identity gradient": dc.RealJPEG(50, gradient="identity"),
        "torch_dct on the blocks": torch_dct_pass,
    }
    try:
        import kornia.enhance

        jobs["kornia jpeg_codec_differentiable"] = lambda x: kornia.enhance.jpeg_codec_differentiable(x, torch.full((len(x),), 50.0))
    except ImportError:
        print("kornia is not installed: its row is left out")
    return jobs


SPYNET = "DiffH264 revmark, SPyNet (random weights), flow gradient"


def video_jobs() -> dict[str, Job]:
    torch.manual_seed(0)
    spynet = dc.motion.SPyNet(4).requires_grad_(False)  # in use its weights are loaded and fixed
    return {
        "GEMM pass": gemm_pass,
        "DiffH264 medium": dc.DiffH264(22),
        "DiffH264 veryfast": dc.DiffH264(22, "veryfast"),
        "DiffH264 ultrafast": dc.DiffH264(22, "ultrafast"),
        "RealCodec libx264 medium, guided DiffH264 gradient": dc.RealCodec(crf=22, gradient=dc.DiffH264(22)),
        "DiffH264 revmark, block motion": dc.DiffH264(model="revmark"),
        SPYNET: dc.DiffH264(model="revmark", motion=spynet, flow_gradient=True),
        "DiffH264 revmark, SPyNet (random weights), no flow gradient": dc.DiffH264(model="revmark", motion=spynet),
        "RealCodec libx264 medium, identity gradient": dc.RealCodec(gradient="identity"),
        "block motion search alone": lambda x: _search(x),
    }


def _search(x: Tensor) -> Tensor:
    flow = dc.motion.BlockMotion()(x[:, 1:].flatten(0, 1), x[:, :1].expand(-1, x.shape[1] - 1, -1, -1, -1).flatten(0, 1))
    return x + 0 * flow.sum()


def correct(name: str, job: Job, x: Tensor) -> None:
    """Check a layer before it is timed: shape, finite values and gradients, output close to the input."""
    x = x[:1].detach().requires_grad_(True)
    out = job(x)
    out.sum().backward()
    if out.shape != x.shape or not out.isfinite().all() or x.grad is None or not x.grad.isfinite().all():
        raise SystemExit(f"{name} failed its check: shape {tuple(out.shape)}, no time is recorded")
    if name != "GEMM pass" and dc.metrics.psnr(out.detach().clamp(0, 1), x.detach()).item() < 20:
        raise SystemExit(f"{name} failed its check: below 20 dB from its input")


INPUTS: dict[str, tuple[str, Callable[[], dict[str, Job]], Callable[[], Tensor]]] = {
    "stills": ("stills 16 x 3 x 256 x 256", still_jobs, lambda: photographs(16)),
    "frame": (
        "one frame 3 x 1080 x 1920",
        lambda: {k: v for k, v in still_jobs().items() if k != "torch_dct on the blocks"},
        lambda: nn.functional.interpolate(photographs(1, 512), size=(1080, 1920), mode="bicubic").clamp(0, 1),
    ),
    "clips": ("clips 2 x 8 x 3 x 128 x 128", video_jobs, lambda: video(2, 8, 128)),
}


def alone(kind: str, name: str, threads: int, repeats: int) -> dict[str, float]:
    """Time of a job alternating with the GEMM pass only, forward and backward."""
    torch.set_num_threads(threads)
    _, jobs, x = INPUTS[kind]
    both = {"GEMM pass": gemm_pass, name: jobs()[name]}
    given = x()
    times = interleaved({n: partial(forward_backward, j, given) for n, j in both.items()}, repeats)
    return times[name] | {"ratio": times[name]["median_ms"] / times["GEMM pass"]["median_ms"]}


def table(kind: str, threads: int, repeats: int) -> dict[str, Any]:
    _, make, given = INPUTS[kind]
    jobs, x = make(), given()
    rows: dict[str, Any] = {name: {} for name in jobs}
    for name, job in jobs.items():
        correct(name, job, x)
    for what, call in (("forward", forward_only), ("forward_backward", forward_backward)):
        times = interleaved({n: partial(call, j, x) for n, j in jobs.items()}, repeats)
        base = times["GEMM pass"]["median_ms"]
        for name, t in times.items():
            rows[name][what] = t | {"ratio": t["median_ms"] / base}
    size = x.numel() * x.element_size()
    for name, job in jobs.items():
        rows[name]["peak_memory_x_input"] = peak_memory(partial(forward_backward, job, x), size) / size
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows[name]["alone"] = pool.apply(alone, (kind, name, threads, repeats))
    for name, row in rows.items():
        both, own = row["forward_backward"], row["alone"]
        print(
            f"  {name:58s} forward {row['forward']['ratio']:6.2f}   forward + backward {both['ratio']:6.2f} ({both['median_ms']:.0f} ms)"
            f"   alone {own['ratio']:6.2f} ({own['median_ms']:.0f} ms)   memory {row['peak_memory_x_input']:5.1f} x"
        )
    return rows


def full_hd() -> dict[str, Any]:
    """Eight frames of 1080p, forward and backward, once each: seconds and peak memory."""
    x = nn.functional.interpolate(video(1, 8, 256)[0], size=(1080, 1920), mode="bicubic")[None].clamp(0, 1)
    rows = {}
    for name, layer in {"DiffJPEG 4:2:0, exact": dc.DiffJPEG(50), "DiffH264 medium": dc.DiffH264(22)}.items():
        size = x.numel() * x.element_size()
        time = interleaved({name: partial(forward_backward, layer, x)}, 1, warm_up=0)[name]
        rows[name] = {"seconds": time["median_ms"] / 1e3, "peak_gib": peak_memory(partial(forward_backward, layer, x), size) / 2**30}
        print(f"  {name:58s} {rows[name]['seconds']:.1f} s, {rows[name]['peak_gib']:.2f} GiB")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--inputs", nargs="+", default=["stills", "frame", "clips", "hd"], choices=["stills", "frame", "clips", "hd"])
    args = parser.parse_args()
    out: dict[str, Any] = {"unit": "ratio to the GEMM pass of the same table", "tables": []}
    for threads in args.threads:
        torch.set_num_threads(threads)
        for kind, (title, _, _) in INPUTS.items():
            if kind not in args.inputs:
                continue
            print(f"{title}, {threads} thread(s)")
            rows = table(kind, threads, max(3, args.repeats // 4) if kind == "clips" else args.repeats)  # SPyNet takes seconds
            entry = {"input": title, "threads": threads, "rows": rows}
            if SPYNET in rows:
                slow = rows[SPYNET]
                entry["spynet_over"] = {
                    name: {
                        "time": slow["forward_backward"]["median_ms"] / r["forward_backward"]["median_ms"],
                        "memory": slow["peak_memory_x_input"] / r["peak_memory_x_input"],
                    }
                    for name, r in rows.items()
                    if name.startswith("DiffH264")
                }
                for name, r in entry["spynet_over"].items():
                    print(f"  {name}: {r['time']:.2f} x faster than {SPYNET}, {r['memory']:.1f} x less memory")
            out["tables"].append(entry)
    if "hd" in args.inputs:
        print(f"8 x 3 x 1080 x 1920, {args.threads[-1]} thread(s)")
        out["full_hd"] = full_hd()
    record("speed" if len(args.inputs) > 1 else f"speed_{args.inputs[0]}", out)


if __name__ == "__main__":
    main()
