"""Ctrl-C while a command still imports torch: the process ends, without a traceback or an abort out of a half-imported library."""

from __future__ import annotations

import os
import signal
import sys

COMMANDS = ("diffcodec", "revmark")

_name = os.path.splitext(os.path.basename(sys.argv[0] if sys.argv else ""))[0]
if _name in COMMANDS and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command itself runs: diffcodec.cli.run
