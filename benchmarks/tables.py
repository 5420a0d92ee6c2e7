"""Tables of README and docs, drawn from ``benchmarks/results``. ``python -m benchmarks.tables`` rewrites those of the README."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS
from diffcodec.report import number

README = Path(__file__).parent.parent / "README.md"
Table = tuple[list[str], list[list[str]]]


def load(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())  # type: ignore[no-any-return]


NAMES = {
    "x264": "`DiffH264()`",
    "revmark": 'the paper\'s model, `DiffH264(model="revmark")`',
    "revmark:reference=0": "the same, first frame as reference",
    "revmark:motion=block16": "the same, 16 x 16 blocks, whole pixels",
    "revmark:motion=none": "the same, no motion",
    "revmark:rounding=paper": "the same, eq. (1) taken literally",
    "revmark:intra_scale=0.5,inter_scale=1": "the same, weaker tables (0.5, 1)",
    # results from before the exact forward name the soft one without its rounding
    "jpeg:quality=50": '`DiffJPEG(50, rounding="cubic")` frame by frame',
    "jpeg:quality=50,rounding=cubic": '`DiffJPEG(50, rounding="cubic")` frame by frame',
    "none": "do nothing",
}


def fidelity() -> Table:
    """Every simulator at every CRF."""
    head = [
        "simulator",
        "CRF",
        "survival error",
        "per clip",
        "distortion gap dB",
        "skill dB",
        "error cosine",
        "steering static",
        "changing",
    ]
    rows = []
    for r in load("fidelity")["rows"]:
        f, s = r["figures"], r["steering"] or {"static": None, "changing": None}
        rows.append(
            [
                NAMES.get(r["simulator"], r["simulator"]),
                f"{r['crf']:g}",
                number(f["survival_error"], 3),
                number(f["per_clip_survival_error"], 3),
                number(f["distortion_gap"], 1),
                number(f["skill"], 1, sign=True),
                number(f["error_cosine"], 2),
                number(s["static"], 2),
                number(s["changing"], 2),
            ]
        )
    return head, rows


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
    rows.append([NAMES[first[0]["simulator"]]] + [number(first[0]["figures"]["survival_simulated"][p], 2) for p in probes])
    return ["codec", *probes], rows


def motion() -> Table:
    rows = [
        [f"`{n}`" if "(" in n else n, number(r["psnr_1_away"], 1), number(r["psnr_4_away"], 1)] for n, r in load("motion")["rows"].items()
    ]
    return ["motion", "1 frame away, dB", "4 frames away, dB"], rows


def speed() -> Table:
    head = ["layer", "input", "threads", "forward", "forward + backward", "median ms", "peak memory x input"]
    rows = []
    for t in load("speed")["tables"]:
        for name, r in t["rows"].items():
            both = r["forward_backward"]
            rows.append(
                [
                    name,
                    t["input"],
                    str(t["threads"]),
                    number(r["forward"]["ratio"], 2),
                    number(both["ratio"], 2),
                    f"{both['median_ms']:.0f} ({both['q1_ms']:.0f}-{both['q3_ms']:.0f})",
                    number(r["peak_memory_x_input"], 1),
                ]
            )
    return head, rows


def speed_short() -> Table:
    """Two threads, forward + backward and memory only."""
    head, rows = speed()
    return [head[0], head[1], head[4], head[6]], [[r[0], r[1], r[4], r[6]] for r in rows if r[2] == "2"]


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


TABLES = {
    "jpeg-exact": jpeg_exact,
    "jpeg-steering": jpeg_steering,
    "fidelity": fidelity,
    "fidelity-22": fidelity_at_22,
    "survival": survival,
    "motion": motion,
    "speed": speed,
    "speed-short": speed_short,
}


def markdown(table: Table) -> str:
    head, rows = table
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(r) + " |" for r in rows])


def rst(table: Table) -> str:
    head, rows = table
    quote = [["``".join(c.split("`")) for c in r] for r in [head, *rows]]
    body = "".join("   * - " + "\n     - ".join(r) + "\n" for r in quote)
    return f".. list-table::\n   :header-rows: 1\n\n{body}"


def filled(text: str) -> str:
    """Markdown with every ``<!-- table NAME -->`` ... ``<!-- end -->`` filled from the results."""
    return re.sub(
        r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}{markdown(TABLES[m[2]]())}\n{m[3]}", text, flags=re.DOTALL
    )


if __name__ == "__main__":
    README.write_text(filled(README.read_text()))
    print(f"filled {README}")
