"""Tables of simulators, merged from results of ``diffcodec fidelity``.

A file holds several boards. The entries of a board were measured with the same real codec, preset, frame rate, strengths, probes and clips (by hash).
A board has the name of its clips' set (:data:`diffcodec.clipsets.SETS`), where they have one, and each clip its source.
"""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import Any

from .files import replacing, without_folders
from .report import number

FORMAT = 1
_ALIKE = ("real", "preset", "fps", "knob", "seed", "probe_psnr")


def add(result: dict[str, Any], board: dict[str, Any], name: str | None = None, note: str = "") -> list[str]:
    """Merge a result of ``diffcodec fidelity`` into boards; an entry of the same name on the same board is replaced.

    Args:
        result: contents of ``fidelity.json``.
        board: contents of a leaderboard file, changed in place; ``{}`` for a new one.
        name: name of the entry, if the result has one simulator; None for the descriptions of the simulators.
        note: stored with the entries, such as a paper or URL.

    Returns:
        Names of the entries that were added or replaced.

    Raises:
        ValueError: not a result of ``diffcodec fidelity``, a name for several simulators, or boards of another format version.
    """
    try:
        settings, rows, clips = result["settings"], result["rows"], result["clips"]
        knob = settings["knob"]
        strengths = sorted(settings[knob])
        conditions = {k: settings.get(k) for k in _ALIKE} | {"strengths": strengths, "clips": clips}
        same = _comparable(conditions)
        simulators = list(dict.fromkeys(row["simulator"] for row in rows))
        entries = {s: _entry([r for r in rows if r["simulator"] == s], knob) for s in simulators}
    except KeyError as error:
        raise ValueError(f"not a result of 'diffcodec fidelity': {error} is missing") from error
    except (TypeError, AttributeError) as error:
        raise ValueError(f"not a result of 'diffcodec fidelity': {error}") from error
    if name is not None and len(simulators) != 1:
        raise ValueError(f"a name stands for one simulator, the result has {len(simulators)}: {', '.join(simulators)}")
    board.setdefault("format", FORMAT)
    _check_format(board)
    boards = board.setdefault("boards", [])
    place = next((b for b in boards if _comparable(b) == same), None)
    if place is None:
        boards.append(place := conditions | {"set": settings.get("set"), "entries": {}})
    elif settings.get("set") and not place.get("set"):  # the same clips, until now by their files only
        place |= {"set": settings["set"], "clips": clips}
    made = {
        "command": shlex.join(map(without_folders, shlex.split(str(result.get("command", ""))))),
        "versions": result.get("versions"),
        "note": note,
    }
    for simulator, figures in entries.items():
        place["entries"][name or simulator] = {"simulator": simulator, "figures": figures} | made
    return [name] if name is not None else simulators


def _check_format(board: dict[str, Any]) -> None:
    if board.get("format") != FORMAT:
        raise ValueError(f"the leaderboard has format {board.get('format')!r}; this version supports {FORMAT}")


def _comparable(conditions: dict[str, Any]) -> list[Any]:
    """What the entries of a board have in common: settings, and the windows of the clips whatever the files are called."""
    windows = sorted([c["sha256"], c["start"], c["frames"], c["size"]] for c in conditions["clips"])
    return [*(conditions[k] for k in (*_ALIKE, "strengths")), windows]


def _entry(rows: list[dict[str, Any]], knob: str) -> dict[str, Any]:
    """Means over strengths, and the survival error at each."""

    def mean(values: list[float | None]) -> float | None:
        known = [v for v in values if isinstance(v, (int, float)) and math.isfinite(v)]
        return sum(known) / len(known) if known else None

    names = ("survival_error", "per_clip_survival_error", "distortion_gap", "skill", "error_cosine")
    steered = [r["steering"] for r in rows if r["steering"]]
    slopes = [r["derivatives"]["bits"]["sharpen"] for r in rows if r.get("derivatives")]
    return {
        **{n: mean([r["figures"][n] for r in rows]) for n in names},
        **{n: mean([r["figures"].get(n) for r in rows]) for n in ("chroma_survival_error", "luma_skill")},
        "bits_slope": mean([s["gradient"] / s["real"] for s in slopes if s["gradient"] is not None and s["real"]]),
        "survival_error_at": {f"{r[knob]:g}": r["figures"]["survival_error"] for r in rows},
        "steering_static": mean([s["static"] for s in steered]),
        "steering_changing": mean([s["changing"] for s in steered]),
    }


def tables(board: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, head and rows of each board, smallest survival error first.

    "in chroma" is the survival error of the probes in Cb and Cr, "bits slope" that of sharpening, gradient over real
    (:mod:`diffcodec.derivatives`); a dash in entries from before they were measured.
    """
    out = []
    for place in board.get("boards", []):
        knob = "CRF" if place["knob"] == "crf" else place["knob"]
        strengths = [f"{s:g}" for s in place["strengths"]]
        details = ", ".join([f"{place['real']}", *([str(place["preset"])] if place["preset"] else []), *_fps(place)])
        title = f"{_clips(place)}; {details}; {knob} {' '.join(strengths)}"
        head = ["simulator", "survival error", *(f"{knob} {s}" for s in strengths), "per clip", "gap, dB", "skill, dB", "error cosine"]
        head += ["steering, static", "changing", "in chroma", "bits slope"]
        rows = []
        for name, entry in sorted(place["entries"].items(), key=lambda e: _or_last(e[1]["figures"]["survival_error"])):
            f = entry["figures"]
            at = [number(f["survival_error_at"].get(s), 3) for s in strengths]
            rows.append(
                [name, number(f["survival_error"], 3), *at, number(f["per_clip_survival_error"], 3), number(f["distortion_gap"], 2),
                 number(f["skill"], 2, sign=True), number(f["error_cosine"], 2), number(f["steering_static"], 2),
                 number(f["steering_changing"], 2), number(f.get("chroma_survival_error"), 3), number(f.get("bits_slope"), 2)]
            )  # fmt: skip
        out.append((title, head, rows))
    return out


def _clips(place: dict[str, Any]) -> str:
    """The set, the number of clips, and their windows."""
    clips = place["clips"]
    windows = {(c["frames"], *c["size"]) for c in clips}
    what = " x ".join(map(str, windows.pop())) if len(windows) == 1 else "several sizes"
    name = f"set {place['set']}, " if place.get("set") else ""
    return f"{name}{len(clips)} clip{'s' * (len(clips) > 1)} of {what}"


def _or_last(error: float | None) -> float:
    """Sort key: entries without a figure (of a simulator that gives NaN) come last."""
    return math.inf if error is None else error


def _fps(place: dict[str, Any]) -> list[str]:
    return [f"{place['fps']:g} fps"] if place.get("fps") else []


def load(path: Path) -> dict[str, Any]:
    """Read a leaderboard file; ``{}`` if it does not exist.

    Raises:
        ValueError: the file is not JSON, or not a leaderboard.
    """
    if not path.exists():
        return {}
    data = dict(read_json(path))
    if "boards" not in data:
        raise ValueError(f"{path} is not a leaderboard: it has no 'boards'")
    _check_format(data)
    return data


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        ValueError: the file cannot be read, is not JSON, or not an object.
    """
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        why = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise ValueError(f"{path}: {why}; expected a file that 'diffcodec fidelity' wrote, such as out/fidelity.json") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON file ({error}); expected one that 'diffcodec fidelity' wrote") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected a JSON object, got a {type(data).__name__}")
    return data


def save(board: dict[str, Any], path: Path) -> None:
    """Write a leaderboard file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(board, indent=1) + "\n")
