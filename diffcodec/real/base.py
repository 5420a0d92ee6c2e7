"""Base of the real codecs: batches, threads, and the surrogate gradient."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..checks import check_names, replace_value
from ..coded import Coded
from ..color import to_8bit
from ..h264 import DiffH264, Guide
from ..layer import FIRST_ORDER_ONLY, Codec, Layer, to_device

Array = np.ndarray[Any, np.dtype[np.uint8]]
_In = TypeVar("_In")
_Out = TypeVar("_Out")


class Real(Codec):
    """A real encoder and decoder. The forward value is exact; ``gradient`` selects the backward pass.

    Args:
        gradient: "best" (the choice with the highest steering gain measured: the simulator of this codec at the same strength, or "identity" if
            there is none), None (the output has no gradient), "identity" (the gradient passes unchanged), or a simulator, whose gradient at the
            same input is used. A ``DiffH264()`` is guided by libx264's decisions in the same encode. The bits that :meth:`encode` returns take
            the simulator's gradient as well; without a simulator that estimates bits, a backward pass through them raises a RuntimeError.

    Raises:
        ValueError: another gradient.
    """

    lacks = FIRST_ORDER_ONLY

    def __init__(self, gradient: str | nn.Module | None) -> None:
        super().__init__()
        if not (gradient is None or gradient in ("best", "identity") or isinstance(gradient, nn.Module)):
            raise ValueError(f"gradient expected 'best', 'identity', a simulator module or None, got {gradient!r}")
        self.gradient = gradient
        self._best = False

    def simulator(self) -> Layer | None:
        """A simulator of this codec, or None."""
        return None

    def settle_gradient(self) -> None:
        """Replace "best" by a layer or "identity", once the codec's own arguments are known."""
        self._best = self.gradient == "best"
        if self._best:
            self.gradient = self.simulator() or "identity"

    def gradient_repr(self) -> str:
        """For repr(): a module shows itself as a child."""
        return "" if isinstance(self.gradient, nn.Module) else f", gradient={self.gradient!r}"

    def draw(self, shape, generator, step, device):  # type: ignore[no-untyped-def]
        draw = super().draw(shape, generator, step, None)  # strengths go to the encoder: they stay on the CPU
        if isinstance(self.gradient, Layer):
            own = self.gradient.sample(shape, generator, step=step, device=device)
            if self._best:  # of the same strength
                own |= {k: v.to(device or v.device) for k, v in draw.items() if k in own}
            draw["gradient"] = own
        return draw

    def draw_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return super().draw_shapes(shape)  # the draw of the gradient's simulator is checked by that simulator

    def check_draw(self, draw: Mapping[str, Any], shape: Sequence[int]) -> None:
        own = draw.get("gradient") if isinstance(self.gradient, Layer) else None  # may be left out where no gradient is wanted
        if own is not None:
            if not isinstance(own, Mapping):
                raise ValueError(f"{type(self).__name__} got a draw whose 'gradient' is not a draw but {type(own).__name__}")
            self.gradient.check_draw(own, shape)  # type: ignore[union-attr,operator]
        super().check_draw({k: v for k, v in draw.items() if k != "gradient" or own is None}, shape)

    def code(self, clip: Array, draw: Mapping[str, float]) -> tuple[Array, list[int], str, bytes, Guide | None]:
        """Code one sample, uint8 ``[T, H, W, C]``. Returns it decoded, bits and types of the frames in display order, stream and guide."""
        raise NotImplementedError

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        return self._code_batch(video, draw, False).video

    def coded(self, video: Tensor, draw: Mapping[str, Any]) -> Coded:
        """Encode and decode each sample of the batch, in parallel threads: video and bits (gradients as chosen), frame types, streams, guides."""
        return self._code_batch(video, draw, True)

    def _code_batch(self, video: Tensor, draw: Mapping[str, Any], rate: bool) -> Coded:
        """:meth:`coded`; the gradient of the bits, which costs time, only if ``rate``."""
        clips = to_8bit(video).movedim(-3, -1).cpu().numpy()  # [B, (T,) H, W, C]
        if video.dim() == 4:
            clips = clips[:, None]
        strengths = {k: v.tolist() for k, v in draw.items() if isinstance(v, Tensor)}
        jobs = [(clip, {k: v[i] for k, v in strengths.items()}) for i, clip in enumerate(clips)]
        results = in_threads(lambda job: self.code(*job), jobs)
        decoded = torch.from_numpy(np.stack([r[0] for r in results])).movedim(-1, -3)  # [B, T, C, H, W]
        value = (decoded.to(video.device).to(video.dtype) / 255).view(video.shape)
        bits = torch.tensor([r[1] for r in results], dtype=torch.float32, device=video.device)  # [B, T]
        guide = [r[4] for r in results if r[4] is not None]
        if self.gradient is not None and torch.is_grad_enabled() and video.requires_grad:
            stand_in, of_bits = self._stand_in(video, draw, guide, rate)
            value = replace_value(stand_in, value)
            bits = replace_value(of_bits, bits) if of_bits is not None else bits
        return Coded(value, bits.sum(1), [r[2] for r in results], bits, [r[3] for r in results], guide)

    def _stand_in(self, video: Tensor, draw: Mapping[str, Any], guide: Sequence[Guide], rate: bool) -> tuple[Tensor, Tensor | None]:
        """What the gradients of the video and, if ``rate``, of the bits of its frames ``[B, T]`` are taken from."""
        if self.gradient == "identity":
            return video, self._no_rate(video) if rate else None
        assert isinstance(self.gradient, nn.Module)
        if not isinstance(self.gradient, Layer):
            return self.gradient(video), self._no_rate(video) if rate else None
        check_names(type(self).__name__, draw, dict.fromkeys(draw) | {"gradient": ()})
        own = to_device(draw["gradient"], video.device)
        guided = isinstance(self.gradient, DiffH264) and self.gradient.model == "x264" and len(guide) == len(video)
        more: dict[str, Any] = {"guide": guide} if guided else {}
        if rate and isinstance(self.gradient, Codec):
            coded = self.gradient.encode(video, own, **more)
            return coded.video, coded.frame_bits if coded.frame_bits.requires_grad else self._no_rate(video)
        return self.gradient(video, own, **more), self._no_rate(video) if rate else None

    def _no_rate(self, video: Tensor) -> Tensor:
        """Stand-in for bits that have no gradient ``[B, T]``: a loss that asks for it fails, instead of being trained without it in silence."""
        shape = (video.shape[0], video.shape[1] if video.dim() == 5 else 1)
        gradient = repr(self.gradient) if isinstance(self.gradient, str) else type(self.gradient).__name__
        return _NoRate.apply(video, shape, f"{self.who}(gradient={gradient})")  # type: ignore[no-any-return]


class _NoRate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, video, shape, who):  # type: ignore[no-untyped-def]
        ctx.who = who
        return video.new_zeros(shape, dtype=torch.float32)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        raise RuntimeError(
            f"the bits of {ctx.who} have no gradient: give a simulator that estimates them, gradient=diffcodec.DiffH264(),"
            " or take bits.detach() as a constant"
        )


def in_threads(work: Callable[[_In], _Out], jobs: Sequence[_In]) -> list[_Out]:
    """``work`` over jobs in threads, results in order (encoders release the GIL)."""
    if len(jobs) == 1:
        return [work(jobs[0])]
    with ThreadPoolExecutor(min(len(jobs), os.cpu_count() or 1)) as pool:
        return list(pool.map(work, jobs))
