"""Tables of README and docs, generated from ``benchmarks/results``. ``python -m benchmarks.tables`` rewrites those of the README."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS
from benchmarks.tables_fidelity import (
    Table,
    bits_step,
    chroma,
    derivatives,
    fidelity,
    fidelity_60,
    fidelity_at_22,
    fidelity_unfitted,
    h264,
    h264_ablation,
    h264_guided,
    h264_short,
    h264_steering,
    h264_unseen,
    jpeg_exact,
    jpeg_steering,
    load,
    motion,
    rate,
    survival,
)
from diffcodec import leaderboard
from diffcodec.report import number
from revmark_ref import evaluate

README = Path(__file__).parent.parent / "README.md"


def cost() -> Table:
    """CPU time on one thread against the real codec's."""
    data = load("cost")
    head = ["one thread, CPU time", "real codec, ms", "forward", "forward + backward", "in torch: forward", "forward + backward"]
    rows = []
    tables = [(f"DiffH264 {p}, 8 clips of 8 x 128 x 128", t, "DiffH264") for p, t in data["small"].items()]
    tables += [(f"DiffH264 {p}, 8 frames of 720 x 1280", t, "DiffH264") for p, t in data["large"].items()]
    tables += [("DiffJPEG 4:2:0, 16 pictures of 256 x 256", data["stills"], "DiffJPEG 4:2:0")]
    for title, table, layer in tables:
        first = next(iter(table.values()))
        times = [table[f"{layer}, {b}, {w}"] for b in ("native", "reference") for w in ("forward", "forward + backward")]
        rows.append([title, number(first["median_ms"], 1), *(f"{number(t['ratio'], 2)} x" for t in times)])
        if (guided := table.get("guided DiffH264, native, forward + backward")) is not None:
            slow = table["guided DiffH264, reference, forward + backward"]
            rows.append(
                [
                    "stand-in gradient of `RealCodec`, the same clips",
                    "",
                    "",
                    f"{number(guided['ratio'], 2)} x",
                    "",
                    f"{number(slow['ratio'], 2)} x",
                ]
            )
    if (kornia := data["stills"].get("kornia, forward + backward")) is not None:
        rows.append(["kornia's JPEG, the same pictures", "", "", "", "", f"{number(kornia['ratio'], 2)} x"])
    return head, rows


def speed() -> Table:
    head = ["layer", "input", "threads", "forward", "forward + backward", "median ms", "alone", "median ms", "peak memory x input"]
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
                    number(r["alone"]["ratio"], 2),
                    f"{r['alone']['median_ms']:.0f} ({r['alone']['q1_ms']:.0f}-{r['alone']['q3_ms']:.0f})",
                    number(r["peak_memory_x_input"], 1),
                ]
            )
    return head, rows


def binaries() -> Table:
    """Kernels compiled ahead of time, by GPU."""
    rows = load("kernels")["rows"]
    out = []
    for target in dict.fromkeys(r["target"] for r in rows):
        mine = [r for r in rows if r["target"] == target]
        most, few = max(r["registers"] for r in mine), min(r["threads_per_multiprocessor"] for r in mine)
        spilt = sum(r["spills"] > 0 or r["stack_bytes"] > 0 for r in mine)
        out.append([target, str(len(mine)), str(spilt), str(most), str(few), f"{max(r['shared_bytes'] for r in mine)}"])
    return ["GPU", "binaries", "with spills", "most registers", "fewest threads a multiprocessor", "most shared memory, bytes"], out


def calls() -> Table:
    """Launches of a pass through DiffH264."""
    body = []
    for preset, r in load("calls")["rows"].items():
        plain, fused = r["reference"], r["triton"]
        cells = [[str(plain[w]["torch"]), str(fused[w]["torch"]), str(fused[w]["kernels"])] for w in BOTH_WAYS]
        body.append([preset, *cells[0], *cells[1], f"{sum(r['cpu_ms'].values()):.0f}"])
    columns = (f"{w}, {what}" for w in BOTH_WAYS for what in ("all torch", "torch beside kernels", "kernels"))
    return ["preset", *columns, "ms of a CPU, if launches did nothing"], body


BOTH_WAYS = ("forward", "backward")


def scaling() -> Table:
    """Log-log slopes of time and memory along each axis."""
    rows = load("scaling")["rows"]
    axes = list(dict.fromkeys(r["axis"] for r in rows))
    body = []
    for layer in dict.fromkeys(r["layer"] for r in rows):
        found = {r["axis"]: r["slope"] for r in rows if r["layer"] == layer}
        body.append([layer, *(f"{found[a]['time']:.2f}, {found[a]['memory']:.2f}" for a in axes)])
    return ["slope of time, of memory", *axes], body


def convergence() -> Table:
    """Short trainings with and without kernels."""
    body = []
    for name, layer in (("jpeg", "DiffJPEG"), ("h264", "DiffH264 ultrafast")):
        if not (RESULTS / f"convergence_{name}.json").exists():
            body.append([layer, *["not measured"] * 6])
            continue
        r = load(f"convergence_{name}")
        ends = {b: [x["last"] for x in found] for b, found in r["runs"].items()}
        first = [x["first"] for x in r["runs"]["reference"]]
        cells = [f"{min(v):.4f} to {max(v):.4f}" for v in (first, ends["reference"], ends["triton"])]
        body.append([layer, str(len(first)), *cells, f"{r['spread_of_seeds']:.1e}", f"{r['backends_apart']:.1e}"])
    return ["layer", "seeds", "loss at first", "at the end, torch", "at the end, kernels", "seeds apart", "backends apart"], body


def gpu() -> Table:
    """Layers by kernels on a GPU."""
    head = ["layer", "input", "forward, ms", "forward + backward, ms", "share of copy bandwidth", "twin over it", "extra memory x input"]
    out = []
    for name, r in load("gpu")["rows"].items():
        shape = " x ".join(map(str, r["shape"]))
        if "fault" in r:
            out.append([name, shape, "failed its check", "", "", "", ""])
            continue
        own = [r["fused"][w] for w in BOTH]
        share = ", ".join(f"{100 * t['share_of_copy']:.0f} %" for t in own if "share_of_copy" in t)
        faster = r["faster_than"].get("twin")
        cells = [*(number(t["median_ms"], 2) for t in own), share, "" if faster is None else f"{faster:.1f}"]
        out.append([name, shape, *cells, f"{r['fused']['extra_memory_x_input']:.1f}"])
    return head, out


BOTH = ("forward", "forward_backward")


def full_hd() -> Table:
    rows = load("speed")["full_hd"]
    return ["8 x 3 x 1080 x 1920, forward + backward", "seconds", "peak memory, GiB, input included"], [
        [n, f"{r['seconds']:.1f}", f"{r['peak_gib']:.2f}"] for n, r in rows.items()
    ]


def _cell(v: Any) -> str:
    """A measured cell with its interval, a figure of the paper, or a word."""
    if v is None:
        return "not measured"
    if isinstance(v, dict):
        return f"{v['value']:.2f} ({v['low']:.2f} to {v['high']:.2f})"
    return f"{v:g}" if isinstance(v, (int, float)) else str(v)


def revmark(result: str, number_: int) -> Table:
    """One of the paper's tables, with the paper's values beside ours."""
    data = load(result)
    rows = data["tables"][f"table {number_}"]
    columns = [c for c in dict.fromkeys(k for r in rows for k in r) if c != evaluate.OURS]
    head = [f"ours: {_ours(data, columns)}" if c == "ours" else c for c in columns]
    return head, [[_cell(r[c]) if c in r else "" for c in columns] for r in rows]


def _ours(data: dict[str, Any], columns: list[str]) -> str:
    """What "ours" is, except for what columns of the table give for each row."""
    m, found = data["model"], data["tables"]
    told = [] if "bits" in columns else [f"{m['bits']} bits"]
    told.append(f"{m['frames']} x {m['height']} x {m['width']}")
    quality = data.get("quality") or found.get("table 2", [{}])[-1]
    if "psnr" not in columns and "psnr" in quality:
        told.append(f"{quality['psnr']['value']:.1f} dB")
    if "table 8" in found:
        told.append(f"{found['table 8'][-1]['steps']} steps")
    return ", ".join(told)


def revmark_distortions() -> Table:
    """Table 6: robustness of a model by the distortion it was trained through."""
    head = ["trained through", "frame drop", "noise 0.04", "blur 2.0", "libx264 CRF 22", "CRF 27", "the paper, CRF 22"]
    rows = load("robustness_distortions")["tables"]["table 6"]
    plain = [[f"`{r['variant']}`", *(number(r[k]["value"], 1) for k in ("drop", "noise", "blur"))] for r in rows]
    codecs = [[_cell(r["libx264:22"]), _cell(r["libx264:27"]), _cell(r["paper libx264:22"])] for r in rows]
    return head, [a + b for a, b in zip(plain, codecs)]


def revmark_codecs() -> Table:
    """Bit accuracy over the CRF of each codec."""
    found = load("robustness")["curves"]
    names = [n for n in found if n.startswith("lib")]
    out = []
    for n in names:
        out.append([n, ", ".join(f"{r['strength']:g}: {r['value']:.1f}" for r in found[n])])
    return ["codec", "CRF: bit accuracy %"], out


def learning(result: str, steps: tuple[int, ...], names: dict[str, str]) -> Table:
    """Bit accuracy in training, means over the ten steps up to each, and on real libx264 at the end."""
    rows = []
    for run, name in names.items():
        found = load(result)["runs"][run]
        at = {s["step"]: f"{100 * s['accuracy']:.1f}" for s in found["steps"]}
        real = list(found["validation"].values())[-1]
        rows.append([name, *(at.get(s, "") for s in steps), *(f"{100 * real[f'validation/x264_{crf}']:.1f}" for crf in (22, 27))])
    return ["", *(f"step {s}" for s in steps), "libx264 CRF 22, at the end", "CRF 27"], rows


FAMILIES = {
    "none": "the marked file itself",
    "coding": "libx264 CRF 23 to 33, libx265, VP9, AV1, 500 kbit/s, coded twice, MJPEG",
    "geometry": "scaled 50 to 150 %, other aspect, mirrored, quarter and half turn, bars, cropped to 90 and 75 %, logo",
    "rotation 1": "turned by 1 degree",
    "rotation 2": "turned by 2 degrees",
    "rotation 5": "turned by 5 degrees",
    "time": "24 to 60 frames a second, blended, 5 % faster, cut, trimmed, reversed",
    "light": "brightness, contrast, gamma, grain, denoised, sharpened, blurred, GIF at 12 frames a second",
}


def _marked_rows(families: dict[str, str], named: Callable[[str], str], total: str, share: bool) -> list[list[str]]:
    """A row for each group of families of attacks: files, messages read, wrong messages."""
    marked = load("watermark_attacks")
    family_of = {name: r["family"] for name, r in marked["attacks"].items()}
    wrong = [family_of[r["attack"]] for r in marked["not_exact"] if r["verdict"] in ("message", "text")]
    assert len(wrong) == marked["wrong_messages"]
    rows = []
    for family, words in families.items():
        own = [r for r in marked["attacks"].values() if named(r["family"]) in family.split(",")]
        files, exact = sum(r["files"] for r in own), sum(r["exact"] for r in own)
        rows.append([words, str(files), _read(files, exact, share), str(sum(named(w) in family.split(",") for w in wrong))])
    rows.append([total, str(marked["files"]), _read(marked["files"], marked["exact"], share), str(len(wrong))])
    unmarked = load("watermark_unmarked")
    return [*rows, ["unmarked, attacked or not", str(unmarked["files"]), "0", str(unmarked["wrong_messages"])]]


def _read(files: int, exact: int, share: bool) -> str:
    return f"{exact} ({1000 * exact // files / 10} %)" if share else str(exact)  # rounded down: 100 % is all of them


def watermark() -> Table:
    """Marks in files, by families of attacks."""
    return ["files", "number", "message exact", "wrong messages"], _marked_rows(FAMILIES, str, "all", share=True)


def watermark_short() -> Table:
    """The README's part of :func:`watermark`: families taken together."""
    families = {
        "coding": "H.264, H.265, VP9, AV1, MJPEG, coded twice, 500 kbit/s", "geometry,rotation": "scaled, cropped, turned, mirrored, bars, logo",
        "time": "24 to 60 frames a second, faster, cut, reversed", "light": "light, contrast, grain, blur, GIF",
    }  # fmt: skip
    first = lambda family: family.split()[0]  # noqa: E731  "rotation 5" is a rotation
    return ["files", "number", "message read", "wrong message"], _marked_rows(families, first, "all, and untouched", share=False)


def readable() -> Table:
    """What ``embed`` predicts of its marks, beside what is read."""
    rows = []
    kinds = {"contents": "synthetic films of many kinds", "clips": "clips", "weak": "all, marked at 43 dB and written at CRF 32"}
    for part, words in kinds.items():
        for called, n in load(f"readable_{part}")["counts"].items():
            how = {"CRF 28": "coded again at CRF 28"}.get(called, called)
            cells = [str(n[f"predicted {p}, {r}"]) for p in ("readable", "unreadable") for r in ("read", "not read")]
            rows.append([f"{words}, {how}", *cells])
    head = [
        "films",
        "predicted readable, read",
        "predicted readable, not read",
        "predicted unreadable, read",
        "predicted unreadable, not read",
    ]
    return head, rows


def excerpts() -> Table:
    """Excerpts that are read, by their length."""
    lengths = load("readable_clips")["excerpts"]
    return ["length", "excerpts", "message read"], [[n, str(r["number"]), str(r["read"])] for n, r in lengths.items()]


CODECS = {
    "libx264:18": "libx264 CRF 18", "libx264:22": "22", "libx264:27": "27", "libx264:32": "32", "libx265:28": "libx265 28",
    "libvpx-vp9:36": "VP9 36", "libsvtav1:40": "AV1 40",
}  # fmt: skip


def distortions() -> Table:
    """Table 6 with the paper's mapping: bit accuracy by what the network was trained through, means over seeds."""
    columns = CODECS | {"libx264:27": "27 (seeds)", "drop": "frame drop", "noise": "noise", "blur": "blur", "crop": "crop"}
    rows = []
    for layer, r in load("distortions")["layers"].items():
        cells = [f"`{layer}`"]
        for name in columns:
            cell = f"{r['mean'][name]:.1f}"
            if "seeds" in columns[name]:
                found = [s["accuracy"][name]["value"] for s in r["seeds"]]
                cell += f" ({min(found):.1f} to {max(found):.1f})"
            cells.append(cell)
        rows.append(cells)
    return ["trained through", *columns.values()], rows


def distortions_short() -> Table:
    """The same for the README, with the second start."""
    rows = []
    order = list(load("distortions")["layers"])
    for name, start in (("distortions", ""), ("distortions_other_start", ", other start")):
        for layer, r in sorted(load(name)["layers"].items(), key=lambda item: order.index(item[0])):
            rows.append([f"`{layer}`{start}", *(f"{r['mean'][c]:.1f}" for c in CODECS)])
    return ["trained through", *CODECS.values()], rows


def match() -> Table:
    """The README's part of the fidelity page: means over the CRFs that no constant was fitted on, steering over those where it was measured."""
    names = {
        "none": "do nothing", "benchmarks.peers:KorniaJPEG:quality=50": "kornia's JPEG, quality 50, frame by frame",
        "revmark": "the REVMark paper's model, motion by block search, rounding of its code",
        "revmark:rounding=paper": "the same, rounding by eq. (1) as printed", "x264": "`DiffH264()`",
    }  # fmt: skip
    found = load("fidelity_unfitted")["rows"]
    columns = {"survival_error": 3, "chroma_survival_error": 3, "skill": 2, "luma_skill": 2}
    rows = []
    for name, words in names.items():
        own = [r for r in found if r["simulator"] == name]
        steered = [r["steering"] for r in own if r["steering"]]
        figures = [number(_mean([r["figures"][k] for r in own]), n, sign="skill" in k) for k, n in columns.items()]
        rows.append([words, *figures, *(number(_mean([s[kind] for s in steered]), 2) for kind in ("static", "changing"))])
    return ["layer", "survival error (0 is perfect)", "in chroma", "skill, dB", "of luma", "steering: still", "changing"], rows


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def board(name: str) -> dict[str, Any]:
    """The leaderboard's board of a set of clips."""
    return next(b for b in load("leaderboard")["boards"] if b["set"] == name)


def cost_short() -> Table:
    """The README's part of :func:`cost`."""
    shown = ("DiffH264 ultrafast, 8 clips", "DiffH264 medium, 8 clips", "DiffH264 medium, 8 frames", "DiffJPEG", "kornia")
    keep = [r for r in cost()[1] if r[0].startswith(shown)]
    return ["", "forward", "forward + backward"], [[r[0], r[2] or "", r[3] or r[5]] for r in keep]


def leaderboard_(name: str) -> Table:
    """The whole board of a set of clips, with the notes of its entries."""
    place = board(name)
    _, head, rows = leaderboard.tables({"boards": [place]})[0]
    notes = {n: e["note"] for n, e in place["entries"].items()}
    return [*head, "note"], [[r[0] if " " in r[0] else f"`{r[0]}`", *r[1:], notes[r[0]]] for r in rows]


def sources(name: str) -> Table:
    """Where the clips of a set come from."""
    clips = board(name)["clips"]
    return ["clip", "first frame", "source"], [[f"`{c['name']}`", str(c["start"]), c["source"]] for c in clips]


def bits() -> Table:
    """Bytes of a marked file over those of the unmarked one at equal CRF."""
    data = load("watermark_bits")
    crfs = list(data["median"])
    cells = [[name, *(f"{100 * (r[c] - 1):+.1f} %" for c in crfs)] for name, r in data["rows"].items()]
    return ["clip", *crfs], [*cells, ["median", *(f"{100 * (data['median'][c] - 1):+.1f} %" for c in crfs)]]


def base_windows() -> Table:
    """Windows of the paper's size: ``base`` with descent, at two strengths, and without."""
    found = [load(f"robustness_base{n}") for n in ("", "_42", "_plain")]
    names = {
        "libx264:27": "libx264, CRF 27",
        "libx264:32": "libx264, CRF 32",
        "resize:0.5+libx264:23": "half the size and back, then libx264, CRF 23",
    }
    told = [
        {r["attack"]: r["ours"] for r in d["tables"].get("table 1", [])}
        | {"libx264, CRF 22": d["attacks"]["libx264:22"]}
        | {words: d["attacks"][name] for name, words in names.items() if name in d["attacks"]}
        for d in found
    ]
    paper = {r["attack"]: (_cell(r["paper DVMark"]), _cell(r["paper"])) for r in found[0]["tables"]["table 1"]}
    body = [[a, *paper.get(a, ("", "")), *(_cell(t[a]) if a in t else "" for t in told)] for a in told[0]]
    quality = {
        "psnr": ("PSNR, dB", "37.0", "37.5"), "ssim": ("SSIM", "", ""), "lpips": ("LPIPS x 100", "5.70", "2.96"),
        "flat": ("residual in flat places, levels", "", ""), "flicker": ("largest over mean change of the residual", "", ""),
    }  # fmt: skip
    body += [[*words, *(_cell(d["quality"][key]) for d in found)] for key, words in quality.items()]
    ways = [f"descent of {d['descent']} steps" if d["descent"] else "no descent" for d in found]
    return ["", "DVMark (paper)", "REVMark (paper)", f"`base`, {ways[0]}", f"`base` at 42 dB, {ways[1]}", f"`base`, {ways[2]}"], body


def protocol() -> Table:
    """The attacks of ``benchmarks.protocol`` on whole clips: bit accuracy (worst clip), capacity in bits, mean log10 of p, for each system."""
    systems = load("protocol")["systems"]
    names = {"base": "`base`", "small": "`small`", "rivagan": "RivaGAN"}
    head = ["attack"]
    for name, r in systems.items():
        title = f"{names[name]}, {r['bits']} bits, {r['psnr']:.1f} dB"
        head += [f"{title}: bit accuracy % (worst clip)", "capacity", "log10 p"]
    body = []
    for attack in next(iter(systems.values()))["attacks"]:
        cells = [attack]
        for r in systems.values():
            f = r["attacks"][attack]
            cells += [f"{100 * f['bit_accuracy']:.1f} ({100 * f['worst_clip']:.0f})", f"{f['capacity']:.1f}", f"{f['log10_p']:.1f}"]
        body.append(cells)
    return head, body


TABLES = {
    "jpeg-exact": jpeg_exact,
    "jpeg-steering": jpeg_steering,
    "fidelity": fidelity,
    "fidelity-22": fidelity_at_22,
    "fidelity-unfitted": fidelity_unfitted,
    "fidelity-60": fidelity_60,
    "chroma": chroma,
    "derivatives": derivatives,
    "bits-step": bits_step,
    "survival": survival,
    "h264": h264,
    "h264-short": h264_short,
    "rate": rate,
    "h264-unseen": h264_unseen,
    "h264-guided": h264_guided,
    "h264-steering": h264_steering,
    "h264-ablation": h264_ablation,
    "motion": motion,
    "cost": cost,
    "speed": speed,
    "full-hd": full_hd,
    "scaling": scaling,
    "calls": calls,
    "convergence": convergence,
    "kernels": binaries,
    "gpu": gpu,
    **{f"revmark-{n}": partial(revmark, "robustness", n) for n in (1, 2, 3, 8, 9, 10)},
    "revmark-4": partial(revmark, "robustness_payload", 4),
    "revmark-5": partial(revmark, "robustness_tas", 5),
    "revmark-6": revmark_distortions,
    "revmark-7": partial(revmark, "robustness_mask", 7),
    "revmark-codecs": revmark_codecs,
    "revmark-plateau": partial(learning, "plateau", (10, 60, 100, 250, 500), {"linear": "`linear`", "spread": "`spread`"}),
    "revmark-budget": partial(
        learning,
        "checkpoint_budget",
        (70, 80, 100, 120, 150),
        {"base": "in one go", "budget": "stopped at step 75, `--checkpoint-budget 16`"},
    ),
    "base-windows": base_windows,
    "base-10": partial(revmark, "robustness_base", 10),
    "base-4": partial(revmark, "robustness_base_payload", 4),
    "base-bits": bits,
    "distortions": distortions,
    "distortions-short": distortions_short,
    "match": match,
    **{f"leaderboard-{n}": partial(leaderboard_, n) for n in ("standard", "public-19")},
    **{f"leaderboard-{n}-clips": partial(sources, n) for n in ("standard", "public-19")},
    "cost-short": cost_short,
    "protocol": protocol,
    "watermark": watermark,
    "watermark-short": watermark_short,
    "readable": readable,
    "excerpts": excerpts,
}


def markdown(table: Table) -> str:
    head, rows = table
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(r) + " |" for r in rows])


def rst(table: Table) -> str:
    head, rows = table
    quote = [["\\-" if c == "-" else "``".join(c.split("`")) for c in r] for r in [head, *rows]]  # a lone dash would be a bullet
    body = "".join("   * - " + "\n     - ".join(r) + "\n" for r in quote)
    width = sum(max(map(len, column)) for column in zip(*rows))
    kind = "figures" if width <= 100 else "figures words"  # cells of a wide table break
    return f".. list-table::\n   :header-rows: 1\n   :class: {kind}\n\n{body}"


def filled(text: str) -> str:
    """Markdown with every ``<!-- table NAME -->`` ... ``<!-- end -->`` filled from the results."""
    return re.sub(
        r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}{markdown(TABLES[m[2]]())}\n{m[3]}", text, flags=re.DOTALL
    )


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    README.write_text(filled(README.read_text()))
    print(f"filled {README}")
