"""Geometric attacks, noise and filters; geometric draws apply to all frames of a clip."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backend import validate_backend
from ..checks import require
from ..layer import Draw, Layer
from ..ops.frames.reference import add_noise, blur
from ..ops.warp.reference import bilinear
from ..strength import Strength, StrengthLike, normal, uniform


class RandomCrop(Layer):
    """Random crop: keeps a window of p times the height and width (p = 0.4 keeps 16 % of the area).

    Args:
        p: fraction of height and width that is kept, 0.001..1.
        mode: "zero" leaves the window in place on black, "resize" scales it up to the full frame (bilinear).

    Example:
        >>> import torch, diffcodec as dc
        >>> (dc.RandomCrop(0.5)(torch.ones(1, 3, 8, 8)) > 0).sum()  # a quarter of 3 x 64 samples
        tensor(48)
    """

    images = True
    geometric = True

    def __init__(self, p: StrengthLike = 0.4, mode: str = "zero") -> None:
        super().__init__()
        self.p = Strength(p, "p", 1e-3, 1)
        require("mode", mode, ["zero", "resize"])
        self.mode = mode

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None, step: int | None, device: torch.device | None) -> Draw:
        draw = super().draw(shape, generator, step, device)
        draw["position"] = uniform((shape[0], 2), generator, device)  # (y, x), 0 is top or left, 1 bottom or right
        return draw

    def draw_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return super().draw_shapes(shape) | {"position": (shape[0], 2)}

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        h, w = video.shape[-2:]
        p, position = draw["p"].to(video), draw["position"].to(video)
        window = []  # first row and number of rows, then the same for columns; whole samples
        for n, u in ((h, position[:, 0]), (w, position[:, 1])):
            kept = torch.round(p * n).clamp(1, n)
            first = torch.floor(u * (n - kept + 1)).clamp(max=n - 1)
            window.append((first, kept))
        if self.mode == "zero":
            masks = [_inside(n, *window[i], like=video) for i, n in enumerate((h, w))]
            mask = masks[0][:, :, None] * masks[1][:, None, :]  # [B, H, W]
            return video * mask.view(video.shape[0], *[1] * (video.dim() - 3), h, w)
        rows, columns = (_upscale(n, *window[i], like=video) for i, n in enumerate((h, w)))
        return _resample(video, rows, columns)

    def extra_repr(self) -> str:
        return f"p={self.p!r}, mode={self.mode!r}"


def _inside(n: int, first: Tensor, kept: Tensor, like: Tensor) -> Tensor:
    """1 inside the window, 0 outside. Shape: ``[B], [B] -> [B, n]``."""
    i = torch.arange(n, device=like.device)
    return ((i >= first[:, None]) & (i < (first + kept)[:, None])).to(like)


def _upscale(n: int, first: Tensor, kept: Tensor, like: Tensor) -> Tensor:
    """Matrix that scales samples ``first .. first + kept - 1`` to n, bilinear. Shape: ``[B], [B] -> [B, n, n]``."""
    i = torch.arange(n, device=like.device).to(like)
    at = (i + 0.5) * (kept / n)[:, None] - 0.5  # [B, n]
    at = first[:, None] + torch.minimum(at.clamp(min=0), kept[:, None] - 1)
    return (1 - (at[..., None] - i).abs()).clamp(min=0)


def _resample(video: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Apply one matrix to the rows and one to the columns of each sample. Shape: ``[B, ..., H, W] -> [B, ..., H', W']``."""
    extra = [1] * (video.dim() - 3)
    rows = rows.view(rows.shape[0], *extra, *rows.shape[1:])
    columns = columns.view(columns.shape[0], *extra, *columns.shape[1:])
    return rows @ video @ columns.mT


class Resize(Layer):
    """Resize: scale the frame, then restore its size, bilinear with antialiasing (as in Pillow and torchvision).

    Args:
        scale: first factor on height and width, 0.001..4. A call may raise it to the largest value that the layer's own can take, or to 1 if that
            is larger.

    Example:
        >>> import torch, diffcodec as dc
        >>> dc.Resize((0.5, 1.5))(torch.rand(2, 4, 3, 16, 16)).shape
        torch.Size([2, 4, 3, 16, 16])
    """

    images = True

    def __init__(self, scale: StrengthLike = (0.5, 1.0)) -> None:
        super().__init__()
        most = Strength(scale, "scale", 1e-3, LARGEST).most()  # bounds the size of the intermediate grid
        self.scale = Strength(scale, "scale", 1e-3, max(1.0, most))

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        scale = draw["scale"].to(video)
        rows, columns = (_there_and_back(n, scale, math.ceil(n * self.scale.high)) for n in video.shape[-2:])
        return _resample(video, rows, columns)


LARGEST = 4.0  # scale of a resize


def _there_and_back(n: int, scale: Tensor, room: int) -> Tensor:
    """Scaling n samples to ``m = round(scale n)`` and back as one matrix. Shape: ``[B] -> [B, n, n]``.

    m differs per sample, so the intermediate grid has ``room`` samples, of which those beyond m stay empty.
    """
    m = torch.round(n * scale).clamp(1, room)[:, None, None]  # [B, 1, 1]
    whole = torch.full_like(m, n)
    return _resized(m, whole, room, n) @ _resized(whole, m, n, room)


def _resized(first: Tensor, second: Tensor, columns: int, rows: int) -> Tensor:
    """Scaling ``first`` samples to ``second``, bilinear with antialiasing. Shape: two ``[B, 1, 1] -> [B, rows, columns]``, 0 beyond the samples."""
    i = torch.arange(columns, device=first.device).to(first)
    j = torch.arange(rows, device=first.device).to(first)[:, None]
    at = (j + 0.5) * (first / second) - 0.5  # of sample j among the first [B, rows, 1]
    near = (1 - (at - i).abs() * (second / first).clamp(max=1)).clamp(min=0)  # a triangle as wide as a sample of the coarser grid
    near = near * ((i < first) & (j < second))
    return near / near.sum(-1, keepdim=True).clamp(min=1e-12)


class Rotate(Layer):
    """Rotation about the centre, bilinear; areas from outside the frame are black.

    Args:
        degrees: angle in degrees, -360..360, counter-clockwise positive; a range is drawn per sample.

    Example:
        >>> import torch, diffcodec as dc
        >>> dc.Rotate(90.0)(torch.eye(8).expand(1, 3, 8, 8))[0, 0].fliplr().diagonal().sum().round()
        tensor(8.)
    """

    images = True
    geometric = True

    def __init__(self, degrees: StrengthLike = (-10.0, 10.0)) -> None:
        super().__init__()
        self.degrees = Strength(degrees, "degrees", -360, 360)

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        h, w = video.shape[-2:]
        angle = torch.deg2rad(draw["degrees"].to(video))[:, None, None]  # [B, 1, 1]
        y = (torch.arange(h, device=video.device).to(video) - (h - 1) / 2)[:, None]
        x = torch.arange(w, device=video.device).to(video) - (w - 1) / 2
        # where each output pixel comes from, in pixels; y points down
        from_x = torch.cos(angle) * x - torch.sin(angle) * y + (w - 1) / 2  # [B, H, W]
        from_y = torch.sin(angle) * x + torch.cos(angle) * y + (h - 1) / 2
        framed = F.pad(video.flatten(1, -3), (1, 1, 1, 1))  # [B, T*C, H+2, W+2]: the repeated edge is black
        return bilinear(framed, from_x + 1, from_y + 1).view(video.shape)


class Perspective(Layer):
    """Perspective: each corner of the frame moves inwards at random; areas outside are black (torchvision's ``RandomPerspective``).

    Args:
        distortion: largest displacement of a corner, as a fraction of half the height and width, 0..1.

    Example:
        >>> import torch, diffcodec as dc
        >>> dc.Perspective(0.5)(torch.rand(2, 4, 3, 16, 16)).shape
        torch.Size([2, 4, 3, 16, 16])
    """

    images = True
    geometric = True

    def __init__(self, distortion: StrengthLike = 0.5) -> None:
        super().__init__()
        self.distortion = Strength(distortion, "distortion", 0, 1)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None, step: int | None, device: torch.device | None) -> Draw:
        draw = super().draw(shape, generator, step, device)
        draw["corners"] = uniform((shape[0], 4, 2), generator, device)  # (x, y) displacement of each corner, clockwise from the top left
        return draw

    def draw_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return super().draw_shapes(shape) | {"corners": (shape[0], 4, 2)}

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        h, w = video.shape[-2:]
        moved = draw["corners"].to(video) * draw["distortion"].to(video)[:, None, None] / 2  # shares of the frame
        start = video.new_tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]).expand_as(moved)
        end = start + moved * (1 - 2 * start)
        x = (torch.arange(w, device=video.device).to(video) / max(1, w - 1)).expand(h, w)
        y = (torch.arange(h, device=video.device).to(video) / max(1, h - 1))[:, None].expand(h, w)
        ones = torch.ones_like(x)
        place = _homography(end, start) @ torch.stack([x, y, ones]).flatten(1)  # [B, 3, H W]
        from_x, from_y = (place[:, :2] / place[:, 2:]).unflatten(2, (h, w)).unbind(1)
        framed = F.pad(video.flatten(1, -3), (1, 1, 1, 1))  # the repeated edge is black
        return bilinear(framed, from_x * max(1, w - 1) + 1, from_y * max(1, h - 1) + 1).view(video.shape)


def _homography(start: Tensor, end: Tensor) -> Tensor:
    """The projective map that takes four points to four others. Shape: two ``[B, 4, 2] -> [B, 3, 3]``."""
    (x, y), (u, v) = start.unbind(-1), end.unbind(-1)  # [B, 4] each
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    rows = [
        torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], -1),
        torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], -1),
    ]
    solved = torch.linalg.solve(torch.cat(rows, 1), torch.cat([u, v], 1))
    return torch.cat([solved, torch.ones_like(solved[:, :1])], 1).unflatten(1, (3, 3))


class Flip(Layer):
    """Mirror a sample with probability p.

    Args:
        p: probability, 0..1.
        axis: "horizontal" (left and right are exchanged) or "vertical".

    Example:
        >>> import torch, diffcodec as dc
        >>> dc.Flip(1.0)(torch.arange(4.0).div(4).expand(1, 3, 4, 4))[0, 0, 0]
        tensor([0.7500, 0.5000, 0.2500, 0.0000])
    """

    images = True
    geometric = True

    def __init__(self, p: StrengthLike = 0.5, axis: str = "horizontal") -> None:
        super().__init__()
        self.p = Strength(p, "p", 0, 1)
        require("axis", axis, ["horizontal", "vertical"])
        self.axis = axis

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None, step: int | None, device: torch.device | None) -> Draw:
        draw = super().draw(shape, generator, step, device)
        return draw | {"flip": uniform((shape[0],), generator, device) < draw["p"]}

    def draw_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return super().draw_shapes(shape) | {"flip": shape[:1]}

    def told(self) -> list[str]:
        return ["flip"]

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        flipped = video.flip(-1 if self.axis == "horizontal" else -2)
        return torch.where(draw["flip"].bool().view(-1, *[1] * (video.dim() - 1)), flipped, video)


class GaussianNoise(Layer):
    """Additive white Gaussian noise, independent for every value, then clamped to [0, 1].

    Args:
        sigma: standard deviation on the [0, 1] scale, 0..10.
        backend: "auto", "reference" or "triton" (:mod:`diffcodec.backend`).

    Example:
        >>> import torch, diffcodec as dc
        >>> video = torch.full((1, 4, 3, 32, 32), 0.5)
        >>> 0.03 < dc.GaussianNoise(0.04)(video).std() < 0.05
        tensor(True)
    """

    images = True
    raw = True

    def __init__(self, sigma: StrengthLike = 0.04, backend: str = "auto") -> None:
        super().__init__()
        self.backend = validate_backend(backend)
        self.sigma = Strength(sigma, "sigma", 0, 10)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None, step: int | None, device: torch.device | None) -> Draw:
        draw = super().draw(shape, generator, step, device)
        draw["noise"] = normal(shape, generator, device)
        return draw

    def draw_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return super().draw_shapes(shape) | {"noise": shape}

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        return add_noise.on(self.backend, video, draw["noise"], draw["sigma"])


class MedianFilter(Layer):
    """Median over a square window of each channel of each frame; edges are repeated. The gradient flows to the samples selected.

    Args:
        kernel: side of the window, odd.

    Example:
        >>> import torch, diffcodec as dc
        >>> spot = torch.zeros(1, 3, 8, 8)
        >>> spot[..., 4, 4] = 1
        >>> dc.MedianFilter(3)(spot).sum()
        tensor(0.)
    """

    images = True

    def __init__(self, kernel: int = 3) -> None:
        super().__init__()
        self.kernel = _odd_side(kernel)

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        k, n = self.kernel, self.kernel // 2
        flat = video.flatten(0, -4)  # [N, C, H, W]
        some = max(1, 2**24 // max(1, k * k * flat[0].numel()))  # of frames at once: windows of 64 MiB
        out = []
        for part in flat.split(some):
            padded = F.pad(part, (n, n, n, n), mode="replicate")
            out.append(padded.unfold(2, k, 1).unfold(3, k, 1).flatten(4).median(4).values)
        return torch.cat(out).view(video.shape)

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}"


def _odd_side(kernel: int) -> int:
    if isinstance(kernel, bool) or not (isinstance(kernel, Integral) and kernel >= 1 and kernel % 2):
        raise ValueError(f"kernel expected to be an odd whole number >= 1, got {kernel!r}")
    return int(kernel)


class GaussianBlur(Layer):
    """Gaussian blur of each frame, or over time as well, with a square or cubic window; edges are repeated.

    Args:
        sigma: standard deviation in frames and pixels, 0.001..1000.
        kernel: side of the window, odd.
        over: "space": each frame alone; or "time and space", a window over neighbouring frames too, as the REVMark paper's 3 x 3 x 3 blur.
        backend: "auto", "reference" or "triton" (:mod:`diffcodec.backend`; "triton" only for windows up to 5).

    Example:
        >>> import torch, diffcodec as dc
        >>> layer = dc.GaussianBlur(2.0, kernel=3)
        >>> layer(torch.rand(2, 4, 3, 16, 16)).shape
        torch.Size([2, 4, 3, 16, 16])
    """

    images = True
    raw = True

    def __init__(self, sigma: StrengthLike = 2.0, kernel: int = 3, over: str = "space", backend: str = "auto") -> None:
        super().__init__()
        self.backend = validate_backend(backend)
        self.sigma = Strength(sigma, "sigma", 1e-3, 1e3)
        self.kernel = _odd_side(kernel)
        require("over", over, ["space", "time and space"])
        self.over = over

    def weights(self, sigma: Tensor) -> Tensor:
        """Shape: ``[B] -> [B, kernel]``."""
        r = self.kernel // 2
        i = torch.arange(-r, r + 1, device=sigma.device).to(sigma)
        weights = torch.exp(-(i**2) / (2 * sigma[:, None] ** 2))
        return weights / weights.sum(1, keepdim=True)

    def distort(self, video: Tensor, draw: Mapping[str, Any]) -> Tensor:
        precision = torch.float64 if video.dtype == torch.float64 else torch.float32
        weights = self.weights(draw["sigma"].to(precision))
        if self.over == "space" and video.dim() == 5:
            frames = video.shape[1]
            return blur.on(self.backend, video.flatten(0, 1), weights.repeat_interleave(frames, 0)).view(video.shape)
        return blur.on(self.backend, video, weights)

    def extra_repr(self) -> str:
        return f"sigma={self.sigma!r}, kernel={self.kernel}, over={self.over!r}"
