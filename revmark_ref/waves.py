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
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffcodec import color
from diffcodec.transform import dct_matrix

from .config import Model
from .keys import generator
from .mapping import water_fill

LOWEST = 12.0  # squared frequency, in half cycles per 16 samples, at which waves begin: below it lies nearly all of a picture
SIZE = 9  # side of the window that texture is measured in
FINE = 3  # and of the one that it is the geometric mean of
BASE, POWER = 1.5, 1.3  # the mask is (texture + BASE)^POWER; both, and SHARE, by LPIPS and what survives on training clips
SHARE = 0.7  # of a clip's mask in its strength: 0 gives all clips one PSNR, 1 all one visibility
TYPICAL = 20.0  # mask of a clip of average texture (geometric mean over training clips)


@functools.cache
def wave_vectors(count: int, tile: int, lowest: float = LOWEST) -> tuple[tuple[int, int], ...]:
    """``count`` wave vectors (rows, columns) in cycles per tile, lowest first, one of each pair k and -k; which one is drawn.

    Raises:
        ValueError: the tile holds fewer.
    """
    found = _lattice(tile, lowest)
    if count > len(found):
        raise ValueError(f"mapping 'waves' with tiles of {tile} x {tile} holds {len(found)} bits, got {count}")
    return _directed(found[:count], "direction", tile)


def silent_vectors(count: int, tile: int) -> tuple[tuple[int, int], ...]:
    """As many of the wave vectors that follow those of a mark with ``count`` waves as the lattice holds: they hear the picture alone."""
    return _directed(_lattice(tile, LOWEST)[count : 2 * count], "silent", tile)


def _directed(vectors: list[tuple[int, int]], name: str, tile: int) -> tuple[tuple[int, int], ...]:
    """Wave vectors with drawn signs, so that as a whole they drift nowhere."""
    signs = (2 * torch.randint(2, (len(vectors),), generator=generator(20231029, name, tile)) - 1).tolist()
    return tuple((s * a, s * b) for s, (a, b) in zip(signs, vectors))


def _lattice(tile: int, lowest: float) -> list[tuple[int, int]]:
    half = tile // 2
    found = sorted(
        (a * a + b * b, a, b)
        for a in range(1 - half, half)
        for b in range(half)
        if (b > 0 or a > 0) and 4 * (a * a + b * b) >= lowest * (tile / 16) ** 2 and a * a + b * b < half * half
    )
    return [(a, b) for _, a, b in found]


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
    return 255 * color.luma(video)


def drawn(vectors: Sequence[tuple[int, int]], phases: Tensor, tile: int) -> Tensor:
    """Cosine and sine of waves over a tile, each of norm 1. Shape: ``[N]`` -> ``[2, N, tile tile]``."""
    k = torch.tensor(vectors, dtype=torch.float32).view(-1, 2)
    y, x = torch.meshgrid(torch.arange(tile) + 0.5, torch.arange(tile) + 0.5, indexing="ij")
    turn = 2 * math.pi / tile * (k[:, 0, None, None] * y + k[:, 1, None, None] * x) + phases[:, None, None]
    return torch.stack([turn.cos(), turn.sin()]).flatten(2) * (math.sqrt(2) / tile)


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
        self.register_buffer("pairs", drawn(wave_vectors(model.bits, p), wave_phases(model.bits, p), p), persistent=False)  # [2, L, p p]
        at = 2 * math.pi * (torch.arange(model.frames) + 0.5) / PERIOD
        self.register_buffer("course", torch.stack([at.cos(), at.sin()]), persistent=False)  # [2, T]


PERIOD = 8  # frames
TOGETHER = 0.75  # share of a correlation that is believed: more is better until frames are swapped in a picture that is easily foretold


def on(tiles: Tensor, waves: Tensor) -> Tensor:
    """Tiles on the cosine and sine of each wave. Shape: ``[B, N, T, p p]``, ``[2, L, p p]`` -> ``[B, N, T, 2, L]``."""
    return (tiles @ waves.flatten(0, 1).mT).unflatten(3, waves.shape[:2])


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
    its noise. Each tile is then correlated with every wave; in time, the parts of the response (its DCT) are combined with the weights that keep the
    mark's course and have the least power of all (minimum variance or Capon's beamformer, doi:10.1109/PROC.1969.7278): what the picture fills goes,
    what does not move first of all.
    """

    times: Tensor
    silent: Tensor

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        others = silent_vectors(model.bits, model.tile)
        self.register_buffer("silent", drawn(others, torch.zeros(len(others)), model.tile), persistent=False)
        self.register_buffer("times", torch.from_numpy(dct_matrix(model.frames)).float(), persistent=False)  # [K, T]
        self.log_base = nn.Parameter(torch.tensor(math.log(3.0)))
        self.log_floor = nn.Parameter(torch.full((model.frames,), math.log(0.3)))
        self.log_weight = nn.Parameter(torch.zeros(model.bits))
        self.loudness = nn.Parameter(torch.tensor(LOUDNESS))

    def read(self, video: Tensor) -> Tensor:
        """What the video says of each bit, above 0 for a 1. Shape: ``[B, T, 3, H, W] -> [B, L]``."""
        tiles = self.tiles(video)
        heard, silence = (torch.einsum("bntsl,kt->bnskl", on(tiles, waves), self.times) for waves in (self.pairs, self.silent))
        found = []
        for still, one, other in zip(_stills(luma(video)), heard, silence):
            whitening = self._whitening(one, other)
            found.append(self._matched(one, whitening, self._frames_shown(still, one, whitening)))
        return torch.stack([response / power for response, power in found]) * self.log_weight.exp()

    def tiles(self, video: Tensor) -> Tensor:
        """The whitened clip cut into tiles. Shape: ``[B, T, 3, H, W] -> [B, N, T, p p]``."""
        p = self.tile
        y = luma(video)
        mean, width = deviation(y, SIZE)
        white = (y - mean) / (width + self.log_base.exp())
        return white.unflatten(3, (-1, p)).unflatten(2, (-1, p)).permute(0, 2, 4, 1, 3, 5).flatten(4).flatten(1, 2)

    def _whitening(self, heard: Tensor, silence: Tensor) -> Tensor:
        """Inverse of the covariance over time of the noise in each tile. How its parts go together is learnt from waves that the mark leaves out,
        in all tiles: from the mark's own, a mark whose frames were swapped would count as noise. How loud each part is, from the mark's own.

        Shape: ``[N, 2, K, L]``, ``[N, 2, K, S]`` -> ``[N, 2 K, 2 K]``.
        """
        loud = heard.square().mean(3).flatten(1)  # [N, 2 K]
        other = silence.detach().flatten(1, 2)
        other = other / other.square().mean(2, keepdim=True).sqrt().clamp(min=1e-6)
        together = TOGETHER * (other @ other.mT).mean(0) / max(1, other.shape[2])
        together = together + (1 - together.diagonal()).diag()
        width = loud.clamp(min=1e-12).sqrt()  # 0 where nothing changes, as in a clip of one frame over and over
        return torch.linalg.inv(width[:, :, None] * together * width[:, None] + self.log_floor.exp().repeat(2).diag())

    def _matched(self, heard: Tensor, whitening: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
        """Response of each bit with the weights of least noise, and what a mark of unit strength would give.

        Args:
            heard: ``[N, 2, K, L]``.
            whitening: ``[N, 2 K, 2 K]``.
            shown: ``[T]``, the frame of the mark that each frame shows.

        Returns:
            ``[L]`` and a scalar. The first has the second as the variance of its noise.
        """
        share = (self.course[:, shown] @ self.times.mT).flatten()  # [2 K]
        weight = whitening @ share  # [N, 2 K]
        return torch.einsum("nd,ndl->l", weight, heard.flatten(1, 2)), (weight @ share).sum()

    @torch.no_grad()
    def _frames_shown(self, still: Tensor, heard: Tensor, whitening: Tensor) -> Tensor:
        """Which frame of the mark each frame shows: its own, unless frames are shown twice. Of equal neighbours one is the first-hand one; which,
        is what gives the mark the most power.

        Shape: ``[T]``, True where a frame equals the one before, ``[N, 2, K, L]`` and ``[N, 2 K, 2 K]`` -> ``[T]``.
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
                    told = [self._matched(heard, whitening, t) for t in tried]
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
        heard = on(self.decoder.tiles(frames[None]), self.decoder.pairs)[0]  # [tiles, N, 2, L]
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
