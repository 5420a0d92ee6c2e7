"""What the commands of this package and of ``revmark_ref`` share: running, errors, signals, help, output, completion."""

from __future__ import annotations

import argparse
import errno
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .media import NO_SPACE

if TYPE_CHECKING:
    from rich.console import Console

# signals that end a command as Ctrl-C does; Windows has no SIGHUP
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


# exit statuses of a command that a signal ended, as shells give them: 128 + SIGINT, 128 + SIGPIPE
STOPPED, NO_READER = 130, 141


def run(parser: argparse.ArgumentParser, argv: Sequence[str] | None, missing: str = "") -> int:
    """Run a subcommand of a parser: ``args.run(args, command)``, whose result, if any, is the exit status.

    Args:
        parser: parser whose result has ``command`` and ``run``.
        argv: arguments; None for those of the process.
        missing: appended to the message if a package is not installed.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, "")  # package.module:Class of this folder, as under python -m
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                before[number] = signal.signal(number, _interrupt)  # so that temporary files are removed
    args = argparse.Namespace(command="")
    try:
        try:
            args = parser.parse_args(arguments)
            status = int(args.run(args, f"{parser.prog} {shlex.join(arguments)}") or 0)
        except SystemExit:  # after --help and --version
            _flush()
            raise
        _flush()
        return status
    except BrokenPipeError:  # as under "| head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that what is left in the buffer is not complained of at exit
        return NO_READER
    except (ValueError, TypeError, ImportError, OSError) as error:
        hint = missing if isinstance(error, ModuleNotFoundError) else ""
        print(f"{parser.prog} {args.command}: {_explained(error)}{hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{parser.prog} {args.command}".rstrip() + ": stopped; no partial output was kept", file=sys.stderr)
        return STOPPED
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _flush() -> None:
    """A reader that has left is noticed here, not when Python exits."""
    if sys.stdout is not None:
        sys.stdout.flush()


CURES = {
    errno.ENOENT: "no such file or folder; check the path",
    errno.EACCES: "no permission to read or write there; choose another path",
    errno.EPERM: "no permission to read or write there; choose another path",
    errno.EROFS: "this file system is read-only; choose another path",
    errno.EISDIR: "is a folder; expected a file",
    errno.ENOTDIR: "a part of this path is a file; expected a folder",
    errno.EEXIST: "is there already; choose another path",
    **dict.fromkeys(NO_SPACE, "no space left to write it; free some, or choose another path"),
}


def _explained(error: Exception) -> str:
    """An error in words: what the system reports as a number becomes the path and a cure."""
    if not isinstance(error, OSError) or error.errno is None or error.filename is None or not str(error).startswith("[Errno"):
        return re.sub(r"\[Errno \d+\] ", "", str(error))  # within a message of ours
    return f"{os.fsdecode(error.filename)}: {CURES.get(error.errno, error.strerror)}"


def _interrupt(number: int, frame: object) -> None:
    for other in ENDING:  # do not interrupt the cleanup
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt


class Help(argparse.HelpFormatter):
    """Appends the default to help texts that do not give it themselves, as it would be typed; nothing where there is none."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        given = action.default
        if (
            text
            and "(default" not in text
            and action.option_strings
            and given is not False
            and given not in (None, "", [], argparse.SUPPRESS)
        ):
            default = " ".join(map(str, given)) if isinstance(given, list) else str(given)
            text += f" (default: {default.replace('%', '%%')})"
        return text


def console(file_width: int, **options: Any) -> Console:
    """A console for standard output: as wide as the terminal, or ``file_width`` columns in a file. A reader that has left is left to :func:`run`."""
    from rich.console import Console

    class Ours(Console):
        def on_broken_pipe(self) -> None:  # rich would exit with 1
            raise

    return Ours(**options) if sys.stdout.isatty() else Ours(**{"width": file_width, **options})


def add_completion(verbs: Any, parser: argparse.ArgumentParser) -> None:
    """Add ``completion SHELL``, which prints the completion script of a parser, to its subcommands."""
    text = "print a shell's completion script (needs the package shtab)"
    c = verbs.add_parser("completion", help=text, description=text, formatter_class=Help)
    c.add_argument("shell", choices=["bash", "zsh", "tcsh"])
    c.set_defaults(run=lambda args, command: _completion(parser, args.shell))


def _completion(parser: argparse.ArgumentParser, shell: str) -> None:
    try:
        import shtab
    except ImportError as error:
        raise ImportError("completion needs shtab: pip install shtab") from error
    print(shtab.complete(parser, shell=shell))
