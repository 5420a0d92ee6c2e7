"""What a layer was made with, so that it can be written down again (:mod:`diffcodec.config`). A leaf."""

from __future__ import annotations

import functools
from typing import Any


class Buildable:
    """Keeps the arguments that an object was made with."""

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
                self.__dict__["arguments"] = (args, given)
            init(self, *args, **given)

        cls.__init__ = keeping  # type: ignore[method-assign]

    def config(self) -> dict[str, Any]:
        """The object as plain data, of which :func:`diffcodec.build` makes an equal one: its name and arguments, defaults included.

        Raises:
            TypeError: an argument that has no name to be found by, such as a lambda.

        Example:
            >>> import diffcodec as dc
            >>> dc.FrameDrop((0.2, 0.5)).config()
            {'name': 'FrameDrop', 'p': [0.2, 0.5], 'keep_length': True, 'backend': 'auto'}
        """
        from .config import describe_arguments

        return describe_arguments(self)
