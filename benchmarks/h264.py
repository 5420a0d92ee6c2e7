"""DiffH264's x264 model against libx264, part by part, on the clips of a folder.

fidelity   presets x CRFs, survival, skill, error cosine, bits
unseen     settings that no constant was fitted on: other CRFs, another frame rate, weaker and stronger probes
middle     a window inside a stream: 24 frames are encoded, frames 8..15 compared; simulated alone, and given the surrounding frames
options    tunes, profiles, no B frames: the same arguments for simulator and encoder
large      256 x 256, for clips that are large enough; also a bitrate
guided     motion vectors, quantisers and frame types from the real encode
steering   gradients, scored by the real encoder
ablation   a coding tool switched off in the real encoder: with the simulator unchanged, and with the tool switched off there too
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import diffcodec as dc
from benchmarks.common import record
from benchmarks.gradients import ErrorProjection, FixedWeights
from diffcodec import fidelity, report
from diffcodec.fidelity import Measured
from diffcodec.files import video_files
from diffcodec.h264 import PRESETS, Constants, Preset

FAMILIES = ("ultrafast", "veryfast", "medium", "slow")
CRFS = (17.0, 22.0, 27.0, 32.0)


@dataclasses.dataclass(frozen=True)
class Task:
    """One clip, one setting."""

    clip: report.Clip
    seed: int
    crf: float
    preset: str = "medium"
    fps: float = 25
    strength: float = fidelity.STRENGTH
    options: tuple[tuple[str, str], ...] = ()
    habits: Preset | None = None
    constants: Constants | None = None
    simulator: str = "x264"
    asked: tuple[tuple[str, Any], ...] = ()  # further arguments of both

    def real(self, gradient: str | nn.Module | None = None) -> dc.RealCodec:
        asked = self._asked()
        return dc.RealCodec(preset=self.preset, fps=self.fps, options=dict(self.options), gradient=gradient, **asked)

    def simulated(self) -> dc.Layer:
        if self.simulator == "revmark":
            return dc.DiffH264(model="revmark")
        return dc.DiffH264(preset=self.habits or self.preset, fps=self.fps, constants=self.constants, **self._asked())

    def _asked(self) -> dict[str, Any]:
        asked = dict(self.asked)
        return asked if "bitrate" in asked else {"crf": self.crf, **asked}

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


def both(task: Task) -> tuple[Measured, Measured]:
    """Measurements of simulator and encoder on a clip."""
    torch.set_num_threads(1)
    batch = max(1, min(10, 2**23 // task.clip.video.numel()))
    simulated = fidelity.measure(task.simulated(), task.clip.video, task.generator(), task.strength, batch)
    return simulated, fidelity.measure(task.real(), task.clip.video, task.generator(), task.strength)


def figures(tasks: Sequence[Task], results: Sequence[tuple[Measured, Measured]]) -> dict[str, Any]:
    f = fidelity.compare([t.clip.video for t in tasks], [r[0] for r in results], [r[1] for r in results], strength=tasks[0].strength)
    print(
        f"   survival error {f.survival_error:.3f}  per clip {f.per_clip_survival_error:.3f}  gap {f.distortion_gap:.2f}  skill {f.skill:+.2f}"
        f"  cosine {f.error_cosine:.2f}"
        + (f"  bits: rank {f.rank_correlation:.3f}, median error {100 * f.rate_error:.0f} %" if f.rate_error is not None else ""),
        flush=True,
    )
    return dataclasses.asdict(f)


Run = Callable[..., Any]


def table(run: Run, clips: Sequence[report.Clip], settings: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Figures for several settings."""
    rows = []
    for name, setting in settings.items():
        print(name, flush=True)
        tasks = [Task(c, i, **setting) for i, c in enumerate(clips)]
        rows.append(
            {"name": name}
            | {k: v for k, v in setting.items() if isinstance(v, (str, float, int))}
            | {"figures": figures(tasks, run(both, tasks))}
        )
    return rows


def fidelity_part(run: Run, clips: Sequence[report.Clip]) -> dict[str, Any]:
    rows = table(run, clips, {f"{p}, CRF {c:g}": {"preset": p, "crf": c} for p in FAMILIES for c in CRFS})
    for preset in FAMILIES:
        mine = [r["figures"] for r in rows if r["preset"] == preset]
        pairs = [(a, b) for f in mine for a, b in zip(f["bits_simulated"], f["bits_real"])]
        rank, error = fidelity.rate_agreement(*zip(*pairs))
        print(f"{preset}: bits over clips x CRF: rank {rank:.3f}, median error {100 * error:.1f} %")
        for r in rows:
            if r["preset"] == preset:
                r["rate"] = {"rank_correlation": rank, "median_relative_error": error}
    rows += table(run, clips, {f"revmark, CRF {c:g}": {"simulator": "revmark", "crf": c} for c in CRFS})
    return {"rows": rows}


def unseen_part(run: Run, clips: Sequence[report.Clip]) -> dict[str, Any]:
    settings: dict[str, dict[str, Any]] = {f"CRF {c:g}": {"crf": c} for c in (19.0, 24.0, 30.0, 35.0, 40.0)}
    settings |= {f"50 fps, CRF {c:g}": {"crf": c, "fps": 50.0} for c in (22.0, 27.0)}
    settings |= {f"probes of {s:g} dB, CRF 22": {"crf": 22.0, "strength": s} for s in (34.0, 41.0)}
    return {"rows": table(run, clips, settings)}


OPTIONS: dict[str, tuple[tuple[str, Any], ...]] = {
    "tune film": (("tune", "film"),),
    "tune animation": (("tune", "animation"),),
    "tune grain": (("tune", "grain"),),
    "tune zerolatency": (("tune", "zerolatency"),),
    "profile main": (("profile", "main"),),
    "profile baseline": (("profile", "baseline"),),
    "no B frames": (("bframes", 0),),
}


def options_part(run: Run, clips: Sequence[report.Clip]) -> dict[str, Any]:
    return {
        "rows": table(run, clips, {f"{n}, CRF {c:g}": {"crf": c, "asked": asked} for n, asked in OPTIONS.items() for c in (22.0, 30.0)})
    }


def large_part(run: Run, clips: Sequence[report.Clip]) -> dict[str, Any]:
    settings: dict[str, dict[str, Any]] = {f"CRF {c:g}": {"crf": c} for c in (22.0, 32.0)}
    return {"size": 256, "rows": table(run, clips, settings | {"300 kbit/s": {"crf": 0.0, "asked": (("bitrate", 3e5),)}})}


BEFORE, WINDOW, ENCODED = 8, 8, 24


def inside(task: Task, around: Sequence[str] = ()) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Survival of the probes in frames 8..15 of 24, real and simulated, and both outputs without a probe, rounded to 8 bits.

    Args:
        task: clip and setting.
        around: which of the frames "before" and "after" the window the simulator is given.
    """
    torch.set_num_threads(1)
    clip = task.clip.video
    _, _, h, w = clip.shape
    marked = fidelity.quantised(clip + fidelity.probes(ENCODED, h, w, task.generator(), task.strength))  # [10, 24, 3, H, W]
    window = slice(BEFORE, BEFORE + WINDOW)
    real = task.real()
    alone = fidelity.repeatable(dc.DiffH264(task.crf, task.preset, gop="middle"), clip[window].shape, task.generator())
    layer = dc.DiffH264(task.crf, task.preset)

    def simulator(videos: Tensor) -> Tensor:
        """Shape: ``[B, 24, 3, H, W] -> [B, 8, 3, H, W]``."""
        parts = {"before": videos[:, :BEFORE], "after": videos[:, BEFORE + WINDOW :]}
        given = {k: v for k, v in parts.items() if k in around}
        return layer(videos[:, window], **given) if given else alone(videos[:, window])

    with torch.no_grad():
        base_real, base = real(clip[None])[0, window], simulator(clip[None])[0]
        d = marked[:, window] - clip[window]
        outputs = torch.cat([real(m[None])[:, window] for m in marked]), simulator(marked)
    gains = [((o - b) * d).flatten(1).sum(1) / d.flatten(1).square().sum(1) for o, b in zip(outputs, (base_real, base))]
    return gains[0], gains[1], base_real, fidelity.quantised(base)


def middle_part(run: Run, clips: Sequence[report.Clip]) -> dict[str, Any]:
    rows = []
    for crf, around in [(c, a) for c in (22.0, 27.0) for a in ((), ("before",), ("before", "after"))]:
        found = run(partial(inside, around=around), [Task(c, i, crf) for i, c in enumerate(clips)])
        g_r, g_s = (torch.stack([f[k] for f in found]) for k in (0, 1))
        psnr = lambda a, b: dc.metrics.psnr(a[None], b[None]).item()  # noqa: E731
        window = [c.video[BEFORE : BEFORE + WINDOW] for c in clips]
        skill = [psnr(f[3], f[2]) - psnr(x, f[2]) for f, x in zip(found, window)]
        gap = [abs(psnr(x, f[3]) - psnr(x, f[2])) for f, x in zip(found, window)]
        rows.append(
            {
                "crf": crf,
                "given": list(around),
                "survival_error": (g_s.mean(0) - g_r.mean(0)).abs().mean().item(),
                "per_clip_survival_error": (g_s - g_r).abs().mean().item(),
                "skill": sum(skill) / len(skill),
                "distortion_gap": sum(gap) / len(gap),
                "survival_real": dict(zip(fidelity.PROBES, g_r.mean(0).tolist())),
                "survival_simulated": dict(zip(fidelity.PROBES, g_s.mean(0).tolist())),
            }
        )
        print({k: round(v, 3) for k, v in rows[-1].items() if isinstance(v, float)}, flush=True)
    return {"frames_encoded": ENCODED, "window": [BEFORE, BEFORE + WINDOW], "rows": rows}


def with_guide(task: Task) -> tuple[float, float, float]:
    """Skill in dB, error cosine and distortion gap in dB of the guided simulator."""
    torch.set_num_threads(1)
    x = task.clip.video
    coded = task.real().encode(x[None])
    simulator = task.simulated()
    assert isinstance(simulator, dc.DiffH264)
    with torch.no_grad():
        out = fidelity.quantised(simulator(x[None], guide=coded.guide))
    psnr = lambda a, b: dc.metrics.psnr(a, b).item()  # noqa: E731
    a, b = (out - x).flatten(), (coded.video - x).flatten()
    return (
        psnr(out, coded.video) - psnr(x[None], coded.video),
        (a @ b / (a.norm() * b.norm())).item(),
        abs(psnr(out, x[None]) - psnr(coded.video, x[None])),
    )


def guided_part(run: Run, clips: Sequence[report.Clip]) -> dict[str, Any]:
    rows = []
    for preset in PRESETS:
        for crf in CRFS:
            found = run(with_guide, [Task(c, i, crf, preset) for i, c in enumerate(clips)])
            skill, cosine, gap = (sum(v) / len(found) for v in zip(*found))
            rows.append({"preset": preset, "crf": crf, "skill": skill, "error_cosine": cosine, "distortion_gap": gap})
            print(f"{preset} CRF {crf:g}: skill {skill:+.2f}, cosine {cosine:.3f}, gap {gap:.2f}", flush=True)
    return {"rows": rows}


def steer(task: Task, through: str, gains: dict[str, float]) -> tuple[float, float]:
    torch.set_num_threads(1)
    real = task.real()
    if through.startswith("fixed"):
        found = []
        for kind in ("static", "changing"):  # each with the weights that are best for it
            layer = FixedWeights([v for n, v in gains.items() if n.endswith(kind)])
            found.append(getattr(fidelity.steering([task.clip.video], layer, real, seed=task.seed), kind))
        return found[0], found[1]
    layers: dict[str, Callable[[], nn.Module]] = {
        "DiffH264": lambda: dc.DiffH264(task.crf, task.preset),
        "real, DiffH264 guided by it": lambda: task.real(dc.DiffH264(task.crf, task.preset)),
        "real, identity": lambda: task.real("identity"),
        "real, error projection": lambda: ErrorProjection(task.crf, task.preset, task.fps),
        "revmark": lambda: dc.DiffH264(model="revmark"),
        "revmark, weaker tables (0.5, 1)": lambda: dc.DiffH264(model="revmark", intra_scale=0.5, inter_scale=1),
    }
    s = fidelity.steering([task.clip.video], layers[through](), real, seed=task.seed)
    return s.static, s.changing


THROUGH = (
    "fixed weight per band", "DiffH264", "real, DiffH264 guided by it", "real, identity", "real, error projection", "revmark",
    "revmark, weaker tables (0.5, 1)",
)  # fmt: skip


def steering_part(run: Run, clips: Sequence[report.Clip]) -> dict[str, Any]:
    tasks = [Task(c, i, 30.0) for i, c in enumerate(clips)]
    found = run(partial(steer, through="DiffH264", gains={}), tasks)
    coarse = dict(zip(("static", "changing"), (sum(v) / len(found) for v in zip(*found))))
    print("DiffH264, CRF 30", coarse, flush=True)
    tasks = [Task(c, i, 22.0) for i, c in enumerate(clips)]
    survival = torch.stack([m.survival for m in run(real_only, tasks)]).mean(0)
    gains = dict(zip(fidelity.PROBES, survival.tolist()))
    rows = []
    for through in THROUGH:
        found = run(partial(steer, through=through, gains=gains), tasks)
        static, changing = (sum(v) / len(found) for v in zip(*found))
        rows.append({"through": through, "static": static, "changing": changing})
        print(f"{through}: {static:.2f} {changing:.2f}", flush=True)
    return {"crf": 22.0, "rows": rows, "crf_30": coarse}


def real_only(task: Task) -> Measured:
    torch.set_num_threads(1)
    return fidelity.measure(task.real(), task.clip.video, task.generator(), task.strength)


def ablations() -> dict[str, dict[str, Any]]:
    """Options of the real encoder, and the matching change of the simulator."""
    medium = PRESETS["medium"]
    no = partial(dataclasses.replace, medium)
    return {
        "as it is": {},
        "trellis=0": {"habits": no(trellis=0)},
        "trellis=2": {"habits": no(trellis=2)},
        "direct=none": {"habits": no(direct=False)},
        "subme=5": {"habits": no(subme=5)},
        "psy=0": {"habits": no(psy=0.0)},
        "no-deblock=1": {"habits": no(deblock=False)},
        "aq-mode=0": {"habits": no(aq_strength=0.0)},  # mbtree keeps AQ enabled, at strength 0
        "mbtree=0": {"habits": no(tree=False)},
        "bframes=0": {"habits": no(bframes=0)},
        "ref=1": {"habits": no(references=1)},
        "weightp=0": {},
        "8x8dct=0": {"habits": no(transform8=False)},
    }


def ablation_part(run: Run, clips: Sequence[report.Clip]) -> dict[str, Any]:
    rows = []
    reference: Tensor | None = None
    for name, change in ablations().items():
        options = () if name == "as it is" else (("x264-params", name),)
        same = [Task(c, i, 22.0, options=options) for i, c in enumerate(clips)]
        matched = [dataclasses.replace(t, **change) for t in same]
        print(name, flush=True)
        row: dict[str, Any] = {"option": name, "matched": figures(matched, found := run(both, matched))}
        real = torch.stack([f[1].survival for f in found]).mean(0)
        reference = real if reference is None else reference
        row["real_survival_moves_by"] = (real - reference).abs().mean().item()
        for key, tasks in (("guided", same), ("guided_matched", matched)):
            skill, cosine, gap = (sum(v) / len(clips) for v in zip(*run(with_guide, tasks)))
            row[key] = {"skill": skill, "error_cosine": cosine, "distortion_gap": gap}
            print(f"   {key}: skill {skill:+.2f}, cosine {cosine:.3f}", flush=True)
        rows.append(row)
    return {"crf": 22.0, "rows": rows}


PARTS: dict[str, tuple[Callable[[Run, Sequence[report.Clip]], dict[str, Any]], int, int, int]] = {
    # what to run, frames, size, first frame
    "fidelity": (fidelity_part, 8, 128, report.START),
    "unseen": (unseen_part, 8, 128, report.START),
    "middle": (middle_part, ENCODED, 128, report.START - BEFORE),
    "options": (options_part, 8, 128, report.START),
    "large": (large_part, 8, 256, report.START),
    "guided": (guided_part, 8, 128, report.START),
    "steering": (steering_part, 8, 128, report.START),
    "ablation": (ablation_part, 8, 128, report.START),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True, help="folder of clips")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--every", type=int, default=1, help="use every n-th clip")
    parser.add_argument("--processes", type=int, default=2, help="one thread each")
    args = parser.parse_args()
    with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:

        def run(work: Callable[[Any], Any], tasks: Sequence[Any]) -> list[Any]:
            return list(pool.map(work, tasks))

        for name in args.parts:
            part, frames, size, start = PARTS[name]
            clips = []
            for path in video_files(args.clips)[:: args.every]:
                try:
                    first = max(0, min(start, dc.video_info(path).frames - frames))
                    clips.append(report.load_clip(path, frames, size, first))
                except dc.VideoError as error:
                    print(f"left out: {error}")
            print(f"{name}: {len(clips)} clips", flush=True)
            found = part(run, clips)
            record(f"h264_{name}", {"clips": [{"name": c.name, "sha256": c.sha256, "start": c.start} for c in clips]} | found)


if __name__ == "__main__":
    main()
