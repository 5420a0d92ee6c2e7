"""Every kernel, compiled ahead of time for GPUs that need not be there: registers, spills and shared memory, read from the binary."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.common import record
from diffcodec.kernels import attacks, color, deblock, inter, intra, jpeg, motion, residual, warp

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
REGISTERS, THREADS = 65536, 2048  # of a multiprocessor
TARGETS = {"sm_80": 80, "sm_90": 90}


class Variant(NamedTuple):
    """A kernel with its compile-time options.

    Attributes:
        kernel: the function.
        options: its ``tl.constexpr`` arguments.
        pointers: types of its pointers, ``"fp32"`` where not said.
        floats: arguments that are numbers and no whole ones.
        warps: of a program.
        aligned: whether sizes are multiples of 16, as those of most videos are.
    """

    kernel: Any
    options: dict[str, Any]
    pointers: dict[str, str]
    floats: tuple[str, ...] = ()
    warps: int = 4
    aligned: bool = True


def pointers(names: str, **types: str) -> dict[str, str]:
    return {name: types.get(name, "fp32") for name in names.split()}


def variants() -> dict[str, Variant]:
    """By name."""
    out: dict[str, Variant] = {}
    exact, soft = {"WHOLE": True, "MODE": jpeg.MODES["laplacian"]}, {"WHOLE": False, "MODE": jpeg.MODES["cubic"]}
    for kind, how in (("exact", exact), ("soft", soft)):
        plane = "u8" if kind == "exact" else "fp32"
        for even in (True, False):
            base = {**how, "EVEN": even, "R": 128}
            end = f"{kind}{'' if even else ', odd size'}"

            def add(name: str, kernel: Any, options: Any, *args: Any, end: str = end, even: bool = even, lean: bool = even) -> None:
                warps = jpeg._warps(options["R"], lean)
                out[f"{name}, {end}"] = Variant(kernel, options, *args, aligned=even, warps=warps)

            add("JPEG 4:4:4 forward", jpeg._code, {**base, "COLOR": True}, pointers("x out tables"))
            p = pointers("x luma chroma tables", luma=plane, chroma=plane)
            add("JPEG 4:2:0 forward, luma", jpeg._code_luma, {**base, "V": 2}, p)
            add("JPEG 4:2:0 forward, chroma", jpeg._code_chroma, base, pointers("x out tables", x=plane, out=plane))
            for tables in (False, True):
                steps = ", with tables" if tables else ""
                names = "x grad chroma out tables by_tables"
                more = {**base, "COLOR": True, "TABLES": tables}
                for u, kind_of in ((1, "4:4:4 backward"), (2, "4:2:0 backward, luma")):
                    lean = jpeg._lean(even, how["WHOLE"], tables, u)
                    add(f"JPEG {kind_of}{steps}", jpeg._backward, {**more, "V": u, "U": u}, pointers(names), ("WIDTH",), lean=lean)
                p = pointers("x grad tables by_tables", x=plane)
                lean = jpeg._lean(even, how["WHOLE"], tables)
                options = {**base, "TABLES": tables, "R": jpeg._MOST_CHROMA if tables else 128}
                add(f"JPEG 4:2:0 backward, chroma{steps}", jpeg._chroma_backward, options, p, ("WIDTH",), lean=lean)
        p = pointers("luma chroma out", luma=plane, chroma=plane)
        out[f"JPEG 4:2:0 forward, RGB, {kind}"] = Variant(jpeg._to_rgb, {"V": 2, "WHOLE": how["WHOLE"], "SIZE": 1024}, p, ("NEAR",))
        p = pointers("x grad boxed out", boxed=plane)
        out[f"JPEG 4:2:0 backward, chroma of RGB, {kind}"] = Variant(
            jpeg._chroma_gradient, {"V": 2, "WHOLE": how["WHOLE"], "SIZE": 512}, p, ("NEAR",)
        )
    for block in (4, 8, 16):
        p = pointers("current reference out", out="i32")
        out[f"motion {block} x {block}, full search"] = Variant(
            motion._coarse, {"K": block // 2}, p, ("smoothness",), 1 if block < 16 else 4
        )
        for name, flags in (("first", (False, True, 0)), ("second", (True, True, 0)), ("last", (True, False, 4))):
            p = pointers("current reference vectors out", vectors="i32", out="fp32" if flags[2] else "i32")
            more = dict(zip(("NEIGHBOURS", "MOVE", "SUBPEL"), flags)) | {"K": block, "P": motion._SAMPLES // block**2}
            out[f"motion {block} x {block}, {name} step"] = Variant(motion._refine, more, p, ("smoothness",))
    size = {"SIZE": attacks._SIZE}
    for kind in ("fp32", "bf16"):
        x = {"x": kind, "out": kind, "grad": kind}
        out[f"choice of frames, {kind}"] = Variant(attacks._take, size, pointers("x index out", index="i64", **x))
        out[f"choice of frames, backward, {kind}"] = Variant(attacks._take_backward, size, pointers("grad index out", index="i64", **x))
        for backward in (False, True):
            end = f"{', backward' if backward else ''}, {kind}"
            p = pointers("x window out", window="i32", **x)
            out[f"mean of frames{end}"] = Variant(attacks._average, {**size, "BACKWARD": backward}, p)
            for r in (1, 2):
                p = pointers("x weights out", **x)
                out[f"blur {2 * r + 1}{end}"] = Variant(attacks._blur, {**size, "RT": r, "R": r, "BACKWARD": backward}, p)
        p = pointers("reference flow out", reference=kind, out=kind)
        out[f"warp, {kind}"] = Variant(warp._warp, {"SIZE": warp._SIZE}, p)
        p = pointers("grad reference flow of_reference of_flow", reference=kind, grad=kind)
        more = {"SIZE": warp._SIZE, "WRT_REFERENCE": True, "WRT_FLOW": True}
        out[f"warp, backward, {kind}"] = Variant(warp._warp_backward, more, p)
        out[f"noise, {kind}"] = Variant(attacks._noise, size, pointers("x noise sigma out", **x))
    for what, side in (("luma", 16), ("chroma", 8)):
        forward = {16: deblock._filter_luma, 8: deblock._filter_chroma}[side]
        backward = {", inner edges": deblock._luma_inner_backward, ", outer edges": deblock._luma_outer_backward}
        for edges, one in (("vertical", {"STEP": 1, "ACROSS": 1}), ("horizontal", {"NEXT": 1, "ALONG": 1})):
            names, more = "x bs qp tables out", {"SIZE": deblock._LINES, **one}
            out[f"deblocking, {what}, {edges}"] = Variant(forward, more, pointers(names))
            for name, kernel in (backward if side == 16 else {"": deblock._chroma_backward}).items():
                out[f"deblocking, {what}, {edges}, backward{name}"] = Variant(kernel, more, pointers("grad " + names))
    p = pointers("intra coded motion use8 left upper", intra="u8", coded="u8", use8="u8")
    out["deblocking, strengths"] = Variant(deblock._strengths, {"SIZE": deblock._LINES}, p)
    size = {"SIZE": color._SIZE}
    out["RGB to YUV, luma"] = Variant(color._luma, size, pointers("rgb out"))
    out["RGB to YUV, chroma"] = Variant(color._chroma, size, pointers("rgb out"))
    out["RGB to YUV, backward"] = Variant(color._to_yuv_backward, size, pointers("of_luma of_chroma out"))
    out["YUV to RGB"] = Variant(color._to_rgb, size, pointers("luma chroma out"))
    out["YUV to RGB, backward"] = Variant(color._to_rgb_backward, size, pointers("grad of_luma of_chroma"))
    out |= h264_variants()
    return out


WEIGHTS = ("lam_intra", "lam_inter", "dead_intra", "dead_inter", "block_bits", "spread", "memory")


def h264_variants() -> dict[str, Variant]:
    out: dict[str, Variant] = {}
    whole = dict.fromkeys(["reference", "which", "vectors", "start", "predictor", "whole", "four"], "i64")

    def add(name: str, kernel: Any, options: dict[str, Any], names: str, warps: int = 4, **types: str) -> None:
        known = {k: v for k, v in (whole | {"phases": "u8"} | types).items() if k in names.split()}
        out[f"H.264 {name}"] = Variant(kernel, options, pointers(names, **known), WEIGHTS, warps)

    add("full search", inter._whole, {"K": 4, "R": inter._ROWS * 4}, "current reference out", out="i64")
    add("quarter-pel planes", inter._quarter_pel, {"SIZE": inter._SIZE}, "luma out", out="u8")
    add("luma, fetch", inter._fetch, {"K": 8, "R": inter._ROWS}, "phases reference vectors out")
    add("luma, prediction backward", inter._predict_backward, {"K": 8}, "grad planes which vectors shares out", 2)
    more = {"K": 4, "R": 2 * inter._ROWS}
    add("chroma, prediction", inter._fetch_chroma, more, "planes reference vectors out")
    add("chroma, prediction backward", inter._fetch_chroma_backward, more, "grad reference vectors out")
    names = "phases reference target start predictor lam hadamard vectors costs"
    for k in (8, 16):
        more = {"K": k, "P": inter.SEARCH_ROWS * 64 // k**2}
        for name, fine, subpel, rounds in (("SATD, quarter pixels", True, 4, 1), ("SAD, half pixels", False, 2, 2), ("SAD", False, 1, 1)):
            add(
                f"search {k} x {k}, {name}",
                inter._refine,
                {**more, "FINE": fine, "SUBPEL": subpel, "ROUNDS": rounds},
                names,
                inter.SEARCH_WARPS,
            )
    bits = dict.fromkeys(["intra", "use8", "large", "coded_out"], "u8")
    coefficients = "flat steps second tables"
    for kind, what in enumerate(("luma 8 x 8", "luma 4 x 4", "chroma")):
        more = {"KIND": kind, "P": residual._P}
        add(f"contexts counted, {what}", residual._count, more, "source predicted qp stats flat steps second", residual.WARPS[kind])
        for trellis in (True, False):
            flags = {**more, "TRELLIS": trellis, "DECIMATE": True, "LEVELS": False}
            end = f"{what}, {'trellis' if trellis else 'dead zone'}"
            names = f"source predicted qp intra use8 large out levels_out coded_out {coefficients}"
            add(f"residual, {end}", residual._code, flags, names, residual.WARPS[kind], **bits)
            names = f"grad of_levels source predicted qp intra use8 large by_source by_predicted by_qp {coefficients}"
            add(f"residual, backward, {end}", residual._code_backward, flags, names, residual.WARPS[kind], **bits)
    add("quantisers, walk", residual._settle, {}, "qp frame out", 1)
    add("bits of contexts", residual._bits_of_contexts, {"KINDS": 2}, "stats contexts tables")
    whole = {"places": "i64", "there_of": "u8", "expected": "i64", "found": "i64", "modes": "i64", "kind": "i64"}
    for k, what in ((4, "4 x 4"), (8, "8 x 8"), (intra._LUMA, "16 x 16"), (intra._CHROMA, "chroma")):
        shape = intra._shape(k)
        names = "source around places there_of lam needs bits expected matrices smooth hadamard costs found"
        add(
            f"intra {what}, choice of modes",
            intra._choose,
            {**shape, "EXPECTED": k in (4, 8), "SATD": True},
            names,
            intra.warps(k),
            **whole,
        )
        want = {**shape, "WANT": 0 if k else -1}
        add(f"intra {what}", intra._predict, want, "around places there_of modes kind matrices smooth out", intra.warps(k), **whole)
        names = "grad around places there_of modes kind matrices smooth out"
        add(f"intra {what}, backward", intra._predict_backward, {**want, "PLANE": intra._KINDS[k].plane}, names, intra.warps(k), **whole)
    vectors = dict.fromkeys(["field", "field0", "field1", "start", "predictor", "whole", "vectors"], "i64")
    size = {"SIZE": inter._SIZE}
    add("search, where it begins", inter._begin, {**size, "STILL_FIRST": 0}, "field start predictor", **vectors)
    add("search, blocks of macroblocks", inter._divide, size, "whole start predictor", **vectors)
    add("median of vectors", inter._medians, size, "vectors out", out="i64", **vectors)
    more = {"FINE": True, "P": inter.SEARCH_ROWS}
    add("lookahead, cost", inter._look, more, "phases reference source vectors hadamard costs", inter.SEARCH_WARPS)
    add("planes of half the size", inter._half_resolution, size, "luma small out", out="u8")
    names, more = "source predicted hadamard sad by_four by_eight", {"P": inter.SEARCH_ROWS // 4}
    add("residual, what it costs", inter._weigh, more, names, inter.SEARCH_WARPS)
    known = vectors | dict.fromkeys(["used0", "used1"], "u8") | dict.fromkeys(["name0", "name1"], "i64")
    add("motion for the loop filter", inter._motion, {**size, "TWO": True}, "field0 field1 used0 used1 name0 name1 out", **known)
    names = "source past future field0 field1 lam hadamard out"
    more = {"FINE": True, "P": inter.SEARCH_ROWS // 4}
    add("B frames, direction", inter._direction, more, names, inter.SEARCH_WARPS, out="i64", **vectors)
    more = {"SIZE": 4 * inter._SIZE}
    add("B frames, mean", inter._mix, more, "past future which out", which="i64")
    add("B frames, mean, backward", inter._mix_backward, more, "grad which past future", which="i64")
    modes = dict.fromkeys([f"{what}{k}" for what in ("modes", "likely") for k in (4, 8, 16)] + ["kind", "eight", "four"], "i64")
    add("intra, modes of neighbours", intra._likely, {"SIZE": intra._SIZE}, "kind eight four likely8 likely4", **modes)
    names = "costs16 costs8 costs4 modes16 modes8 modes4 likely8 likely4 lam large_bits kind cost bits of_kinds"
    add("intra, kind", intra._weigh, {"KNOWN": True, "SMALL": True, "SIZE": intra._SIZE}, names, **modes)
    add("intra, price", intra._price, {"P": intra._PRICED}, "source done lam bits textures out")
    for n in (16, 64):
        add(f"bits, contexts counted, {n} levels", residual._count_levels, {"n": n, "P": residual._P}, "levels stats")
        add(f"bits of {n} levels", residual._bits_of_levels, {"n": n, "P": residual._P}, "levels tables out")
    names = "phases reference target whole four predictor lam hadamard out"
    add("partitions", inter._partition, {"FINE": True, "P": inter.SEARCH_ROWS // 4}, names, inter.SEARCH_WARPS, out="i64")
    return out


def compiled(v: Variant, arch: int) -> dict[str, Any]:
    """Compile, and read the binary."""
    signature: dict[str, str] = {}
    hints: dict[tuple[int, ...], Any] = {}
    for i, p in enumerate(v.kernel.params):
        if p.is_constexpr or p.name in v.options:  # the compiler is told numbers that are 1
            signature[p.name] = "constexpr"
            continue
        signature[p.name] = f"*{v.pointers[p.name]}" if p.name in v.pointers else "fp32" if p.name in v.floats else "i32"
        if p.name in v.pointers or (v.aligned and p.name in ("H", "W", "HC", "WC", "WIDE", "STRIDE", "ZERO", "S")):
            hints[(i,)] = [["tt.divisibility", 16]]
    began = time.perf_counter()
    source = ASTSource(fn=v.kernel, signature=signature, constexprs=v.options, attrs=hints)
    binary = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": v.warps})
    took = time.perf_counter() - began
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage = run("cuobjdump", "-res-usage", file.name)
        code = run("nvdisasm", "-c", file.name)
    registers, stack, shared = (int(re.search(rf"{word}:(\d+)", usage)[1]) for word in ("REG", "STACK", "SHARED"))  # type: ignore[index]
    a_block = 32 * v.warps
    return {
        "registers": registers,
        "spills": len(re.findall(r"\b(?:STL|LDL)\b", code)),
        "stack_bytes": stack,
        "shared_bytes": shared,
        "instructions": len(re.findall(r"^\s*/\*[0-9a-f]{4,}\*/", code, re.MULTILINE)),
        "threads_per_multiprocessor": min(THREADS, REGISTERS // (-(-registers // 8) * 8 * a_block) * a_block),
        "compile_s": round(took, 1),
    }


def run(tool: str, *args: str) -> str:
    return subprocess.run([str(TOOLS / tool), *args], capture_output=True, text=True, check=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="kernels whose name contains this")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--name", default="kernels", help="of the results' file")
    args = parser.parse_args()
    rows = []
    for name, v in variants().items():
        if args.only not in name:
            continue
        for target in args.targets:
            row = compiled(v, TARGETS[target])
            rows.append({"kernel": name, "target": target, **row})
            print(f"{name:55s} {target} {row['registers']:4d} registers, {row['spills']} spills, {row['compile_s']} s", flush=True)
    spilt = sorted({r["kernel"] for r in rows if r["spills"] or r["stack_bytes"]})
    print(f"{len(rows)} binaries; with spills: {', '.join(spilt) or 'none'}")
    if not args.only:
        record(args.name, {"triton": triton.__version__, "rows": rows})
    sys.exit(bool(spilt))


if __name__ == "__main__":
    main()
