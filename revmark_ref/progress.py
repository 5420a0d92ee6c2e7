"""What a long training says of itself: lines by time where there is no terminal, counted reading, an estimate of the time to go."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
EVERY = 30.0  # seconds between two lines where there is no terminal


class Clock:
    """Says when a line is due: at once, then every ``seconds``."""

    def __init__(self, seconds: float = EVERY) -> None:
        self.seconds = seconds
        self.next = time.monotonic()

    def due(self) -> bool:
        now = time.monotonic()
        if now < self.next:
            return False
        self.next = now + self.seconds
        return True


def counted(items: Sequence[T], what: str, quiet: bool = False) -> Iterator[T]:
    """Items one by one, with a bar on a terminal and lines by time elsewhere: "reading videos: 120 of 500"."""
    if quiet:
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if Console().is_terminal:
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
        with Progress(*columns, transient=True) as bar:
            yield from bar.track(items, description=what)
        return
    clock = Clock()
    clock.due()  # what takes less than that needs no line
    for i, item in enumerate(items):
        if clock.due():
            print(f"{what}: {i} of {len(items)}", flush=True)
        yield item


class Pace:
    """An estimate of the time to go, once for every kind of step.

    The first step of a kind (which may compile and allocate) is left out; the mean of at least three others is told after five seconds or
    fifty steps.

    Args:
        steps: of the whole training.
        clock: seconds from any origin.
    """

    def __init__(self, steps: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.steps, self.clock = steps, clock
        self.kind: Hashable = None
        self.first: tuple[int, float] | None = None  # step and time from which is measured
        self.told = False

    def after(self, step: int, kind: Hashable) -> str | None:
        """A sentence when one is due; called after every step with the number of steps done and what distinguishes slow steps from fast ones."""
        if self.first is None or kind != self.kind:
            self.kind, self.first, self.told = kind, (step, self.clock()), False
            return None
        done, seconds = step - self.first[0], self.clock() - self.first[1]
        if self.told or done < 3 or (seconds < 5 and done < 50):
            return None
        self.told = True
        left, each = self.steps - step, seconds / done
        if left * each < 60:
            return None
        return f"about {duration(left * each)} to go at {short(each)} a step ({left:,} steps)".replace(",", " ")


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would use: "35 days", "4 hours"."""
    for unit, size, least in (("days", 86400.0, 172800.0), ("hours", 3600.0, 7200.0), ("minutes", 60.0, 120.0)):
        if seconds >= least:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def short(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 9.5 else f"{seconds:.2g} s"
