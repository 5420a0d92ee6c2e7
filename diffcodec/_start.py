"""Let Ctrl-C during the import of torch end a command quietly, without a traceback or an abort in a half-imported library."""

from __future__ import annotations

import os
import signal
import sys

COMMANDS = ("diffcodec", "revmark")

_name = os.path.splitext(os.path.basename(sys.argv[0] if sys.argv else ""))[0]
if _name in COMMANDS and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until diffcodec.command.run installs its own handler
