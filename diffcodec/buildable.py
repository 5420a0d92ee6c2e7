"""What a layer was made with, so that it can be written down again (:mod:`diffcodec.config`). A leaf."""

from __future__ import annotations

from typing import Any


class Buildable:
    """Keeps the arguments that an object was made with."""

    arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **options: Any) -> Any:
        self = super().__new__(cls)
        self.__dict__["arguments"] = (args, options)  # copies and pickles bring their own
        return self

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
