"""The interface of every codec and attack: random decisions are drawn outside the graph, then a pure function is applied.

``layer(video)`` is ``layer(video, layer.sample(video.shape))``. With a given draw, the call is a pure function of video
and draw: it can be compiled with ``fullgraph=True`` and reproduced bit for bit.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import opaque
from .buildable import Buildable
from .checks import as_given, as_working, check_image_or_video, check_names, check_values, check_video, traced, transforms
from .coded import Coded
from .strength import Strength

Draw = dict[str, Any]
_ADAPT = "for masks and cover images wrap the layer: diffcodec.adapt(layer)(video, mask=mask), diffcodec.adapt(layer)([noised, cover])"
FIRST_ORDER_ONLY = ("jvp", "vmap", "grad of grad")
Generators = torch.Generator | Sequence[torch.Generator] | None


class Layer(Buildable, nn.Module):
    """Base of all codecs and attacks: video in, video of the same layout, dtype and device out, values in [0, 1].

    A subclass implements :meth:`distort` (the pure function) and, if it draws anything besides its strengths, :meth:`draw` and
    :meth:`draw_shapes`.
    Computation is in float32 (float64 for float64 input), also under autocast and for half precision input.
    Values outside [0, 1] are clamped on entry and on exit, with the gradient passed through unchanged.

    Example:
        >>> import torch, diffcodec as dc
        >>> class Grey(dc.Layer):
        ...     def distort(self, video, draw):
        ...         return video.mean(-3, keepdim=True).expand_as(video)
        >>> Grey()(torch.rand(1, 2, 3, 4, 4)).shape
        torch.Size([1, 2, 3, 4, 4])
    """

    backend = "auto"
    raw = False  # whether distort takes and returns any floating dtype, unclamped on entry: saves passes over the video
    images = False  # whether [B, C, H, W] is accepted as well as [B, T, C, H, W]
    channels: tuple[int, ...] = (3,)
    # the :mod:`diffcodec.opaque` operator that replaces the layer under tracing and torch.func; None if torch can trace the layer itself
    operator: Any = None
    mixes = False  # whether a draw chooses between layers: without one, such a layer is a single operator of a compiled graph
    geometric = False  # whether it only moves samples within or between frames; masks then follow it
    lacks: tuple[str, ...] = ()  # torch.func transforms that the layer does not support: "jvp", "vmap", "grad of grad"

    def __init__(self) -> None:
        super().__init__()
        self.number = opaque.number(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.number = opaque.number(self)  # a copy needs a number of its own

    @property
    def who(self) -> str:
        """The layer's name in error messages."""
        return type(self).__name__

    # --- strengths ---------------------------------------------------------------------------------------------------------------

    def strengths(self) -> dict[str, Strength]:
        """The layer's strengths by name."""
        return {name: s for name, s in self.__dict__.items() if isinstance(s, Strength)}

    def strength_names(self) -> list[str]:
        """Names of the strengths that a call may set, including those of nested layers."""
        return list(self.strengths())

    def at(self, **strengths: Any) -> Layer:
        """A view of this layer with other strengths, for drawing.

        Raises:
            TypeError: the layer has no strength of that name, or the value is of the wrong kind.
            ValueError: the value is out of range.
        """
        self._check_known(strengths)
        mine = self.strengths()
        return self.with_strengths({name: mine[name].given(value) for name, value in strengths.items()}) if strengths else self

    def _check_known(self, strengths: Mapping[str, Any]) -> None:
        mine = self.strength_names()
        for name, value in strengths.items():
            if name not in mine:
                known = _ADAPT if name in ("mask", "masks") else f"its strengths are {', '.join(mine)}" if mine else "it has no strengths"
                shown = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
                raise TypeError(f"{self.who} got an unexpected {name}={shown}; {known}")

    def with_strengths(self, strengths: Mapping[str, Strength]) -> Layer:
        """A view of this layer with some strengths replaced."""
        if not strengths:
            return self
        view = view_of(self)
        view.__dict__.update(strengths)
        return view

    def rows(self, rows: list[int], batch: int) -> Layer:
        """A view of this layer for a subset of the batch: strengths given as ``[B]`` are restricted to it, those of nested layers too."""
        changed = {name: s.rows(rows, batch) for name, s in self.strengths().items()}
        view = self.with_strengths({name: s for name, s in changed.items() if s is not self.strengths()[name]})
        for name, child in self.named_children():
            if isinstance(child, Layer) and (part := child.rows(rows, batch)) is not child:
                view = view_of(self) if view is self else view
                view._modules[name] = part
        return view

    # --- drawing -----------------------------------------------------------------------------------------------------------------

    def sample(
        self,
        shape: Sequence[int],
        generator: Generators = None,
        *,
        step: int | None = None,
        device: torch.device | None = None,
        **strengths: Any,
    ) -> Draw:
        """Draw the layer's random decisions for an input of this shape.

        Args:
            shape: shape of the input.
            generator: source of randomness; None for torch's default generator. With a list of one generator per sample, a sample's draw does
                not depend on the rest of its batch, so it is the same on one process or many.
            step: training step, for strengths that follow a schedule.
            device: device of the draw's tensors; None leaves them where they were made.
            **strengths: strengths by name, in place of the layer's own: a number, a tensor or list of one value per sample, or a (low, high)
                range.

        Returns:
            A dict of tensors (batch first) and plain data, which :func:`torch.save` can store.

        Raises:
            TypeError: unknown strength, or a generator of another type.
            ValueError: strength out of range or for another batch size, a schedule without ``step``, another number of generators than samples.
        """
        shape, layer = tuple(shape), self.at(**strengths)
        several = isinstance(generator, Sequence)
        if generator is not None and not all(isinstance(g, torch.Generator) for g in (generator if several else [generator])):  # type: ignore[union-attr]
            raise TypeError(f"{self.who} expected a torch.Generator, or a list with one for each sample, got {generator!r}")
        if not several:
            return layer.draw(shape, generator, step, device)  # type: ignore[arg-type]
        assert isinstance(generator, Sequence)
        if len(generator) != shape[0]:
            raise ValueError(f"{self.who} got {len(generator)} generators for a batch of {shape[0]}: one per sample is needed")
        return layer.draw_each(shape, generator, step, device)

    def draw_each(
        self, shape: tuple[int, ...], generators: Sequence[torch.Generator], step: int | None, device: torch.device | None
    ) -> Draw:
        """:meth:`draw` with one generator per sample."""
        draws = [self.rows([i], shape[0]).draw((1, *shape[1:]), g, step, device) for i, g in enumerate(generators)]
        return join(draws)  # type: ignore[no-any-return]

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None, step: int | None, device: torch.device | None) -> Draw:
        """The draw that :meth:`sample` returns; by default one value per sample for each :class:`~diffcodec.strength.Strength`."""
        return {name: s.draw(shape[0], generator, device, step) for name, s in self.strengths().items()}

    def shape_after(self, shape: tuple[int, ...], draw: Mapping[str, Any]) -> tuple[int, ...]:
        """Output shape for an input shape and a draw; by default the input shape."""
        return shape

    def describe(self, draw: Mapping[str, Any], batch: int | None = None) -> list[dict[str, Any]]:
        """What a draw does to each sample, as plain data for a log.

        Args:
            draw: from :meth:`sample`.
            batch: number of samples; needed only if the draw does not determine it.

        Returns:
            For each sample a dict with the layer's name and its strengths; of a mixture, those of the member that was drawn.

        Raises:
            ValueError: the draw is of another layer or batch size, or the number of samples is unknown.

        Example:
            >>> import torch, diffcodec as dc
            >>> layer = dc.RandomDistortion([dc.DiffJPEG(dc.Choice([50])), dc.Identity()], weights=[1, 0], per="sample")
            >>> layer.describe(layer.sample((2, 3, 16, 16)))
            [{'name': 'DiffJPEG', 'quality': 50.0}, {'name': 'DiffJPEG', 'quality': 50.0}]
        """
        if absent := [name for name in self.told() if name not in draw]:
            raise ValueError(
                f"{self.who} got a draw without {absent[0]!r}: is it of another layer? It holds {sorted(map(str, draw)) or 'nothing'}"
            )
        told = {name: draw[name].tolist() for name in self.told() if isinstance(draw.get(name), Tensor) and draw[name].dim() == 1}
        if batch is None:
            if not (sizes := {len(v) for v in told.values()} or {len(v) for v in draw.values() if isinstance(v, Tensor) and v.dim()}):
                raise ValueError(f"{self.who} draws nothing that tells the number of samples: give batch=")
            batch = max(sizes)
        for name, values in told.items():
            if len(values) != batch:
                raise ValueError(f"{self.who} got a draw whose {name!r} is for {len(values)} samples, not {batch}")
        return [{"name": self.who} | {name: _short(values[i]) for name, values in told.items()} for i in range(batch)]

    def told(self) -> list[str]:
        """Names of the drawn values that :meth:`describe` reports; by default the strengths."""
        return list(self.strengths())

    def draw_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the tensors that :meth:`draw` makes for an input of this shape."""
        return dict.fromkeys(self.strengths(), (shape[0],))

    def check_draw(self, draw: Mapping[str, Any], shape: Sequence[int]) -> None:
        """Check that a draw fits this layer and an input shape.

        Raises:
            ValueError: a value is missing, unexpected, of another shape or out of range; the message names it.
        """
        who, shape = self.who, tuple(shape)
        expected = self.draw_shapes(shape)
        if type(self).draw is not Layer.draw and type(self).draw_shapes is Layer.draw_shapes:
            # draw is overridden, draw_shapes is not: other tensors are assumed to have the batch first
            expected |= {k: (shape[0], *v.shape[1:]) for k, v in draw.items() if k not in expected and isinstance(v, Tensor) and v.dim()}
            expected = {k: size for k, size in expected.items() if k in draw}
        else:
            check_names(who, draw, expected)
        for name, size in expected.items():
            value = draw[name]
            if not isinstance(value, Tensor):
                raise ValueError(f"{who} got a draw whose {name!r} is {type(value).__name__}, a tensor was expected")
            if value.dim() and size and value.shape[0] != size[0] == shape[0]:
                raise ValueError(f"{who} got a draw whose {name!r} is for {value.shape[0]} samples; the batch has {shape[0]}")
            if tuple(value.shape) != size:
                raise ValueError(
                    f"{who} got a draw whose {name!r} is of shape {tuple(value.shape)}; the input has {shape} and needs {size}:"
                    " sample(video.shape) makes one"
                )
            if (strength := self.strengths().get(name)) is not None:
                strength.check_drawn(value, f"{who} got a draw whose ")

    # --- calling -----------------------------------------------------------------------------------------------------------------

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        """The pure function of a video (float32 or float64, in [0, 1]) and a draw. Layers with a ``backend`` run their operations on it."""
        raise NotImplementedError

    def forward(
        self,
        video: Tensor,
        draw: Mapping[str, Any] | None = None,
        *others: object,
        step: int | None = None,
        generator: Generators = None,
        **strengths: Any,
    ) -> Tensor:
        """Distort a video.

        Args:
            video: ``[B, T, 3, H, W]``, floating point, RGB in [0, 1] (layers for images take ``[B, C, H, W]`` too).
            draw: from :meth:`sample`, which makes the call a pure function; None draws now.
            step: training step, for schedules.
            generator: source of randomness if ``draw`` is None; a list has one per sample.
            **strengths: strengths by name, in place of the layer's own: ``layer(video, crf=40)``, ``layer(video, quality=[30, 50])``; see
                :meth:`sample`.

        Returns:
            Video of the same layout, dtype and device.

        Raises:
            TypeError: the input is not a floating point tensor, or the layer has no strength of that name.
            ValueError: wrong layout or range of the input, a draw for another layer, batch or size, a strength out of range; the message
                prints the value.
            RuntimeError: the backend that was named cannot run, or the layer does not support a transform of torch.func.
        """
        if others:
            raise TypeError(f"{self.who} takes (video, draw), got {len(others)} more; {_ADAPT}")
        if self.mixes and draw is None and generator is None and not strengths and traced(video):
            if any(p.requires_grad for p in self.parameters()):
                raise RuntimeError(
                    f"{self.who}: a compiled mixture trains no members: freeze them, or pass a draw from sample(video.shape)"
                )
            self.check(video)
            with torch.autocast(device_type=video.device.type, enabled=False):
                return opaque.mixture(self, video, step)
        draw = self.complete(video, draw, step, generator, strengths)
        with torch.autocast(device_type=video.device.type, enabled=False):
            return self.run(video, draw)

    def run(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        """Apply the layer to a checked input and draw; used by its own call and by layers that contain it."""
        inside = self._check_transforms(video, *draw.values())
        if self.operator is not None and (inside or traced(video)):
            return type(self).operator(self, video, draw)  # type: ignore[misc]
        return self.work(video, draw)

    def _check_transforms(self, *values: object) -> list[str]:
        """The transforms of torch.func around the first value that has any; an error if the layer does not support them."""
        inside = next((t for v in values if isinstance(v, Tensor) and (t := transforms(v))), [])
        missing = [t for t in inside if t in self.lacks]
        if not missing and inside.count("grad") > 1 and "grad of grad" in self.lacks:
            missing = ["grad of grad"]
        if missing:
            if missing[0] == "vmap":
                raise RuntimeError(f"{self.who} does not support vmap: layers take batches, put the mapped dimension into B")
            raise RuntimeError(f"{self.who} supports gradients of first order only (torch.func.grad, vjp, jacrev), not {missing[0]}")
        return inside

    def work(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        """:meth:`run` outside tracing and transforms."""
        out = self.distort(self.working(video), draw)
        return out if self.raw else as_given(out, video)

    def follow(self, mask: Tensor, draw: Mapping[str, Any]) -> Tensor:
        """A mask ``[B, T, 1, H, W]`` (images: ``[B, 1, H, W]``), moved as the draw moves the video; unchanged by layers that move nothing."""
        return self.work(mask, draw) if self.geometric else mask

    def working(self, video: Tensor) -> Tensor:
        """A video in the form that :meth:`distort` expects."""
        return video if self.raw else as_working(video)

    def complete(
        self,
        video: Tensor,
        draw: Mapping[str, Any] | None,
        step: int | None,
        generator: Generators,
        strengths: Mapping[str, Any],
    ) -> Mapping[str, Any]:
        """Check the input, then check the draw or make one; ``strengths`` are those named in the call."""
        self.check(video)
        if draw is None:
            self._check_transforms(video)  # before random numbers are drawn, which vmap refuses with an error of its own
            return self.sample(video.shape, generator, step=step, device=video.device, **strengths)
        who = self.who
        if not isinstance(draw, Mapping):
            what = f"a tensor of shape {tuple(draw.shape)}" if isinstance(draw, Tensor) else type(draw).__name__
            raise TypeError(f"{who} takes (video, draw) with a draw from sample(video.shape), got {what}; {_ADAPT}")
        if strengths:
            raise TypeError(f"{who} got both a draw and {', '.join(strengths)}: give strengths to sample(), or call without a draw")
        self.check_draw(draw, video.shape)
        return to_device(draw, video.device)  # type: ignore[no-any-return]

    def check(self, video: Tensor) -> None:
        """Check layout, dtype and range of a video."""
        who = self.who
        if self.images:
            check_image_or_video(video, who, self.channels)
        else:
            check_video(video, who)
        check_values(video, who)

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v!r}" for k, v in self.strengths().items())


class Codec(Layer):
    """Base of all codecs, simulated and real. A call returns the decoded video, :meth:`encode` its size as well.

    A simulator implements :meth:`simulate`.
    """

    def simulate(self, video: Tensor, draw: Mapping[str, Any], rate: bool) -> tuple[Tensor, Tensor | None]:
        """The pure function: decoded video and, if ``rate``, the bits of each frame ``[B, T]`` (images: ``[B, 1]``), else None."""
        raise NotImplementedError

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        return self.simulate(video, draw, False)[0]

    def frame_types(self, shape: tuple[int, ...], draw: Mapping[str, Any]) -> list[str]:
        """Frame types: one string per sample, one letter per frame."""
        return ["I" * (shape[1] if len(shape) == 5 else 1)] * shape[0]

    def coded(self, video: Tensor, draw: Mapping[str, Any]) -> Coded:
        """The pure function behind :meth:`encode`."""
        out, bits = self.simulate(video, draw, True)
        assert bits is not None
        return Coded(out, bits.sum(1), self.frame_types(tuple(video.shape), draw), bits)

    def encode(
        self,
        video: Tensor,
        draw: Mapping[str, Any] | None = None,
        *,
        step: int | None = None,
        generator: Generators = None,
        **strengths: Any,
    ) -> Coded:
        """Encode and decode. Arguments and errors as for :meth:`forward`.

        Returns:
            :class:`~diffcodec.Coded`: the video that :meth:`forward` returns, ``bits`` ``[B]`` and ``frame_bits`` ``[B, T]`` (simulators:
            differentiable estimates; real codecs: counted), frame types.
        """
        draw = self.complete(video, draw, step, generator, strengths)
        with torch.autocast(device_type=video.device.type, enabled=False):
            coded = self.coded(self.working(video), draw)
        coded.video = as_given(coded.video, video)
        return coded


def _short(value: Any) -> Any:
    """A float rounded to the 7 significant digits of float32."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def view_of(layer: Layer) -> Layer:
    """A shallow copy of a layer, whose attributes and submodules can be replaced."""
    view = copy.copy(layer)
    view.__dict__["_modules"] = dict(layer._modules)
    return view


def join(draws: Sequence[Any]) -> Any:
    """Concatenate the draws of single samples into that of their batch: tensors, lists and, key by key, dicts; other data must be equal."""
    first = draws[0]
    if isinstance(first, Tensor):
        return torch.cat(list(draws))
    if isinstance(first, Mapping):
        names = dict.fromkeys(name for d in draws for name in d)
        return {name: join([d[name] for d in draws if name in d]) for name in names}
    if isinstance(first, list):
        return [x for d in draws for x in d]
    if all(d == first for d in draws):
        return first
    raise TypeError(f"a draw holds a {type(first).__name__} that differs between samples: such draws cannot be joined")


def to_device(draw: Any, device: torch.device) -> Any:
    """A draw with all its tensors on one device."""
    if isinstance(draw, Tensor):
        return draw.to(device)
    if isinstance(draw, Mapping):
        return {k: to_device(v, device) for k, v in draw.items()}
    if isinstance(draw, (list, tuple)):
        return type(draw)(to_device(v, device) for v in draw)
    return draw
