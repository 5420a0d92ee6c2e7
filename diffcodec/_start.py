"""Ctrl-C while a command still imports torch: a line instead of a traceback."""

from __future__ import annotations

import os
import sys
from types import TracebackType

COMMANDS = ("diffcodec", "revmark")


def _quiet(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print(f"\n{_command}: stopped", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


_command = os.path.splitext(os.path.basename(sys.argv[0] if sys.argv else ""))[0]
if _command in COMMANDS and sys.excepthook is sys.__excepthook__:
    sys.excepthook = _quiet
