"""Tables of how closely the simulators match the codecs: fidelity, steering, ablation, exactness of JPEG, motion."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.common import RESULTS
from diffcodec.report import number

Table = tuple[list[str], list[list[str]]]


def load(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())  # type: ignore[no-any-return]


NAMES = {
    "x264": "`DiffH264()`",
    "revmark": 'the paper\'s model, `DiffH264(model="revmark")`: motion by block search, rounding of its code',
    "revmark:reference=0": "the same, first frame as reference",
    "revmark:motion=block16": "the same, 16 x 16 blocks, whole pixels",
    "revmark:motion=none": "the same, no motion",
    "revmark:rounding=paper": "the same, rounding by eq. (1) as printed",
    "revmark:intra_scale=0.5,inter_scale=1": "the same, weaker tables (0.5, 1)",
    # results from before the exact forward name the soft one without its rounding
    "jpeg:quality=50": '`DiffJPEG(50, rounding="cubic")` frame by frame',
    "jpeg:quality=50,rounding=cubic": '`DiffJPEG(50, rounding="cubic")` frame by frame',
    "benchmarks.peers:KorniaJPEG:quality=50": "kornia's JPEG, quality 50, frame by frame",
    "none": "do nothing",
}


def fidelity() -> Table:
    """Every simulator at every CRF."""
    head = ["simulator", "CRF", *FIGURES, "steering static", "changing"]
    steering = {r["through"]: r for r in load("h264_steering")["rows"]}["DiffH264"]
    ours = [
        {"simulator": "x264", "crf": r["crf"], "figures": r["figures"], "steering": steering if r["crf"] == 22 else None}
        for r in load("h264_fidelity")["rows"]
        if r.get("preset") == "medium"
    ]
    rows = []
    for r in ours + load("fidelity")["rows"]:
        f, s = r["figures"], r["steering"] or {"static": None, "changing": None}
        rows.append(
            [NAMES.get(r["simulator"], r["simulator"]), f"{r['crf']:g}", *_figures(f), number(s["static"], 2), number(s["changing"], 2)]
        )
    return head, rows


def fidelity_unfitted() -> Table:
    """CRFs that no constant was fitted on: all figures."""
    return _all_figures("fidelity_unfitted")


def fidelity_60() -> Table:
    """Windows of 60 frames, and windows of 8 frames of the same clips."""
    tables = {n: _all_figures(f"fidelity_60{name}") for n, name in ((60, ""), (8, "_first"))}
    head = tables[60][0]
    return ["frames", *head], [[str(n), *r] for n, (_, rows) in tables.items() for r in rows]


def _all_figures(result: str) -> Table:
    """Figures of RGB, luma and chroma; the columns of steering where it was measured."""
    rows_in = load(result)["rows"]
    head = ["simulator", "CRF", *FIGURES, "survival error in chroma", "Y': gap dB", "Y': skill dB"]
    steered = any(r["steering"] for r in rows_in)
    rows = []
    for r in rows_in:
        f, s = r["figures"], r["steering"] or {"static": None, "changing": None}
        planes = [number(f["chroma_survival_error"], 3), number(f["luma_distortion_gap"], 2), number(f["luma_skill"], 2, sign=True)]
        steering = [number(s["static"], 2), number(s["changing"], 2)] if steered else []
        rows.append([NAMES.get(r["simulator"], r["simulator"]), f"{r['crf']:g}", *_figures(f), *planes, *steering])
    return [*head, "steering static", "changing"] if steered else head, rows


def chroma() -> Table:
    """Survival of each chroma probe: libx264 and DiffH264 by CRF."""
    first = [r for r in load("fidelity_unfitted")["rows"] if r["simulator"] == "x264"]
    probes = list(first[0]["figures"]["chroma_survival_real"])
    rows = []
    for key, name in (("real", "libx264"), ("simulated", NAMES["x264"])):
        for r in first:
            rows.append([f"{name} CRF {r['crf']:g}"] + [number(r["figures"][f"chroma_survival_{key}"][p], 2) for p in probes])
    return ["codec", *probes], rows


def derivatives() -> Table:
    """Slopes and cosines: gradient, simulator's difference, real difference."""
    rows = []
    for r in load("bits_gradient_pixels")["rows"]:
        slopes = [r[what][d] for what in ("bits", "distortion") for d in ("sharpen", "blur", "noise")]
        digits = [3] * 3 + [1] * 3
        cells = [" / ".join(number(v[k], n) for k in ("gradient", "simulated", "real")) for v, n in zip(slopes, digits)]
        kinds = [r["cosine"].get(k) for k in ("static", "changing")]
        cells += ["-" if c is None else " / ".join(number(c[k], 2) for k in ("gradient", "simulated", "identity")) for c in kinds]
        rows.append([_setting(r), *cells])
    directions = [f"{what}: {d}" for what in ("ln bits", "squared error") for d in ("sharpen", "blur", "noise")]
    return ["codec", *directions, "cosine: static", "changing"], rows


def bits_step() -> Table:
    """A step against the gradient of the bits: predicted, simulator's and real change."""
    found: dict[str, dict[str, str]] = {}
    clips = len(load("bits_gradient_step")["clips"])
    for r in load("bits_gradient_step")["rows"]:
        cells = " / ".join(f"{r[f'{k}_percent']:+.1f}" for k in ("predicted", "simulated", "real"))
        found.setdefault(_setting(r), {})[r["step"]] = f"{cells} ({r['clips_with_fewer_bits']} of {clips})"
    return ["codec", "step by the sign, %", "normalised gradient, %"], [[k, v["sign"], v["normalised"]] for k, v in found.items()]


def _setting(r: dict[str, Any]) -> str:
    return f"libx264 {r['preset']} CRF {r['crf']:g}" if r["codec"] == "libx264" else f"libjpeg quality {r['quality']:g}"


def _figures(f: dict[str, Any]) -> list[str]:
    return [
        number(f["survival_error"], 3),
        number(f["per_clip_survival_error"], 3),
        number(f["distortion_gap"], 2),
        number(f["skill"], 2, sign=True),
        number(f["error_cosine"], 2),
    ]


FIGURES = ["survival error", "per clip", "distortion gap dB", "skill dB", "error cosine"]


def h264() -> Table:
    """The x264 model at every preset and CRF."""
    rows = [r for r in load("h264_fidelity")["rows"] if "preset" in r]
    return ["preset", "CRF", *FIGURES], [[r["preset"], f"{r['crf']:g}", *_figures(r["figures"])] for r in rows]


def h264_short() -> Table:
    """The same with one row per preset: survival error by CRF, the other figures as means over CRFs."""
    rows = [r for r in load("h264_fidelity")["rows"] if "preset" in r]
    crfs = sorted({r["crf"] for r in rows})
    out = []
    for preset in dict.fromkeys(r["preset"] for r in rows):
        mine = {r["crf"]: r["figures"] for r in rows if r["preset"] == preset}
        rate = next(r["rate"] for r in rows if r["preset"] == preset)
        mean = {
            k: sum(f[k] for f in mine.values()) / len(mine) for k in ("per_clip_survival_error", "distortion_gap", "skill", "error_cosine")
        }
        bits = [number(rate["rank_correlation"], 3), f"{100 * rate['median_relative_error']:.0f} %"]
        errors = [number(mine[c]["survival_error"], 3) for c in crfs]
        out.append([preset, *errors, *_figures(mean | {"survival_error": 0})[1:], *bits])
    return ["preset", *(f"survival error, CRF {c:g}" for c in crfs), *FIGURES[1:], "bits: rank", "median error"], out


def rate() -> Table:
    """Estimated bits against real ones: each preset over clips and CRFs, JPEG over clips and qualities."""
    found = {f'`DiffH264(preset="{r["preset"]}")`': r["rate"] for r in load("h264_fidelity")["rows"] if "preset" in r}
    found["`DiffJPEG()`"] = load("rate")["in_use"]
    return ["bits of", "rank correlation", "median error"], [
        [name, number(r["rank_correlation"], 3), f"{100 * r['median_relative_error']:.1f} %"] for name, r in found.items()
    ]


def h264_unseen() -> Table:
    """Settings that no constant was fitted on, medium."""
    rows = [[r["name"], *_figures(r["figures"])] for r in load("h264_unseen")["rows"]]
    rows += [[f"256 x 256, {r['name']}", *_figures(r["figures"])] for r in load("h264_large")["rows"]]
    given = {(): "", ("before",): ", with the frames before", ("before", "after"): ", with those before and after"}
    rows += [
        [f"middle of a GOP, CRF {r['crf']:g}{given[tuple(r['given'])]}", *_figures(r | {"error_cosine": None})]
        for r in load("h264_middle")["rows"]
    ]
    rows += [[r["name"], *_figures(r["figures"])] for r in load("h264_options")["rows"]]
    return ["medium", *FIGURES], rows


def h264_guided() -> Table:
    """With a guide."""
    rows = load("h264_guided")["rows"]
    crfs = sorted({r["crf"] for r in rows})
    out = []
    for preset in dict.fromkeys(r["preset"] for r in rows):
        mine = {r["crf"]: r for r in rows if r["preset"] == preset}
        out.append([preset, *(f"{mine[c]['skill']:+.2f} dB, {mine[c]['error_cosine']:.2f}" for c in crfs)])
    return ["preset", *(f"CRF {c:g}: skill, cosine" for c in crfs)], out


def h264_steering() -> Table:
    rows = load("h264_steering")["rows"]
    return ["gradient through", "static", "changing"], [[r["through"], number(r["static"], 2), number(r["changing"], 2)] for r in rows]


def h264_ablation() -> Table:
    """A coding tool switched off in the real encoder."""
    out = []
    for r in load("h264_ablation")["rows"]:
        a, b, m = r["guided"], r["guided_matched"], r["matched"]
        out.append(
            [
                f"`{r['option']}`" if "=" in r["option"] else r["option"],
                number(r["real_survival_moves_by"], 3),
                number(m["survival_error"], 3),
                number(m["skill"], 2, sign=True),
                f"{a['skill']:+.2f}, {a['error_cosine']:.2f}",
                f"{b['skill']:+.2f}, {b['error_cosine']:.2f}",
            ]
        )
    head = [
        "libx264 medium, CRF 22",
        "moves real survival by",
        "matched: survival error",
        "skill dB",
        "guided, as it is: skill, cosine",
        "guided, matched",
    ]
    return head, out


def fidelity_at_22() -> Table:
    """The same at CRF 22 only, without the CRF."""
    head, rows = fidelity()
    return head[:1] + head[2:], [r[:1] + r[2:] for r in rows if r[1] == "22"]


def survival() -> Table:
    """Real survival of each probe against CRF, and the first simulator's."""
    rows_in = load("fidelity")["rows"]
    first = [r for r in rows_in if r["simulator"] == rows_in[0]["simulator"]]
    probes = list(first[0]["figures"]["survival_real"])
    rows = [[f"libx264 CRF {r['crf']:g}"] + [number(r["figures"]["survival_real"][p], 2) for p in probes] for r in first]
    ours = [r for r in load("h264_fidelity")["rows"] if r.get("preset") == "medium"]
    rows += [[f"{NAMES['x264']} CRF {r['crf']:g}"] + [number(r["figures"]["survival_simulated"][p], 2) for p in probes] for r in ours]
    rows.append([NAMES[first[0]["simulator"]]] + [number(first[0]["figures"]["survival_simulated"][p], 2) for p in probes])
    return ["codec", *probes], rows


def motion() -> Table:
    rows = [
        [f"`{n}`" if "(" in n else n, number(r["psnr_1_away"], 1), number(r["psnr_4_away"], 1)] for n, r in load("motion")["rows"].items()
    ]
    return ["motion", "1 frame away, dB", "4 frames away, dB"], rows


def jpeg_exact() -> Table:
    """Identical samples by subsampling and quality."""
    rows = load("jpeg")["exactness"]
    qualities = list(dict.fromkeys(r["quality"] for r in rows))
    out = []
    for subsampling in dict.fromkeys(r["subsampling"] for r in rows):
        mine = {r["quality"]: r for r in rows if r["subsampling"] == subsampling}
        out.append([subsampling] + [f"{100 * mine[q]['identical']:.4f} %" for q in qualities])
    return ["identical samples, quality", *map(str, qualities)], out


def jpeg_steering() -> Table:
    """Steering gain and band test of every gradient."""
    rows = load("jpeg")["steering"]
    qualities = list(next(iter(rows.values()))["steering"])
    body = [[f"`{n}`", *(number(r["steering"][q], 2) for q in qualities), number(r["band_test"], 2)] for n, r in rows.items()]
    return ["gradient", *(f"q{q}" for q in qualities), "band test"], body
