"""The mark of ``base``: travelling waves, weighted by a perceptual mask and detected by correlation.

Bit j is the sign of one wave ``cos(2 pi (k_j . x / tile - t / period) + phase_j)`` in luma, with the wave vector ``k_j`` in cycles per tile, ``x`` in
samples of the clip and ``t`` in frames. All waves of a mark share one period in time, and their wave vectors lie on one lattice, so the mark repeats
in space after a tile and in time after a period. This has three advantages:

- Every frame carries every bit; the energy of the mark and its change from frame to frame are constant, so it does not pulse.
- Static content has no component at the temporal frequency of the mark, so a decoder that uses this frequency only is not disturbed by it.
- In the spectrum the mark is a set of points. Scaling, turning and mirroring the video move the points, whatever their signs are, so the geometry is
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

LOWEST = 12.0  # squared frequency, in half cycles per 16 samples, at which waves begin: nearly all energy of a picture lies below it
SIZE = 9  # side of the window over which texture is averaged
FINE = 3  # and of the window of the standard deviations that it averages
BASE, POWER = 1.5, 1.3  # the mask is (texture + BASE)^POWER; both, and SHARE, were chosen by LPIPS and survival on training clips
SHARE = 0.7  # exponent of a clip's mask in its strength: 0 gives all clips the same PSNR, 1 the same visibility
BAREST = BASE**POWER  # the mask where there is no texture
TYPICAL = 20.0  # mask of a clip of average texture (geometric mean over training clips)


@functools.cache
def wave_vectors(count: int, tile: int, lowest: float = LOWEST) -> tuple[tuple[int, int], ...]:
    """``count`` wave vectors (rows, columns) in cycles per tile, lowest frequency first, one of each pair k and -k, drawn at random.

    Raises:
        ValueError: a tile of this size has fewer.
    """
    found = _lattice(tile, lowest)
    if count > len(found):
        raise ValueError(f"mapping 'waves' with tiles of {tile} x {tile} holds {len(found)} bits, got {count}")
    return _directed(found[:count], "direction", tile)


def silent_vectors(count: int, tile: int) -> tuple[tuple[int, int], ...]:
    """Up to ``count`` wave vectors of the lattice beyond those of a mark with ``count`` waves: they respond to the picture only."""
    return _directed(_lattice(tile, LOWEST)[count : 2 * count], "silent", tile)


def _directed(vectors: list[tuple[int, int]], name: str, tile: int) -> tuple[tuple[int, int], ...]:
    """Wave vectors with random signs, so that the mark as a whole does not drift."""
    signs = (2 * torch.randint(2, (len(vectors),), generator=generator(20231029, name, tile), device="cpu") - 1).tolist()
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
    """Phases of the waves, in radians, ``[count]``: random, so that the waves do not add up to a peak."""
    return 2 * math.pi * torch.rand(count, generator=generator(20231029, "phase", tile), dtype=torch.float32, device="cpu")


def smooth(x: Tensor, size: int) -> Tensor:
    """Mean over a ``size x size`` window, edges repeated. Shape: ``[B, T, H, W]`` -> same."""
    n = size // 2
    flat = F.pad(x.flatten(0, 1)[:, None], (n, n, n, n), mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(flat, (1, size), 1), (size, 1), 1).view_as(x)


def deviation(y: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation in the window around each sample. Shape: ``[B, T, H, W]`` -> two of the same."""
    mean = smooth(y, size)
    return mean, ((smooth(y * y, size) - mean * mean).clamp(min=0) + 1e-2).sqrt()


def texture(y: Tensor) -> Tensor:
    """Local texture: the geometric mean of standard deviations in small windows. An edge in flat surroundings counts little.

    Shape: ``[B, T, H, W]``, luma in 8-bit levels -> same, in levels.
    """
    return smooth((deviation(y, FINE)[1] + 1).log(), SIZE).exp() - 1


def hidden(y: Tensor) -> Tensor:
    """Perceptual mask: the amplitude of a mark that a picture hides, up to a factor. Shape: ``[B, T, H, W]``, luma in levels -> same."""
    return (texture(y) + BASE) ** POWER


def luma(video: Tensor) -> Tensor:
    """``[B, T, 3, H, W]`` in [0, 1] -> ``[B, T, H, W]`` in 8-bit levels."""
    return 255 * color.luma(video)


def drawn(vectors: Sequence[tuple[int, int]], phases: Tensor, tile: int) -> Tensor:
    """Cosine and sine of waves over a tile, each of norm 1. Shape: ``[N]`` -> ``[2, N, tile tile]``."""
    k = torch.tensor(vectors, dtype=torch.float32, device="cpu").view(-1, 2)
    y, x = torch.meshgrid(torch.arange(tile, device="cpu") + 0.5, torch.arange(tile, device="cpu") + 0.5, indexing="ij")
    turn = 2 * math.pi / tile * (k[:, 0, None, None] * y + k[:, 1, None, None] * x) + phases[:, None, None]
    return torch.stack([turn.cos(), turn.sin()]).flatten(2) * (math.sqrt(2) / tile)


class Waves(nn.Module):
    """The waves of a model: cosine and sine of each over one tile, and their common carrier over the frames of the clip.

    Args:
        model: takes ``bits``, ``frames`` and ``tile``.
    """

    pairs: Tensor
    course: Tensor

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.tile = p = model.tile
        self.register_buffer("pairs", drawn(wave_vectors(model.bits, p), wave_phases(model.bits, p), p), persistent=False)  # [2, L, p p]
        at = 2 * math.pi * (torch.arange(model.frames, device="cpu") + 0.5) / PERIOD_FRAMES
        self.register_buffer("course", torch.stack([at.cos(), at.sin()]), persistent=False)  # [2, T]


PERIOD_FRAMES = 8
SHRINKAGE = 0.75  # shrinkage of the temporal correlations: larger is better except for swapped frames in a highly predictable picture


def on(tiles: Tensor, waves: Tensor) -> Tensor:
    """Projection of tiles onto the cosine and sine of each wave. Shape: ``[B, N, T, p p]``, ``[2, L, p p]`` -> ``[B, N, T, 2, L]``."""
    return (tiles @ waves.flatten(0, 1).mT).unflatten(3, waves.shape[:2])


class WaveEncoder(Waves):
    """Waves times a mask: ``residual = gain mask sum_j amount_j wave_j``, the same in all three colour channels.

    Embedding is informed, as in :class:`~revmark_ref.mapping.Spread`: the decoder's response to the unmarked clip is known, so bits that it opposes
    get larger amounts (water-filling). The gain gives a clip of average texture the PSNR of ``alpha``; in other clips the amplitude is
    ``(mask / TYPICAL)^SHARE`` times as large: smaller in flat clips, larger in textured ones.
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.log_amplitude = nn.Parameter(torch.zeros(model.bits))

    def volume(self, amount: Tensor, height: int, width: int) -> Tensor:
        """Sum of the waves, weighted by their signed amounts. Shape: ``[B, L] -> [B, T, H, W]``."""
        p = self.tile
        picture = torch.einsum("bl,slp->bsp", amount * self.log_amplitude.exp(), self.pairs)
        tile = torch.einsum("bsp,st->btp", picture, self.course).unflatten(2, (p, p))
        return tile.repeat(1, 1, -(-height // p), -(-width // p))[..., :height, :width]

    def scaled(self, shape: Tensor, mask: Tensor, alpha: float) -> Tensor:
        """A residual scaled to the strength ``alpha``. Shape: two ``[B, T, H, W]`` -> same, in levels."""
        level = mask.square().mean((1, 2, 3), keepdim=True).sqrt()
        target = 127.5 * alpha / math.sqrt(3 * 128 * 128) * ((level / TYPICAL) ** SHARE).clamp(0.25, 2.0)
        return shape * (target / shape.square().mean((1, 2, 3), keepdim=True).clamp(min=1e-12).sqrt())

    def forward(self, video: Tensor, message: Tensor, alpha: float, decoder: WaveDecoder) -> Tensor:
        """The residual in levels.

        Args:
            video: ``[B, T, 3, H, W]`` in [0, 1].
            message: ``[B, L]``, 0 or 1.
            alpha: the paper's strength, for 128 x 128.
            decoder: gives the response to the clip, which is treated as constant.

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


INFORMED = 3  # iterations: the response per unit of amount depends on the clip


def added(video: Tensor, residual: Tensor) -> Tensor:
    """A video plus a residual in 8-bit levels on all channels, clamped. Shape: ``[B, T, 3, H, W]``, ``[B, T, H, W]`` -> ``[B, T, 3, H, W]``."""
    return (video + residual[:, :, None] / 255).clamp(0, 1)


class WaveDecoder(Waves):
    """Matched filters on the whitened clip.

    Whitening subtracts the local mean and divides by the local standard deviation: it undoes the encoder's mask and weights each position by its
    noise. Each tile is then correlated with every wave; over time, the DCT coefficients of the response are combined with the weights that pass the
    mark's carrier at minimum output power (minimum-variance or Capon beamformer, doi:10.1109/PROC.1969.7278), which suppresses the components that
    the picture dominates, static content above all.
    """

    times: Tensor
    silent: Tensor

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        others = silent_vectors(model.bits, model.tile)
        self.register_buffer(
            "silent", drawn(others, torch.zeros(len(others), dtype=torch.float32, device="cpu"), model.tile), persistent=False
        )
        self.register_buffer("times", torch.from_numpy(dct_matrix(model.frames)).float(), persistent=False)  # [K, T]
        self.log_base = nn.Parameter(torch.tensor(math.log(3.0)))
        self.log_floor = nn.Parameter(torch.full((model.frames,), math.log(0.3)))
        self.log_weight = nn.Parameter(torch.zeros(model.bits))
        self.loudness = nn.Parameter(torch.tensor(LOUDNESS))

    def read(self, video: Tensor) -> Tensor:
        """Response for each bit, above 0 for a 1. Shape: ``[B, T, 3, H, W] -> [B, L]``."""
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
        """Inverse of the temporal covariance of the noise in each tile. Correlations are estimated over all tiles from waves that the mark does not
        use: with the mark's own waves, a mark whose frames were swapped would count as noise. Variances are estimated from the mark's own waves.

        Shape: ``[N, 2, K, L]``, ``[N, 2, K, S]`` -> ``[N, 2 K, 2 K]``.
        """
        loud = heard.square().mean(3).flatten(1)  # [N, 2 K]
        other = silence.detach().flatten(1, 2)
        other = other / other.square().mean(2, keepdim=True).sqrt().clamp(min=1e-6)
        together = SHRINKAGE * (other @ other.mT).mean(0) / max(1, other.shape[2])
        together = together + (1 - together.diagonal()).diag()
        width = loud.clamp(min=1e-12).sqrt()  # 0 where nothing changes, as in a clip that repeats one frame
        return torch.linalg.inv(width[:, :, None] * together * width[:, None] + self.log_floor.exp().repeat(2).diag())

    def _matched(self, heard: Tensor, whitening: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
        """Response for each bit with minimum-variance weights, and the response that a mark of unit strength would give.

        Args:
            heard: ``[N, 2, K, L]``.
            whitening: ``[N, 2 K, 2 K]``.
            shown: ``[T]``, the frame of the mark that each frame shows.

        Returns:
            ``[L]`` and a scalar, which is also the noise variance of the first.
        """
        share = (self.course[:, shown] @ self.times.mT).flatten()  # [2 K]
        weight = whitening @ share  # [N, 2 K]
        return torch.einsum("nd,ndl->l", weight, heard.flatten(1, 2)), (weight @ share).sum()

    @torch.no_grad()
    def _frames_shown(self, still: Tensor, heard: Tensor, whitening: Tensor) -> Tensor:
        """Which frame of the mark each frame shows: its own, unless frames are repeated. Of equal neighbours one is the original: the one that gives
        the mark the most power is chosen.

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
    """Detector of marked frames that needs no training.

    In the spectrum of a marked frame, the phase of bit j's point is known up to the bit's sign and a phase shift by the time of the frame, which is
    common to all bits. Squaring removes the signs, so the squares add up coherently; without a mark their phases are random.

    Args:
        decoder: whose waves and whitening are used.
    """

    def __init__(self, decoder: WaveDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, frames: Tensor) -> Tensor:
        """Logits, above 0 for a mark; for an unmarked frame this has a probability of exp(-THRESHOLD^2).

        Shape: ``[N, 3, H, W] -> [N]``.
        """
        heard = on(self.decoder.tiles(frames[None]), self.decoder.pairs)[0]  # [tiles, N, 2, L]
        points = torch.complex(heard[:, :, 0], -heard[:, :, 1])  # [tiles, N, L]
        weight = 1 / (self.decoder.log_floor.exp()[0] + points.abs().square().mean(2, keepdim=True))
        noise = (weight * points).abs().square().sum(0)
        squares = ((weight * points).sum(0) / noise.clamp(min=1e-12).sqrt()).square()  # [N, L]
        return squares.sum(1).abs() / squares.abs().square().sum(1).clamp(min=1e-12).sqrt() - THRESHOLD


THRESHOLD = 2.1  # false positives: one unmarked frame in eighty

STILL = 0.01  # mean difference in 8-bit levels below which frames are taken as equal; the mark alone changes more from frame to frame


def _stills(y: Tensor) -> Tensor:
    """Frames that equal the one before. Shape: ``[B, T, H, W]`` -> ``[B, T]``."""
    return F.pad((y[:, 1:] - y[:, :-1]).abs().mean((2, 3)) < STILL, (1, 0), value=False)


LOUDNESS = 4.0  # initial logit per unit of a tile's mean correlation
