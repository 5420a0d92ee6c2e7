"""Layers made of layers: a random choice, and a sequence."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Union

import torch
from torch import Tensor, nn

from ..checks import check_names, require
from ..constants import listed
from ..layer import Draw, Layer, view_of
from ..strength import Ramp, Steps, draw_device
from .spatial import GaussianBlur, GaussianNoise, RandomCrop
from .temporal import FrameAverage, FrameDrop, FrameSwap

Weights = Union[Sequence[float], Callable[[int], Sequence[float]]]


class Identity(Layer):
    """No distortion.

    Example:
        >>> import torch, diffcodec as dc
        >>> video = torch.rand(1, 2, 3, 4, 4)
        >>> torch.equal(dc.Identity()(video), video)
        True
    """

    images = True

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        return video


class Several(Layer):
    """Base of layers with members. A strength named in a call applies to every member that has it."""

    layers: nn.ModuleList

    def members(self) -> list[Any]:
        """The layers, in order."""
        return list(self.layers)

    def strength_names(self) -> list[str]:
        return list(dict.fromkeys(name for layer in self.members() if isinstance(layer, Layer) for name in layer.strength_names()))

    def at(self, **strengths: Any) -> Layer:
        self._check_known(strengths)
        return self._with([_at(layer, strengths) for layer in self.members()])

    def draw_each(
        self, shape: tuple[int, ...], generators: Sequence[torch.Generator], step: int | None, device: torch.device | None
    ) -> Draw:
        if len(generators) > 1 and any(isinstance(m, RandomDistortion) and m.per == "batch" for m in self.modules()):
            raise ValueError("RandomDistortion(per='batch') draws one layer for the batch: a generator for each sample needs per='sample'")
        return super().draw_each(shape, generators, step, device)

    def rows(self, rows: list[int], batch: int) -> Layer:
        return self._with([layer.rows(rows, batch) if isinstance(layer, Layer) else layer for layer in self.members()])

    def _with(self, layers: list[Any]) -> Layer:
        if all(a is b for a, b in zip(layers, self.layers)):
            return self
        view = view_of(self)
        view._modules["layers"] = nn.ModuleList(layers)
        return view

    def check(self, video: Tensor) -> None:
        if isinstance(video, Tensor) and video.dim() == 4 and not self.images:
            names = ", ".join(v.who for v in self.members() if isinstance(v, Layer) and not v.images)
            raise ValueError(f"{names} takes videos [B, T, 3, H, W] only, got shape {tuple(video.shape)}")
        super().check(video)


def _listed(who: str, layers: Sequence[Any]) -> list[Any]:
    """Check for an iterable of layers, at least one."""
    if isinstance(layers, nn.Module) and not isinstance(layers, (nn.ModuleList, nn.Sequential)):
        raise TypeError(f"{who} expected a list of layers, got one {type(layers).__name__}")
    layers = list(layers)
    if not layers:
        raise ValueError(f"{who} expected at least one layer, got none")
    return layers


def _at(layer: Any, strengths: Mapping[str, Any]) -> Any:
    """A layer with other strengths, as far as it has them."""
    if not isinstance(layer, Layer):
        return layer
    known = layer.strength_names()
    try:
        return layer.at(**{name: value for name, value in strengths.items() if name in known})
    except (TypeError, ValueError) as error:
        raise (TypeError if isinstance(error, TypeError) else ValueError)(f"{layer.who}: {error}") from error


class Compose(Several):
    """Apply layers in sequence.

    Args:
        layers: codecs, attacks, mixtures, and plain modules from video to video, which draw nothing and keep the shape.

    Raises:
        TypeError: a member that is no module, or a plain module with a layer inside.
        ValueError: no layers.

    Example:
        >>> import torch, diffcodec as dc
        >>> layer = dc.Compose([dc.Resize(0.5), dc.DiffH264(crf=(18, 34)), torch.nn.Identity()])
        >>> layer(torch.rand(2, 4, 3, 32, 32), crf=23).shape
        torch.Size([2, 4, 3, 32, 32])
        >>> layer.describe(layer.sample((1, 4, 3, 32, 32), crf=23))
        [{'name': 'Compose', 'layers': [{'name': 'Resize', 'scale': 0.5}, {'name': 'DiffH264', 'crf': 23.0}, {'name': 'Identity'}]}]
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        layers = _listed("Compose", layers)
        for layer in layers:
            if not isinstance(layer, nn.Module):
                raise TypeError(f"Compose expected layers and modules, got {type(layer).__name__}")
            if not isinstance(layer, Layer) and any(isinstance(inner, Layer) for inner in layer.modules()):
                raise TypeError(
                    f"Compose got a {type(layer).__name__} with a layer inside, which would draw by itself: list the layers one by one,"
                    " and wrap the Compose with adapt"
                )
        self.layers = nn.ModuleList(layers)
        ours = [layer for layer in layers if isinstance(layer, Layer)]
        self.mixes = any(layer.mixes for layer in ours)
        self.images = all(layer.images for layer in ours)
        self.channels = tuple(c for c in (1, 3) if all(c in layer.channels for layer in ours))

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None, step: int | None, device: torch.device | None) -> Draw:
        """A draw for each layer, at the shape that reaches it: ``{"parts": {index: draw}}``."""
        parts: dict[int, Draw] = {}
        for i, layer in enumerate(self.members()):
            if isinstance(layer, Layer):
                parts[i] = layer.sample(shape, generator, step=step, device=device)
                shape = layer.shape_after(shape, parts[i])
        return {"parts": parts}

    def shape_after(self, shape: tuple[int, ...], draw: Mapping[str, Any]) -> tuple[int, ...]:
        for i, part in draw["parts"].items():
            shape = self.members()[i].shape_after(shape, part)
        return shape

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        for i, layer in enumerate(self.members()):
            if isinstance(layer, Layer):
                video = layer.run(video, draw["parts"][i])
            else:
                out = layer(video)
                if not isinstance(out, Tensor) or out.shape[0] != video.shape[0]:
                    what = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
                    raise TypeError(f"Compose expected a video of {video.shape[0]} samples from {type(layer).__name__}, got {what}")
                video = out
        return video

    def follow(self, mask: Tensor, draw: Mapping[str, Any]) -> Tensor:
        for i, part in draw["parts"].items():
            mask = self.members()[i].follow(mask, part)
        return mask

    def check_draw(self, draw: Mapping[str, Any], shape: Sequence[int]) -> None:
        check_names("Compose", draw, {"parts": ()})
        parts, ours = draw["parts"], [i for i, layer in enumerate(self.members()) if isinstance(layer, Layer)]
        if not isinstance(parts, Mapping) or list(parts) != ours:
            raise ValueError(f"Compose got a draw whose 'parts' are not those of its layers {ours}")
        at = tuple(shape)
        for i in ours:
            if not isinstance(parts[i], Mapping):
                raise ValueError(f"Compose got a draw whose part {i} is not a draw but {type(parts[i]).__name__}")
            self.members()[i].check_draw(parts[i], at)
            at = self.members()[i].shape_after(at, parts[i])

    def describe(self, draw: Mapping[str, Any], batch: int | None = None) -> list[dict[str, Any]]:
        check_names("Compose", draw, {"parts": ()})
        for i, part in draw["parts"].items():  # one layer that tells the number of samples is enough
            with contextlib.suppress(ValueError):
                batch = batch or len(self.members()[i].describe(part))
        if batch is None:
            raise ValueError("Compose draws nothing that tells the number of samples: give batch=")
        told = [
            layer.describe(draw["parts"][i], batch) if isinstance(layer, Layer) else [{"name": type(layer).__name__}] * batch
            for i, layer in enumerate(self.members())
        ]
        return [{"name": "Compose", "layers": list(one)} for one in zip(*told)]


class RandomDistortion(Several):
    """Apply one of several layers, drawn at random by weight.

    The choice is plain Python data in the draw (``draw["choice"]``, the index of a member for each sample), so nothing waits for the GPU.
    Under ``torch.compile`` a call without a draw is one operator, which draws as it runs: one graph, whatever is chosen. A draw that is passed is
    part of the graph, which is compiled for each combination that occurs. Members run as they do on their own, with the same kernels.

    Args:
        layers: codecs, attacks or other mixtures; with ``per="sample"`` each must keep the shape of the video.
        weights: relative weight of each layer, >= 0 and not all 0, or a schedule (:class:`Ramp` or :class:`Steps` of
            lists, or a callable step -> weights); None for equal weights.
        per: "batch" draws one layer for the batch (as in the REVMark paper), "sample" one for each sample.

    Raises:
        TypeError: a member that is no diffcodec layer, or weights of another kind.
        ValueError: no layers, or weights of another number, negative or all 0; in a call, a schedule without ``step``.

    Example:
        >>> import torch, diffcodec as dc
        >>> layer = dc.RandomDistortion([dc.DiffH264((18, 28)), dc.FrameDrop(), dc.GaussianNoise()], weights=[2, 1, 1], per="sample")
        >>> layer(torch.rand(4, 2, 3, 16, 16)).shape
        torch.Size([4, 2, 3, 16, 16])
    """

    raw = True  # members convert and clamp
    mixes = True

    def __init__(self, layers: Sequence[Layer], weights: Weights | None = None, per: str = "batch") -> None:
        super().__init__()
        layers = _listed("RandomDistortion", layers)
        for layer in layers:
            if not isinstance(layer, Layer):
                cure = "; a plain module becomes one as diffcodec.Compose([module])" if isinstance(layer, nn.Module) else ""
                raise TypeError(f"RandomDistortion expected diffcodec layers, got {type(layer).__name__}{cure}")
        require("per", per, ["batch", "sample"])
        self.layers = nn.ModuleList(layers)
        self.images = all(layer.images for layer in layers)
        self.channels = tuple(c for c in layers[0].channels if all(c in layer.channels for layer in layers))
        self.weights = weights
        self.per = per
        if isinstance(weights, Mapping):
            raise TypeError(f"weights expected a number for each layer, or a schedule such as Steps, got {weights!r}")
        if isinstance(weights, (Ramp, Steps)):
            for step in (weights.start, weights.stop) if isinstance(weights, Ramp) else weights.values:
                self._shares(step)
        elif not callable(weights):
            self._shares(None)

    def _shares(self, step: int | None) -> Tensor:
        weights = self.weights
        if callable(weights):
            if step is None:
                raise ValueError("weights follow a schedule: call the layer with step=<training step>")
            weights = weights(step)
        shares = [1.0] * len(self.layers) if weights is None else [float(w) for w in weights]
        if len(shares) != len(self.layers):
            raise ValueError(f"weights expected {len(self.layers)} numbers, one per layer, got {len(shares)}")
        if not all(0 <= w < float("inf") for w in shares) or sum(shares) == 0:
            raise ValueError(f"weights expected to be >= 0 and not all 0, got {shares}")
        return torch.tensor(shares, dtype=torch.float32, device="cpu")

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None, step: int | None, device: torch.device | None) -> Draw:
        """Indices of the members drawn, and the draw of each for its samples: ``{"choice": [B], "parts": {index: draw}}``."""
        b = shape[0]
        for member in self.modules():  # of all members, drawn or not: training should not fail at random
            if isinstance(member, Layer):
                for strength in member.strengths().values():
                    strength.check_batch(b)
        where = draw_device(generator, None)  # on the CPU unless the generator is elsewhere
        n = 1 if self.per == "batch" else b
        choice = torch.multinomial(self._shares(step).to(where), n, replacement=True, generator=generator).tolist() * (b // n)
        parts = {}
        for i, rows in _by_member(choice):
            member = self.members()[i].rows(rows, b) if len(rows) < b else self.members()[i]
            parts[i] = member.sample((len(rows), *shape[1:]), generator, step=step, device=device)
        return {"choice": choice, "parts": parts}

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        parts, members = draw["parts"], _by_member(draw["choice"])
        if len(members) == 1:
            i, _ = members[0]
            return self.members()[i].run(video, parts[i])
        pieces = []
        for i, rows in members:
            piece = self.members()[i].run(video.index_select(0, listed(rows, video.device)), parts[i])
            if piece.shape[1:] != video.shape[1:]:
                raise ValueError(
                    f"{type(self.layers[i]).__name__} turned {tuple(video.shape[1:])} into {tuple(piece.shape[1:])}:"
                    " in a mixture per sample every layer must keep the shape"
                )
            pieces.append(piece)
        return _in_order(pieces, members)

    def follow(self, mask: Tensor, draw: Mapping[str, Any]) -> Tensor:
        members = _by_member(draw["choice"])
        return _in_order([self.members()[i].follow(mask[rows], draw["parts"][i]) for i, rows in members], members)

    def shape_after(self, shape: tuple[int, ...], draw: Mapping[str, Any]) -> tuple[int, ...]:
        members = _by_member(draw["choice"])
        return self.members()[members[0][0]].shape_after(shape, draw["parts"][members[0][0]]) if len(members) == 1 else shape

    def describe(self, draw: Mapping[str, Any], batch: int | None = None) -> list[dict[str, Any]]:
        told: dict[int, dict[str, Any]] = {}
        for i, rows in self._drawn(draw):
            told |= zip(rows, self.members()[i].describe(draw["parts"][i], len(rows)))
        return [told[i] for i in range(len(told))]

    def check_draw(self, draw: Mapping[str, Any], shape: Sequence[int]) -> None:
        members = self._drawn(draw)
        if len(draw["choice"]) != shape[0]:
            raise ValueError(f"RandomDistortion got a draw for {len(draw['choice'])} samples; the batch has {shape[0]}")
        for i, rows in members:
            self.members()[i].check_draw(draw["parts"][i], (len(rows), *shape[1:]))

    def _drawn(self, draw: Mapping[str, Any]) -> list[tuple[int, list[int]]]:
        """Indices of the members drawn, each with those of its samples.

        Raises:
            ValueError: a draw of another mixture.
        """
        check_names("RandomDistortion", draw, dict.fromkeys(("choice", "parts")))
        choice, parts = draw["choice"], draw["parts"]
        if not isinstance(choice, list) or not all(isinstance(i, int) and 0 <= i < len(self.layers) for i in choice):
            raise ValueError(
                f"RandomDistortion got a draw whose 'choice' is not a list of indices of its {len(self.layers)} layers: {choice!r}"
            )
        members = _by_member(choice)
        if not isinstance(parts, Mapping) or set(parts) != {i for i, _ in members}:
            raise ValueError(f"RandomDistortion got a draw whose 'parts' are not those of its 'choice' {sorted(set(choice))}")
        for i, _ in members:
            if not isinstance(parts[i], Mapping):
                raise ValueError(f"RandomDistortion got a draw whose part {i} is not a draw but {type(parts[i]).__name__}")
        return members

    def extra_repr(self) -> str:
        return f"weights={self.weights}, per={self.per!r}"


def _in_order(pieces: Sequence[Tensor], members: Sequence[tuple[int, list[int]]]) -> Tensor:
    """Concatenate the results of the drawn members, in the order of the batch."""
    order = [row for _, rows in members for row in rows]
    back = sorted(range(len(order)), key=order.__getitem__)
    return torch.cat(list(pieces)).index_select(0, listed(back, pieces[0].device))


def _by_member(choice: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Indices of the drawn members, each with those of its samples."""
    return [(i, [j for j, c in enumerate(choice) if c == i]) for i in sorted(set(choice))]


REVMARK_ATTACKS: dict[str, tuple[Callable[[Any], Layer], float]] = {
    "average": (lambda n: FrameAverage(int(n)), 3),
    "drop": (FrameDrop, 0.5),
    "swap": (FrameSwap, 0.5),
    "crop": (RandomCrop, 0.4),
    "noise": (GaussianNoise, 0.04),
    "blur": (lambda sigma: GaussianBlur(sigma, kernel=3, over="time and space"), 2.0),
}
"""The six attacks of the REVMark paper (section 3.3) by name, with their strengths."""


def revmark_attack(name: str, strength: float | None = None) -> Layer:
    """One attack of the REVMark paper (section 3.3).

    Args:
        name: "average", "drop", "swap", "crop", "noise" or "blur".
        strength: n, p or sigma of the attack; None for the paper's.

    Raises:
        ValueError: unknown name, or a strength out of range.
    """
    require("attack", name, list(REVMARK_ATTACKS))
    make, own = REVMARK_ATTACKS[name]
    return make(own if strength is None else strength)


def revmark_distortion(codec: Layer | None = None, codec_share: float = 0.86, start: int = 0, per: str = "batch") -> RandomDistortion:
    """The distortion layer of the REVMark paper (section 3.3) with its probabilities and strengths.

    Compression with probability 0.86; frame averaging (N = 3), dropping (p = 0.5), swapping (p = 0.5), random crop (p = 0.4), Gaussian
    noise (sigma 0.04) and 3-D Gaussian blur (sigma 2.0, 3 x 3 x 3) share the rest equally.

    Args:
        codec: layer for compression; None for ``DiffH264(model="revmark")``.
        codec_share: its probability, 0..1.
        start: training step before which nothing is distorted (the public code: 3000); above 0, calls need ``step=``.
        per: "batch" (the paper) or "sample".

    Raises:
        ValueError: ``codec_share`` outside [0, 1], or unknown ``per``.

    Example:
        >>> import torch, diffcodec as dc
        >>> dc.revmark_distortion()(torch.rand(2, 3, 3, 16, 16)).shape
        torch.Size([2, 3, 3, 16, 16])
    """
    from ..h264 import DiffH264

    if not 0 <= codec_share <= 1:
        raise ValueError(f"codec_share expected to lie in [0, 1], got {codec_share!r}")
    layers = [DiffH264(model="revmark") if codec is None else codec, *(revmark_attack(name) for name in REVMARK_ATTACKS)]
    shares = [codec_share] + [(1 - codec_share) / (len(layers) - 1)] * (len(layers) - 1)
    if start <= 0:
        return RandomDistortion(layers, shares, per)
    return RandomDistortion([Identity(), *layers], Steps({0: [1.0] + [0.0] * len(layers), start: [0.0, *shares]}), per)
