"""Native code: the library that a build puts beside the package, and how the modules ``ops/<family>/native.py`` call it.

The library has a plain C interface and is loaded with ctypes: one file serves every version of Python and torch. It holds each function once per
instruction set; the best one that the processor supports is used, or the one that the environment variable ``DIFFCODEC_NATIVE`` names ("base",
"avx2", "avx512"; "off" for none). ``DIFFCODEC_NATIVE_LIBRARY`` names another file to load.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ISAS = ("avx512", "avx2", "base")  # the best first
VARIABLE, LIBRARY_VARIABLE = "DIFFCODEC_NATIVE", "DIFFCODEC_NATIVE_LIBRARY"
_NAMES = {"win32": "diffcodec_native.dll", "darwin": "libdiffcodec_native.dylib"}
_DTYPES = {"f": torch.float32, "b": torch.uint8, "l": torch.int64, "h": torch.int16}
LARGE = 2**22  # bytes: from this size on, a tensor is fresh memory from the system, and its pages are mapped before it is written
_STATUS = {1: MemoryError("native code found no memory for its buffers"), 2: RuntimeError("native code failed")}


class Library:
    """The functions of one instruction set.

    Args:
        path: of the file.
        isa: of :data:`ISAS`; None for the best that runs here.

    Raises:
        OSError: it cannot be loaded.
        RuntimeError: it is of another version, or has no code for this processor.
    """

    def __init__(self, path: Path, isa: str | None = None) -> None:
        loaded = ctypes.CDLL(str(path))
        try:
            loaded.dc_version.restype = loaded.dc_function.restype = ctypes.c_char_p
            runs_here, map_pages = loaded.dc_runs, loaded.dc_map
            map_pages.argtypes, map_pages.restype = (ctypes.c_void_p, ctypes.c_int64), None
        except AttributeError:
            raise RuntimeError(f"{path} is no library of diffcodec") from None
        from .... import __version__  # not defined yet when this module is imported

        if (version := loaded.dc_version().decode()) != __version__:
            raise RuntimeError(f"{path} is of version {version}, this is diffcodec {__version__}: reinstall diffcodec")
        self.path, self.isa = path, ""
        found: dict[str, dict[str, Callable[..., None]]] = {}
        there, signature, address = ctypes.c_char_p(), ctypes.c_char_p(), ctypes.c_void_p()
        for i in range(2**20):
            name = loaded.dc_function(ctypes.c_int64(i), *(ctypes.byref(x) for x in (there, signature, address)))
            if name is None:
                break
            of_isa = found.setdefault((there.value or b"").decode(), {})
            of_isa[name.decode()] = _function(name.decode(), (signature.value or b"").decode(), address.value or 0, map_pages)
        runs = [i for i in ISAS if i in found and runs_here(i.encode())]
        if isa is not None and isa not in runs:
            raise RuntimeError(f"{VARIABLE}={isa!r}: expected one of {', '.join(map(repr, [*runs, 'off']))} on this processor")
        if not runs:
            raise RuntimeError(f"{path} has no code for this processor; it was built for {', '.join(found) or 'nothing'}")
        self.isa = isa or runs[0]
        self.functions = found[self.isa]


def _function(name: str, signature: str, address: int, map_pages: Callable[[int, int], None]) -> Callable[..., None]:
    """A function that takes tensors and numbers, and checks that they are what the C function expects."""
    kinds = [ctypes.c_int64 if s == "I" else ctypes.c_double if s == "D" else ctypes.c_void_p for s in signature]
    foreign = ctypes.CFUNCTYPE(ctypes.c_int32, *kinds)(address)

    dtypes = [_DTYPES.get(s.lower()) for s in signature[1:]]  # None for numbers
    written = [s.isupper() and s not in "ID" for s in signature[1:]]

    def call(*args: Any) -> None:
        given: list[Any] = [torch.get_num_threads()]
        alive = []
        if len(args) != len(dtypes):
            raise TypeError(f"native {name} takes {len(dtypes)} arguments, got {len(args)}")
        for x, dtype, output in zip(args, dtypes, written):
            if isinstance(x, Tensor):
                if x.dtype is not dtype and not (dtype is torch.uint8 and x.dtype is torch.bool):
                    raise TypeError(f"native {name}: argument {len(given)} expected {dtype}, got {x.dtype}")
                if not x.is_contiguous():
                    if output:
                        raise ValueError(f"native {name} cannot write argument {len(given)}: it is not contiguous")
                    x = x.contiguous()
                    alive.append(x)
                if output and x.nbytes >= LARGE:
                    map_pages(x.data_ptr(), x.nbytes)
                x = x.data_ptr()
            elif dtype is not None and x is not None:
                raise TypeError(f"native {name}: argument {len(given)} expected a tensor, got {type(x).__name__}")
            given.append(x)
        if status := foreign(*given):
            raise _STATUS.get(status, _STATUS[2])

    return call


def _places() -> list[Path]:
    """Paths at which the library is looked for."""
    if chosen := os.environ.get(LIBRARY_VARIABLE):
        return [Path(chosen)]
    name = _NAMES.get(sys.platform, "libdiffcodec_native.so")
    package = sys.modules[__name__.partition(".")[0]]
    return [Path(p) / "lib" / name for p in package.__path__]


@functools.cache
def library() -> Library | str:
    """The library, or why there is none."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted == "off":
        return f"the environment variable {VARIABLE} is off"
    path = next((p for p in _places() if p.exists()), None)
    if path is None and LIBRARY_VARIABLE in os.environ:
        return f"the file that {LIBRARY_VARIABLE} names is not there: {os.environ[LIBRARY_VARIABLE]}"
    if path is None:
        return "diffcodec was installed without native code: it needs a C++ compiler when it is installed from source"
    try:
        return Library(path, wanted or None)
    except (OSError, RuntimeError) as error:
        return str(error)


@functools.cache
def say_why_not() -> None:
    """One line of log where native code should run and cannot, unless that was asked for."""
    if isinstance(why := library(), str) and os.environ.get(VARIABLE) != "off":
        logging.getLogger("diffcodec").warning("native code does not run (%s): operations run in torch, many times slower", why)


def call(name: str, *args: Any) -> None:
    """Run a function on tensors, which it reads and writes, and numbers.

    Args:
        name: name of the function.
        *args: its arguments after the number of threads: numbers, and contiguous tensors of the expected dtype, or None for a missing one.

    Raises:
        TypeError: arguments of another number, type or dtype.
        ValueError: an output that is not contiguous.
        MemoryError, RuntimeError: the function failed.
    """
    loaded = library()
    if isinstance(loaded, str):
        raise RuntimeError(f"there is no native code: {loaded}")
    loaded.functions[name](*args)
