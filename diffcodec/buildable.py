"""Recording of constructor arguments, from which objects are described (:mod:`diffcodec.config`). Imports nothing of the package."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Mapping
from typing import Any


def _check_names(cls: type, given: Mapping[str, Any]) -> None:
    """A TypeError for an argument that the class does not have: names the one that was meant, and those that there are."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]  # type: ignore[misc]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    names = [p.name for p in parameters if p.kind is not p.VAR_POSITIONAL]
    for name, value in given.items():
        if name not in names:
            lower = name.lower()
            near = [n for n in names if n.lower() == lower or (len(lower) == 1 and n.startswith(lower))] or difflib.get_close_matches(
                lower, names, 1
            )
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise TypeError(f"{cls.__name__} has no argument {name}={value!r}{hint}; it takes {', '.join(names) or 'none'}")


class Buildable:
    """Base of classes that record their constructor arguments."""

    arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __init_subclass__(cls, **options: Any) -> None:
        # not __new__: signatures, for people and type checkers, stay those of __init__
        super().__init_subclass__(**options)
        init = cls.__dict__.get("__init__")
        if init is None:
            return

        @functools.wraps(init)
        def keeping(self: Any, *args: Any, **given: Any) -> None:
            if "arguments" not in self.__dict__:  # the outermost call is the user's
                _check_names(type(self), given)
                self.__dict__["arguments"] = (args, given)
            init(self, *args, **given)

        cls.__init__ = keeping  # type: ignore[method-assign]

    def config(self) -> dict[str, Any]:
        """The object as plain data from which :func:`diffcodec.build` makes an equal one: its name and arguments, defaults included.

        Raises:
            TypeError: an argument that cannot be imported by name, such as a lambda, or a module that has weights or does not record its arguments.

        Example:
            >>> import diffcodec as dc
            >>> dc.FrameDrop((0.2, 0.5)).config()
            {'name': 'FrameDrop', 'p': [0.2, 0.5], 'keep_length': True, 'backend': 'auto'}
        """
        from .config import describe_arguments

        return describe_arguments(self)
