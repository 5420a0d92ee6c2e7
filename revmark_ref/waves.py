"""The mark of ``base``: travelling waves, shaped by what the picture hides, found by correlation.

Bit j is the sign of one wave ``cos(2 pi (k_j . x / tile - t / period) + phase_j)`` in luma, ``x`` in samples of the clip and ``t`` in frames.
All waves of a mark have one period in time and wave vectors on one lattice, so the mark repeats in space after a tile and in time after a period.
What that buys:

- Every frame carries every bit, the energy of the mark is the same in all frames, and so is its change from frame to frame: nothing pulses.
- What does not move in the picture has no part at the mark's temporal frequency: a decoder that looks there alone does not hear it.
- In the spectrum the mark is a set of points. Scaling, turning and mirroring the video moves the points, whatever their signs are, so the geometry is
  found without knowing the message (:mod:`revmark_ref.sync`).
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import Model
from .keys import generator
from .mapping import water_fill

LUMA = (0.299, 0.587, 0.114)
LOWEST = 12.0  # squared frequency, in half cycles per 16 samples, at which waves begin: below it lies nearly all of a picture
SIZE = 9  # side of the window that texture is measured in
FINE = 3  # and of the one that it is the geometric mean of
BASE, POWER = 1.5, 1.3  # the mask is (texture + BASE)^POWER; both, and SHARE, by LPIPS and what survives on training clips
SHARE = 0.7  # of a clip's mask in its strength: 0 gives all clips one PSNR, 1 all one visibility
TYPICAL = 20.0  # mask of a clip of average texture (geometric mean over training clips)


@functools.cache
def wave_vectors(count: int, tile: int, lowest: float = LOWEST) -> tuple[tuple[int, int], ...]:
    """``count`` wave vectors (rows, columns) in cycles per tile, lowest first, one of each pair k and -k; which one is drawn, so that the mark
    as a whole drifts nowhere.

    Raises:
        ValueError: the tile holds fewer.
    """
    half = tile // 2
    found = sorted(
        (a * a + b * b, a, b)
        for a in range(1 - half, half)
        for b in range(half)
        if (b > 0 or a > 0) and 4 * (a * a + b * b) >= lowest * (tile / 16) ** 2 and a * a + b * b < half * half
    )
    if count > len(found):
        raise ValueError(f"mapping 'waves' with tiles of {tile} x {tile} holds {len(found)} bits, got {count}")
    signs = (2 * torch.randint(2, (count,), generator=generator(20231029, "direction", tile)) - 1).tolist()
    return tuple((s * a, s * b) for s, (_, a, b) in zip(signs, found))


def wave_phases(count: int, tile: int) -> Tensor:
    """Phases of the waves, in radians, ``[count]``: random, so that they add up to no peak."""
    return 2 * math.pi * torch.rand(count, generator=generator(20231029, "phase", tile))


def smooth(x: Tensor, size: int) -> Tensor:
    """Mean over a ``size x size`` window, edges repeated. Shape: ``[B, T, H, W]`` -> same."""
    n = size // 2
    flat = F.pad(x.flatten(0, 1)[:, None], (n, n, n, n), mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(flat, (1, size), 1), (size, 1), 1).view_as(x)


def deviation(y: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation in the window around each sample. Shape: ``[B, T, H, W]`` -> two of it."""
    mean = smooth(y, size)
    return mean, ((smooth(y * y, size) - mean * mean).clamp(min=0) + 1e-2).sqrt()


def texture(y: Tensor) -> Tensor:
    """How much a picture hides: the geometric mean, over a window, of fine deviations. An edge in a flat surrounding counts for little.

    Shape: ``[B, T, H, W]``, luma in 8-bit levels -> same, in levels.
    """
    return smooth((deviation(y, FINE)[1] + 1).log(), SIZE).exp() - 1


def hidden(y: Tensor) -> Tensor:
    """The mask: what a picture hides of a mark, up to a factor. Shape: ``[B, T, H, W]``, luma in levels -> same."""
    return (texture(y) + BASE) ** POWER


def luma(video: Tensor) -> Tensor:
    """``[B, T, 3, H, W]`` in [0, 1] -> ``[B, T, H, W]`` in 8-bit levels."""
    r, g, b = video.unbind(2)
    return 255 * (LUMA[0] * r + LUMA[1] * g + LUMA[2] * b)


class Waves(nn.Module):
    """The waves of a model: cosine and sine of each over one tile, and their course over the clip.

    Args:
        model: takes ``bits``, ``frames`` and ``tile``.
    """

    pairs: Tensor
    course: Tensor

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.tile = p = model.tile
        k = torch.tensor(wave_vectors(model.bits, p), dtype=torch.float32)
        y, x = torch.meshgrid(torch.arange(p) + 0.5, torch.arange(p) + 0.5, indexing="ij")
        turn = 2 * math.pi / p * (k[:, 0, None, None] * y + k[:, 1, None, None] * x) + wave_phases(model.bits, p)[:, None, None]
        self.register_buffer(
            "pairs", torch.stack([turn.cos(), turn.sin()]).flatten(2) * (math.sqrt(2) / p), persistent=False
        )  # [2, L, p p]
        at = 2 * math.pi * (torch.arange(model.frames) + 0.5) / PERIOD
        self.register_buffer("course", torch.stack([at.cos(), at.sin()]), persistent=False)  # [2, T]


PERIOD = 8  # frames


class WaveEncoder(Waves):
    """Waves times a mask: ``residual = gain mask sum_j amount_j wave_j``, the same in all three colours.

    Amounts are informed, as those of :class:`~revmark_ref.mapping.Spread`: what the decoder hears in the clip itself is known, so bits that it speaks
    against get more (water-filling). The gain gives a clip of average texture the PSNR of ``alpha``; others get ``(mask / TYPICAL)^SHARE`` of that:
    flat clips less, textured ones more.
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.log_amplitude = nn.Parameter(torch.zeros(model.bits))

    def volume(self, amount: Tensor, height: int, width: int) -> Tensor:
        """All waves times their signed amounts. Shape: ``[B, L] -> [B, T, H, W]``."""
        p = self.tile
        picture = torch.einsum("bl,slp->bsp", amount * self.log_amplitude.exp(), self.pairs)
        tile = torch.einsum("bsp,st->btp", picture, self.course).unflatten(2, (p, p))
        return tile.repeat(1, 1, -(-height // p), -(-width // p))[..., :height, :width]

    def scaled(self, shape: Tensor, mask: Tensor, alpha: float) -> Tensor:
        """A residual brought to the strength of ``alpha``. Shape: two ``[B, T, H, W]`` -> same, in levels."""
        level = mask.square().mean((1, 2, 3), keepdim=True).sqrt()
        target = 127.5 * alpha / math.sqrt(3 * 128 * 128) * ((level / TYPICAL) ** SHARE).clamp(0.25, 2.0)
        return shape * (target / shape.square().mean((1, 2, 3), keepdim=True).clamp(min=1e-12).sqrt())

    def forward(self, video: Tensor, message: Tensor, alpha: float, decoder: WaveDecoder) -> Tensor:
        """The residual in levels.

        Args:
            video: ``[B, T, 3, H, W]`` in [0, 1].
            message: ``[B, L]``, 0 or 1.
            alpha: the paper's strength, for 128 x 128.
            decoder: is asked what it hears; taken as a constant.

        Returns:
            ``[B, T, H, W]``.
        """
        sign = 2 * message - 1
        mask = hidden(luma(video))
        size = video.shape[-2:]
        amount = torch.ones_like(message)
        with torch.no_grad():
            heard = decoder.read(video)
            for _ in range(INFORMED):
                marked = added(video, self.scaled(self.volume(sign * amount, *size) * mask, mask, alpha))
                answer = sign * (decoder.read(marked) - heard)
                gain = (answer * amount).sum(1, keepdim=True) / amount.square().sum(1, keepdim=True)
                amount = water_fill(sign * heard / gain.clamp(min=1e-6), float(message.shape[1]))
        return self.scaled(self.volume(sign * amount, *size) * mask, mask, alpha)


INFORMED = 3  # rounds: what a unit of amount gives depends on the clip


def added(video: Tensor, residual: Tensor) -> Tensor:
    """A residual in levels on all colours, clamped. Shape: ``[B, T, 3, H, W]``, ``[B, T, H, W]`` -> ``[B, T, 3, H, W]``."""
    return (video + residual[:, :, None] / 255).clamp(0, 1)


class WaveDecoder(Waves):
    """Matched filters on the whitened clip.

    Whitening subtracts the surroundings' mean and divides by their deviation: it undoes the encoder's mask and gives each place the weight of
    its noise. Each tile is then correlated with every wave; in time, the parts of the response (its DCT) are combined by their share over the
    energy that the band has in that tile (maximal-ratio combining), which silences the parts that the picture fills, what does not move first of all.
    """

    times: Tensor

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        from diffcodec.transform import dct_matrix

        self.register_buffer("times", torch.from_numpy(dct_matrix(model.frames)).float(), persistent=False)  # [K, T]
        self.log_base = nn.Parameter(torch.tensor(math.log(3.0)))
        self.log_floor = nn.Parameter(torch.full((model.frames,), math.log(0.3)))
        self.log_weight = nn.Parameter(torch.zeros(model.bits))
        self.loudness = nn.Parameter(torch.tensor(LOUDNESS))

    def read(self, video: Tensor) -> Tensor:
        """What the video says of each bit, above 0 for a 1. Shape: ``[B, T, 3, H, W] -> [B, L]``."""
        heard = torch.einsum("bntsl,kt->bnskl", self.tiles_heard(video), self.times)
        found = [self._matched(one, self._frames_shown(still, one)) for still, one in zip(_stills(luma(video)), heard)]
        return torch.stack([response / power for response, power in found]) * self.log_weight.exp()

    def tiles_heard(self, video: Tensor) -> Tensor:
        """Each tile of the whitened clip on the cosine and sine of each wave. Shape: ``[B, T, 3, H, W] -> [B, N, T, 2, L]``, N tiles."""
        p = self.tile
        y = luma(video)
        mean, width = deviation(y, SIZE)
        white = (y - mean) / (width + self.log_base.exp())
        tiles = white.unflatten(3, (-1, p)).unflatten(2, (-1, p)).permute(0, 2, 4, 1, 3, 5).flatten(4).flatten(1, 2)  # [B, N, T, p p]
        return (tiles @ self.pairs.flatten(0, 1).mT).unflatten(3, self.pairs.shape[:2])

    def _matched(self, heard: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
        """Response of each bit with the weight of its noise, and what a mark of unit strength would give.

        Args:
            heard: ``[N, 2, K, L]``.
            shown: ``[T]``, the frame of the mark that each frame shows.

        Returns:
            ``[L]`` and a scalar. The first has the second as the variance of its noise.
        """
        share = (self.course[:, shown] @ self.times.mT)[:, :, None]  # [2, K, 1]
        weight = share / (self.log_floor.exp()[:, None] + heard.square().mean(3, keepdim=True))  # [N, 2, K, 1]
        return (weight * heard).sum((0, 1, 2)), (weight * share).sum()

    @torch.no_grad()
    def _frames_shown(self, still: Tensor, heard: Tensor) -> Tensor:
        """Which frame of the mark each frame shows: its own, unless frames are shown twice. Of equal neighbours one is the first-hand one; which,
        is what gives the mark the most power.

        Shape: ``[T]``, True where a frame equals the one before, and ``[N, 2, K, L] -> [T]``.
        """
        own = torch.arange(len(still), device=still.device)
        if not still.any():
            return own
        begins = own[~still].tolist()
        spans = list(zip(begins, [*begins[1:], len(still)]))
        shown = torch.cat([own.new_full((b - a,), (a + b - 1) // 2) for a, b in spans])
        for _ in range(2):
            for a, b in spans:
                if b - a > 1:
                    tried = [torch.cat([shown[:a], own.new_full((b - a,), t), shown[b:]]) for t in range(a, b)]
                    told = [self._matched(heard, t) for t in tried]
                    shown = tried[max(range(b - a), key=lambda i: float(told[i][0].square().sum() / told[i][1]))]
        return shown

    def forward(self, video: Tensor) -> Tensor:
        """Logits. Shape: ``[B, T, 3, H, W] -> [B, L]``."""
        return self.loudness * self.read(video)


class WaveDetector(nn.Module):
    """Is there a mark in this frame? Without training.

    In the spectrum of a marked frame, bit j's point has a phase that is known up to its sign and to the time of the frame, which is one for all bits.
    Squares have no signs, so they add up to one direction; without a mark they point anywhere.

    Args:
        decoder: whose waves and whitening are used.
    """

    def __init__(self, decoder: WaveDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, frames: Tensor) -> Tensor:
        """Logits, above 0 for a mark; an unmarked frame gets there with a probability of exp(-THRESHOLD^2).

        Shape: ``[N, 3, H, W] -> [N]``.
        """
        heard = self.decoder.tiles_heard(frames[None])[0]  # [tiles, N, 2, L]
        points = torch.complex(heard[:, :, 0], -heard[:, :, 1])  # [tiles, N, L]
        weight = 1 / (self.decoder.log_floor.exp()[0] + points.abs().square().mean(2, keepdim=True))
        noise = (weight * points).abs().square().sum(0)
        squares = ((weight * points).sum(0) / noise.clamp(min=1e-12).sqrt()).square()  # [N, L]
        return squares.sum(1).abs() / squares.abs().square().sum(1).clamp(min=1e-12).sqrt() - THRESHOLD


THRESHOLD = 2.1  # one unmarked frame of eighty

STILL = 0.01  # 8-bit levels, mean: frames that differ by less are one. The mark itself changes more from frame to frame


def _stills(y: Tensor) -> Tensor:
    """Frames that equal the one before. Shape: ``[B, T, H, W]`` -> ``[B, T]``."""
    return F.pad((y[:, 1:] - y[:, :-1]).abs().mean((2, 3)) < STILL, (1, 0), value=False)


LOUDNESS = 4.0  # logit for each unit of a tile's mean correlation, to begin with
