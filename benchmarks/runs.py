"""Learning curves of training runs from their logs: how long it takes to learn the message, and what an interruption costs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.common import record

MEANS = 10  # steps


def curve(run: Path) -> dict[str, Any]:
    """Bit accuracy, message loss and PSNR over the steps of a run, as means over ``MEANS`` steps each, and its validations.

    If a resumed run has logged a step twice, the later entry counts.
    """
    steps: dict[int, dict[str, float]] = {}
    validations: dict[int, dict[str, float]] = {}
    for line in (run / "log.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if "accuracy" in entry:
            steps[entry["step"]] = entry
        else:
            validations[entry["step"]] = {k: v for k, v in entry.items() if k not in ("step", "time")}
    groups: dict[int, list[dict[str, float]]] = {}
    for step, entry in sorted(steps.items()):
        groups.setdefault(-(-step // MEANS) * MEANS, []).append(entry)
    return {
        "configuration": json.loads((run / "config.json").read_text()),
        "steps": [
            {"step": s, "accuracy": _mean(g, "accuracy"), "message": _mean(g, "message"), "psnr": _mean(g, "psnr")}
            for s, g in groups.items()
        ],
        "validation": validations,
    }


def _mean(entries: list[dict[str, float]], name: str) -> float:
    return sum(e[name] for e in entries) / len(entries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="folders of runs")
    parser.add_argument("--name", required=True, help="name of the result")
    args = parser.parse_args()
    curves = {run.name: curve(run) for run in args.runs}
    for name, c in curves.items():
        print(f"{name}: " + ", ".join(f"{s['step']}: {100 * s['accuracy']:.1f} %" for s in c["steps"][:: max(1, len(c["steps"]) // 12)]))
    record(args.name, {"runs": curves})


if __name__ == "__main__":
    main()
