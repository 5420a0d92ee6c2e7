"""What the ``diffcodec`` command prints on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.measure import Measurement
from rich.table import Table

from . import leaderboard as boards
from .command import console
from .derivatives import DIRECTIONS, Cosine
from .report import Report, knob_name, number


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _columns(table: Table, heads: Sequence[str]) -> None:
    """A name that is broken where it is too long, and figures that are not."""
    for i, head in enumerate(heads):
        table.add_column(head, justify="left" if i == 0 else "right", no_wrap=i > 0, overflow="fold")


def fidelity(result: Report) -> None:
    """Print a report of ``diffcodec fidelity``."""
    n = len(result.clips)
    s = result.settings
    knob = knob_name(result.knob)
    what = "picture" if result.still else "clip"
    details = "" if result.knob == "quality" else f" {s['preset']}, {s['fps']:g} fps" if s["preset"] else f", {s['fps']:g} fps"
    table = _table(f"{s['real']}{details}, {n} {what}{'s' * (n > 1)}")
    heads = ["simulator", knob, "survival\nerror", "per\nclip", "gap\ndB", "skill\ndB", "error\ncosine"]
    heads += ["steering"] if result.still else ["steering\nstatic", "\nchanging"]
    _columns(table, heads)
    for row in result.rows:
        f, st = row.figures, row.steering
        steering = [number(st.static if st else None, 2), number(st.changing if st else None, 2)]
        table.add_row(
            row.simulator, f"{row.strength:g}", number(f.survival_error, 3), number(f.per_clip_survival_error, 3), number(f.distortion_gap, 2),
            number(f.skill, 2, sign=True), number(f.error_cosine, 2), *steering[: 1 if result.still else 2],
        )  # fmt: skip
    out = console(100)
    out.print(table)
    out.print(_planes(result))
    if any(row.derivatives for row in result.rows):
        out.print(_derivatives(result))
    for name, rate in result.rate.items():
        if rate is not None:
            out.print(
                f"bits, {name}, over {what}s x {knob}: rank correlation {number(rate[0], 2)}, median error {100 * rate[1]:.0f} %",
                highlight=False,
            )
    out.print(f"survival error, gap: 0 is perfect. skill below 0: further from the real output than the untouched {what}.", highlight=False)


def _planes(result: Report) -> Table:
    """Luma and chroma apart."""
    table = _table("probes in Cb and Cr, and PSNR of Y' in place of RGB")
    _columns(table, ["simulator", knob_name(result.knob), "chroma,\nsurvival error", "Y', gap\ndB", "Y', skill\ndB"])
    for row in result.rows:
        f = row.figures
        cells = [number(f.chroma_survival_error, 3), number(f.luma_distortion_gap, 2), number(f.luma_skill, 2, sign=True)]
        table.add_row(row.simulator, f"{row.strength:g}", *cells)
    return table


def _derivatives(result: Report) -> Table:
    """Slopes over the real codec's, and cosines with the real codec's differences: a row for the gradient, one for the simulator's differences."""
    table = _table("derivatives against the real codec's: 1 is perfect")
    kinds = ["static"] if result.still else ["static", "changing"]
    heads = [f"{what}\n{d}" for what in ("bits", "error") for d in DIRECTIONS] + [f"cosine\n{k}" for k in kinds]
    _columns(table, ["simulator", knob_name(result.knob), "by", *heads])
    for row in result.rows:
        if (d := row.derivatives) is None:
            continue
        slopes = [of[name] for of in (d.bits, d.distortion) for name in DIRECTIONS]
        cosines = [d.cosine.get(k, Cosine(None, None, None)) for k in kinds]
        lines = {
            "gradient": [*(v.ratio for v in slopes), *(c.gradient for c in cosines)],
            "difference": [*(v.ratio_simulated for v in slopes), *(c.simulated for c in cosines)],
        }
        for i, (by, values) in enumerate(lines.items()):
            name = (row.simulator, f"{row.strength:g}") if i == 0 else ("", "")
            table.add_row(*name, by, *(number(v, 2) for v in values))
    return table


def leaderboard(board: dict[str, Any]) -> None:
    """Print all boards of a leaderboard file: nothing is cut, also where the terminal is narrow."""
    for place, (title, head, rows) in zip(board["boards"], boards.tables(board)):
        table = _table(title)
        for i, name in enumerate(head):
            table.add_column(name.replace(", ", ",\n"), justify="left" if i == 0 else "right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        out = console(80)
        needed = Measurement.get(out, out.options.update(width=1000), table).maximum
        out = console(80, width=max(out.width, needed, len(title)), highlight=False, soft_wrap=True)
        out.print(table)
        for name, entry in place["entries"].items():
            if entry["note"]:
                out.print(f"{name}: {entry['note']}", markup=False)
        out.print("clips:")
        for clip in place["clips"]:
            out.print(f"  {clip['name']}: {clip.get('source') or 'source not given, sha256 ' + clip['sha256']}", markup=False)
