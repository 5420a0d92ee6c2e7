"""Mixtures of distortions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Union

import torch
from torch import Tensor, nn

from ..checks import require
from ..layer import Draw, Layer
from ..strength import draw_device
from .spatial import GaussianBlur, GaussianNoise, RandomCrop
from .temporal import FrameAverage, FrameDrop, FrameSwap

Weights = Union[Sequence[float], Callable[[int], Sequence[float]]]


class Identity(Layer):
    """No distortion."""

    images = True

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        return video


class RandomDistortion(Layer):
    """One of several layers, drawn by weight.

    Which layer was drawn is plain Python data in the draw (``draw["parts"]``), so nothing waits for the GPU; ``torch.compile`` compiles
    one graph for each combination it meets: compile the layers inside where that is too many.

    Args:
        layers: codecs, attacks or other mixtures; each must keep the shape of the video.
        weights: share of each, any positive scale, or a callable step -> weights; None for equal shares.
        per: "batch" draws one layer for the batch (the paper's way), "sample" one for each sample.
    """

    images = True

    def __init__(self, layers: Sequence[Layer], weights: Weights | None = None, per: str = "batch") -> None:
        super().__init__()
        if not layers:
            raise ValueError("RandomDistortion expected at least one layer, got none")
        for layer in layers:
            if not isinstance(layer, Layer):
                raise TypeError(f"RandomDistortion expected diffcodec layers, got {type(layer).__name__}")
        require("per", per, ["batch", "sample"])
        self.layers = nn.ModuleList(layers)
        self.images = all(layer.images for layer in layers)
        self.weights = weights
        self.per = per
        if not callable(weights):
            self._shares(None)

    def _shares(self, step: int | None) -> Tensor:
        weights = self.weights
        if callable(weights):
            if step is None:
                raise ValueError("weights follow a schedule: call the layer with step=<training step>")
            weights = weights(step)
        shares = [1.0] * len(self.layers) if weights is None else [float(w) for w in weights]
        if len(shares) != len(self.layers):
            raise ValueError(f"weights expected {len(self.layers)} numbers, one a layer, got {len(shares)}")
        if not all(0 <= w < float("inf") for w in shares) or sum(shares) == 0:
            raise ValueError(f"weights expected to be >= 0 and not all 0, got {shares}")
        return torch.tensor(shares)

    def sample(
        self,
        shape: Sequence[int],
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        *,
        step: int | None = None,
        device: torch.device | None = None,
    ) -> Draw:
        b = shape[0]
        if isinstance(generator, Sequence):
            return self._sample_each(shape, generator, step, device)
        where = draw_device(generator, None)  # on the CPU unless the generator is elsewhere
        n = 1 if self.per == "batch" else b
        choice = torch.multinomial(self._shares(step).to(where), n, replacement=True, generator=generator).tolist()
        choice = choice * (b // n)
        parts = []
        for i in sorted(set(choice)):
            rows = [j for j, c in enumerate(choice) if c == i]
            layer = self.layers[i]
            if len(rows) == b or isinstance(layer, RandomDistortion):
                part = layer.sample((len(rows), *shape[1:]), generator, step=step, device=device)  # type: ignore[operator]
            else:  # drawn for the whole batch, so that a strength given as [B] finds its sample
                part = _rows(layer.sample(shape, generator, step=step, device=device), rows)  # type: ignore[operator]
            parts.append((i, rows, part))
        return {"parts": parts}

    def _sample_each(
        self, shape: Sequence[int], generators: Sequence[torch.Generator], step: int | None, device: torch.device | None
    ) -> Draw:
        """A draw of its own for each sample, from its own generator."""
        if self.per != "sample":
            raise ValueError("RandomDistortion(per='batch') draws one layer for the batch: a generator for each sample needs per='sample'")
        if len(generators) != shape[0]:
            raise ValueError(f"RandomDistortion got {len(generators)} generators for a batch of {shape[0]}: one a sample is needed")
        shares = self._shares(step)
        choice = [int(torch.multinomial(shares, 1, generator=g)) for g in generators]
        parts = []
        for i in sorted(set(choice)):
            rows = [j for j, c in enumerate(choice) if c == i]
            own = [generators[j] for j in rows]
            parts.append((i, rows, self.layers[i].sample((len(rows), *shape[1:]), own, step=step, device=device)))  # type: ignore[operator]
        return {"parts": parts}

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        parts = draw["parts"]
        if len(parts) == 1:
            i, _, part = parts[0]
            return self.layers[i].distort(video, part)  # type: ignore[operator]
        order, pieces = [], []
        for i, rows, part in parts:
            at = torch.tensor(rows, device=video.device)
            piece = self.layers[i].distort(video.index_select(0, at), part)  # type: ignore[operator]
            if piece.shape[1:] != video.shape[1:]:
                raise ValueError(
                    f"{type(self.layers[i]).__name__} turned {tuple(video.shape[1:])} into {tuple(piece.shape[1:])}:"
                    " in a mixture per sample every layer must keep the shape"
                )
            pieces.append(piece)
            order += rows
        back = torch.tensor(order, device=video.device).argsort()
        return torch.cat(pieces).index_select(0, back)

    def check(self, video: Tensor) -> None:
        if isinstance(video, Tensor) and video.dim() == 4 and not self.images:
            names = ", ".join(type(v).__name__ for v in self.layers if not v.images)
            raise ValueError(f"{names} takes videos [B, T, 3, H, W] only, got shape {tuple(video.shape)}")
        super().check(video)

    def check_draw(self, draw: Mapping[str, Any], shape: Sequence[int]) -> None:
        parts = draw.get("parts")
        if parts is None:
            raise ValueError(
                f"RandomDistortion got a draw without 'parts': sample(video.shape) makes one; it holds {sorted(draw) or 'nothing'}"
            )
        if (n := sum(len(rows) for _, rows, _ in parts)) != shape[0]:
            raise ValueError(f"RandomDistortion got a draw for {n} samples; the batch has {shape[0]}")
        for i, rows, part in parts:
            self.layers[i].check_draw(part, (len(rows), *shape[1:]))  # type: ignore[operator]

    def extra_repr(self) -> str:
        return f"weights={self.weights}, per={self.per!r}"


def _rows(draw: Any, rows: list[int]) -> Any:
    """The part of a draw that belongs to some samples."""
    if isinstance(draw, Tensor):
        return draw[torch.tensor(rows, device=draw.device)]
    return {k: _rows(v, rows) for k, v in draw.items()}


def revmark_distortion(codec: Layer | None = None, codec_share: float = 0.86, start: int = 0, per: str = "batch") -> RandomDistortion:
    """The distortion layer of the REVMark paper (section 3.3) with its probabilities and strengths.

    Compression with probability 0.86; frame averaging (N = 3), dropping (p = 0.5), swapping (p = 0.5), random crop (p = 0.4), Gaussian
    noise (sigma 0.04) and 3-D Gaussian blur (sigma 2.0, 3 x 3 x 3) share the rest equally.

    Args:
        codec: what stands for compression; None for ``DiffH264(model="revmark")``.
        codec_share: its probability.
        start: step before which nothing is distorted (the public code: 3000); above 0 the layer is called with ``step=``.
        per: "batch" (the paper) or "sample".
    """
    from ..h264 import DiffH264

    if not 0 <= codec_share <= 1:
        raise ValueError(f"codec_share expected to lie in [0, 1], got {codec_share!r}")
    layers = [
        DiffH264(model="revmark") if codec is None else codec,
        FrameAverage(3),
        FrameDrop(0.5),
        FrameSwap(0.5),
        RandomCrop(0.4),
        GaussianNoise(0.04),
        GaussianBlur(2.0, kernel=3),
    ]
    shares = [codec_share] + [(1 - codec_share) / (len(layers) - 1)] * (len(layers) - 1)
    if start <= 0:
        return RandomDistortion(layers, shares, per)
    return RandomDistortion([Identity(), *layers], _After(start, shares), per)


class _After:
    """Weights that leave everything to the first layer before a step (a class, not a closure: it pickles)."""

    def __init__(self, start: int, shares: list[float]) -> None:
        self.start, self.shares = start, shares

    def __call__(self, step: int) -> list[float]:
        return [0.0, *self.shares] if step >= self.start else [1.0] + [0.0] * len(self.shares)

    def __repr__(self) -> str:
        return f"{self.shares} from step {self.start}"
