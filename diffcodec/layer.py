"""The contract that every codec and attack keeps: draw outside the graph, then apply a pure function.

``layer(video)`` is ``layer(video, layer.sample(video.shape))``. With a draw given, the call is a pure function of video
and draw: it can be compiled with ``fullgraph=True`` and repeated to the bit.
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
FIRST_ORDER_ONLY = ("jvp", "vmap", "grad of grad")
Generators = torch.Generator | Sequence[torch.Generator] | None


class Layer(Buildable, nn.Module):
    """Base of all codecs and attacks: video in, video of the same layout, dtype and device out, values in [0, 1].

    A subclass writes :meth:`distort` (the pure function) and, where more than its strengths is drawn, :meth:`draw` and :meth:`draw_shapes`.
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
    raw = False  # whether distort takes a video as it comes (any floating type, not clamped) and returns the like: saves passes over the video
    images = False  # whether [B, C, H, W] is accepted beside [B, T, 3, H, W]
    channels: tuple[int, ...] = (3,)
    # the operator of :mod:`diffcodec.opaque` that stands for the layer while something traces or transforms it; None where torch can look inside
    operator: Any = None
    geometric = False  # whether it moves samples from place to place or from frame to frame, and nothing else
    lacks: tuple[str, ...] = ()  # transforms of torch.func that a layer does not have: "jvp", "vmap", "grad of grad"

    def __init__(self) -> None:
        super().__init__()
        self.number = opaque.number(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.number = opaque.number(self)  # a copy is another layer

    @property
    def who(self) -> str:
        """The layer's name in errors."""
        return type(self).__name__

    # --- strengths ---------------------------------------------------------------------------------------------------------------

    def strengths(self) -> dict[str, Strength]:
        """The layer's strengths by name."""
        return {name: s for name, s in self.__dict__.items() if isinstance(s, Strength)}

    def strength_names(self) -> list[str]:
        """Strengths that a call may name, of layers inside as well."""
        return list(self.strengths())

    def at(self, **strengths: Any) -> Layer:
        """This layer with other strengths: a view for drawing.

        Raises:
            TypeError: the layer has no strength of that name. ValueError: out of range.
        """
        self._check_known(strengths)
        mine = self.strengths()
        return self.with_strengths({name: mine[name].given(value) for name, value in strengths.items()}) if strengths else self

    def _check_known(self, strengths: Mapping[str, Any]) -> None:
        mine = self.strength_names()
        for name, value in strengths.items():
            if name not in mine:
                known = f"its strengths are {', '.join(mine)}" if mine else "it has no strengths"
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
        """A view of this layer for some samples of a batch: a strength given as ``[B]`` keeps theirs, also of layers inside."""
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
        """Draw what is random for an input of this shape: a dict of tensors (batch first) and plain data, which :func:`torch.save` keeps.

        Args:
            shape: shape of the input to come.
            generator: source of randomness; None uses torch's default one. A list of one for each sample makes a sample's draw independent of
                the batch it comes in: the same on one process or many.
            step: training step, for strengths that follow a schedule.
            device: where the draw is put.
            **strengths: in place of the layer's own, by name: a number, a tensor or list with one value a sample, or a (low, high) range.
        """
        shape, layer = tuple(shape), self.at(**strengths)
        several = isinstance(generator, Sequence)
        if generator is not None and not all(isinstance(g, torch.Generator) for g in (generator if several else [generator])):  # type: ignore[union-attr]
            raise TypeError(f"{self.who} expected a torch.Generator, or a list with one for each sample, got {generator!r}")
        if not several:
            return layer.draw(shape, generator, step, device)  # type: ignore[arg-type]
        assert isinstance(generator, Sequence)
        if len(generator) != shape[0]:
            raise ValueError(f"{self.who} got {len(generator)} generators for a batch of {shape[0]}: one a sample is needed")
        return layer.draw_each(shape, generator, step, device)

    def draw_each(
        self, shape: tuple[int, ...], generators: Sequence[torch.Generator], step: int | None, device: torch.device | None
    ) -> Draw:
        """:meth:`draw` with a generator for each sample."""
        draws = [self.rows([i], shape[0]).draw((1, *shape[1:]), g, step, device) for i, g in enumerate(generators)]
        return join(draws)  # type: ignore[no-any-return]

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None, step: int | None, device: torch.device | None) -> Draw:
        """What :meth:`sample` returns; by default one value for each :class:`~diffcodec.strength.Strength` of the layer."""
        return {name: s.draw(shape[0], generator, device, step) for name, s in self.strengths().items()}

    def shape_after(self, shape: tuple[int, ...], draw: Mapping[str, Any]) -> tuple[int, ...]:
        """Shape of what comes out for an input of a shape and a draw; by default the same."""
        return shape

    def describe(self, draw: Mapping[str, Any], batch: int | None = None) -> list[dict[str, Any]]:
        """What a draw does to each sample, ready for a log: the layer's name and its strengths; in a mixture, those of the member that was drawn.

        Args:
            draw: made by :meth:`sample`.
            batch: samples, for a layer that draws nothing.

        Raises:
            ValueError: the draw does not say how many samples there are.

        Example:
            >>> import torch, diffcodec as dc
            >>> layer = dc.RandomDistortion([dc.DiffJPEG(dc.Choice([50])), dc.Identity()], weights=[1, 0], per="sample")
            >>> layer.describe(layer.sample((2, 3, 16, 16)))
            [{'name': 'DiffJPEG', 'quality': 50.0}, {'name': 'DiffJPEG', 'quality': 50.0}]
        """
        if absent := [name for name in self.told() if name not in draw]:
            raise ValueError(
                f"{self.who} got a draw without {absent[0]!r}: one of another layer? It holds {sorted(map(str, draw)) or 'nothing'}"
            )
        told = {name: draw[name].tolist() for name in self.told() if isinstance(draw.get(name), Tensor) and draw[name].dim() == 1}
        if batch is None:
            if not (sizes := {len(v) for v in told.values()} or {len(v) for v in draw.values() if isinstance(v, Tensor) and v.dim()}):
                raise ValueError(f"{self.who} draws nothing that says how many samples there are: give batch=")
            batch = max(sizes)
        for name, values in told.items():
            if len(values) != batch:
                raise ValueError(f"{self.who} got a draw whose {name!r} is for {len(values)} samples, not {batch}")
        return [{"name": self.who} | {name: _short(values[i]) for name, values in told.items()} for i in range(batch)]

    def told(self) -> list[str]:
        """Names in a draw that :meth:`describe` tells: the strengths."""
        return list(self.strengths())

    def draw_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the tensors that :meth:`draw` makes for an input of a shape."""
        return dict.fromkeys(self.strengths(), (shape[0],))

    def check_draw(self, draw: Mapping[str, Any], shape: Sequence[int]) -> None:
        """Raise where a draw was made for another layer, batch or size, or holds strengths out of range.

        Raises:
            ValueError: what is missing, too much, of another shape or out of range.
        """
        who, shape = self.who, tuple(shape)
        expected = self.draw_shapes(shape)
        if type(self).draw is not Layer.draw and type(self).draw_shapes is Layer.draw_shapes:
            # draws more than it describes: what else there is has the batch first
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
        """The pure function: float32 or float64 video in [0, 1] and a draw in, video out. Layers that take ``backend`` run their operations on it."""
        raise NotImplementedError

    def forward(
        self,
        video: Tensor,
        draw: Mapping[str, Any] | None = None,
        *,
        step: int | None = None,
        generator: Generators = None,
        **strengths: Any,
    ) -> Tensor:
        """Distort a video.

        Args:
            video: ``[B, T, 3, H, W]``, floating point, RGB in [0, 1] (layers for images take ``[B, C, H, W]`` too).
            draw: what :meth:`sample` drew, to make the call a pure function; None draws here.
            step: training step, for schedules.
            generator: source of randomness where nothing is given as ``draw``; a list has one for each sample.
            **strengths: in place of the layer's own, by name: ``layer(video, crf=40)``, ``layer(video, quality=[30, 50])``; see :meth:`sample`.

        Returns:
            Video of the same layout, dtype and device.

        Raises:
            TypeError, ValueError: the input has another layout, dtype or range, the draw is for another layer, batch or size, a strength is out
                of range; the message prints what came.
            RuntimeError: ``backend="triton"`` where no kernel can run; a transform of torch.func that the layer does not have.
        """
        draw = self.complete(video, draw, step, generator, strengths)
        with torch.autocast(device_type=video.device.type, enabled=False):
            return self.run(video, draw)

    def run(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        """The one way into a layer, for its own call and for layers around it. Input and draw have been checked."""
        inside = transforms(video) or next((t for v in draw.values() if isinstance(v, Tensor) and (t := transforms(v))), [])
        missing = [t for t in inside if t in self.lacks]
        if not missing and inside.count("grad") > 1 and "grad of grad" in self.lacks:
            missing = ["grad of grad"]
        if missing:
            cure = "; layers take batches: put the mapped dimension into B" if missing[0] == "vmap" else ""
            raise RuntimeError(f"{self.who} has gradients of first order (torch.func.grad, vjp, jacrev), no {missing[0]}{cure}")
        if self.operator is not None and (inside or traced(video)):
            return type(self).operator(self, video, draw)  # type: ignore[misc]
        return self.work(video, draw)

    def work(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        """:meth:`run` where nothing traces or transforms."""
        out = self.distort(self.working(video), draw)
        return out if self.raw else as_given(out, video)

    def follow(self, mask: Tensor, draw: Mapping[str, Any]) -> Tensor:
        """A mask ``[B, T, 1, H, W]`` (images: ``[B, 1, H, W]``) where a draw's geometry takes it; others leave it as it is."""
        return self.work(mask, draw) if self.geometric else mask

    def working(self, video: Tensor) -> Tensor:
        """A video as :meth:`distort` takes it."""
        return video if self.raw else as_working(video)

    def complete(
        self,
        video: Tensor,
        draw: Mapping[str, Any] | None,
        step: int | None,
        generator: Generators,
        strengths: Mapping[str, Any],
    ) -> Mapping[str, Any]:
        """Check the input and the draw, or draw; ``strengths`` are what a call was given by name."""
        self.check(video)
        if draw is None:
            return self.sample(video.shape, generator, step=step, device=video.device, **strengths)
        who = self.who
        if not isinstance(draw, Mapping):
            what = f"a tensor of shape {tuple(draw.shape)}" if isinstance(draw, Tensor) else type(draw).__name__
            raise TypeError(
                f"{who} takes (video, draw), the draw made by sample(video.shape), got {what}: masks and cover images are not for this layer"
            )
        if strengths:
            raise TypeError(f"{who} got both a draw and {', '.join(strengths)}: give strengths to sample(), or call without a draw")
        self.check_draw(draw, video.shape)
        return to_device(draw, video.device)  # type: ignore[no-any-return]

    def check(self, video: Tensor) -> None:
        """Raise where a video has another layout, dtype or range."""
        who = self.who
        if self.images:
            check_image_or_video(video, who, self.channels)
        else:
            check_video(video, who)
        check_values(video, who)

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v!r}" for k, v in self.strengths().items())


class Codec(Layer):
    """A simulator of a codec. A subclass writes :meth:`simulate`; calling it gives the video, :meth:`encode` the size as well."""

    def simulate(self, video: Tensor, draw: Mapping[str, Any], rate: bool) -> tuple[Tensor, Tensor | None]:
        """The pure function: decoded video, and where ``rate`` is asked for the bits of each frame ``[B, T]`` (images: ``[B, 1]``)."""
        raise NotImplementedError

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        return self.simulate(video, draw, False)[0]

    def frame_types(self, shape: tuple[int, ...], draw: Mapping[str, Any]) -> list[str]:
        """A letter a frame, a string a sample."""
        return ["I" * (shape[1] if len(shape) == 5 else 1)] * shape[0]

    def coded(self, video: Tensor, draw: Mapping[str, Any]) -> Coded:
        """The pure function with all that is known of the result."""
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
        """Distort and estimate the size. Arguments and errors as in :meth:`forward`.

        Returns:
            :class:`~diffcodec.Coded`: the same video, differentiable ``bits`` ``[B]`` and ``frame_bits`` ``[B, T]``, frame types.
        """
        draw = self.complete(video, draw, step, generator, strengths)
        with torch.autocast(device_type=video.device.type, enabled=False):
            coded = self.coded(self.working(video), draw)
        coded.video = as_given(coded.video, video)
        return coded


def _short(value: Any) -> Any:
    """A float32 with the digits that it has."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def view_of(layer: Layer) -> Layer:
    """A copy that shares everything with a layer, and whose attributes and modules can be replaced."""
    view = copy.copy(layer)
    view.__dict__["_modules"] = dict(layer._modules)
    return view


def join(draws: Sequence[Any]) -> Any:
    """Draws of single samples as the draw of their batch: tensors and lists one after the other, by name where names are; other data must agree."""
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
    raise TypeError(f"a draw holds {type(first).__name__}: samples that differ in it cannot be joined")


def to_device(draw: Any, device: torch.device) -> Any:
    """A draw with all its tensors on one device."""
    if isinstance(draw, Tensor):
        return draw.to(device)
    if isinstance(draw, Mapping):
        return {k: to_device(v, device) for k, v in draw.items()}
    if isinstance(draw, (list, tuple)):
        return type(draw)(to_device(v, device) for v in draw)
    return draw
