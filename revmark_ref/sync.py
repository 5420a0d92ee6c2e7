"""Synchronisation: finding the mark of a file after changes of its geometry and speed.

1. Frames are whitened and demodulated: multiplied by the temporal carrier of the waves and summed over windows of two periods (lock-in detection).
   Static content cancels; each window leaves a complex picture in which wave j is a plane wave.
2. Windows are summed with weights that keep what rotates at one rate and suppress everything else they have in common (minimum-variance or Capon
   beamformer, doi:10.1109/PROC.1969.7278, over time), which removes the picture, since it moves differently.
3. In the spectrum of such sums the mark is a set of points on a lattice, whatever the message. The map from cells to pixels (scale of each axis,
   turn) with the most power at the lattice points is searched.
4. At those points each window gives a vector of 240 complex numbers. Windows differ in phase (cuts, speed, start) and in how well the mark survived;
   they are combined in several ways. The pilots determine the orientation and offset of the marked frame, and the phase.
5. The signs of the other waves are the coded payload, which is accepted only if its check holds (:mod:`revmark_ref.framing`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .filemark import CELLS, PERIOD, TILE, VECTORS, Mark
from .waves import SIZE, deviation

ROWS = 192  # pixels of the short side at which frames are analysed: 1.5 per cell
WHITENING = 3.0  # levels added to the deviation when whitening
GROUP = 64  # windows that are searched together: 28 s
NEAR, FAR = (6.5, math.log(1.75)), (11.5, math.log(2.1))  # ranges of the turn in degrees and of the log scale of an axis, either way
ASPECTS = math.log(1.5)
# orientations: quarter turns, mirrored or not; each maps wave vectors of the marked frame to those of the frame that is read
ORIENTATIONS = [np.linalg.matrix_power(np.array([[0, -1], [1, 0]]), q) @ np.diag([1, m]) for m in (1, -1) for q in range(4)]
_NUMBER = {tuple(v): i for i, v in enumerate(VECTORS.tolist())}
# for each orientation, the index of each wave's response among those to the lattice
_PLACES = [np.array([_NUMBER[tuple(v)] for v in (VECTORS @ o.T).tolist()]) for o in ORIENTATIONS]
_SQUARES = (VECTORS**2).sum(1)
_NEAR = np.abs(_SQUARES[:, None] - _SQUARES) <= 6
_RINGS = _NEAR / _NEAR.sum(1, keepdims=True)


def rings(power: np.ndarray) -> np.ndarray:
    """Mean over waves of about the same frequency. Shape: ``[J]`` -> same."""
    return _RINGS @ power  # type: ignore[no-any-return]


class Windows:
    """Demodulates frames over windows of two periods that begin at every period."""

    def __init__(self) -> None:
        self.open: dict[int, _Window] = {}

    def add(self, y: Tensor, seconds: float) -> Iterator[tuple[int, Tensor]]:
        """Add a whitened frame ``[H, W]``; yields the windows that are finished by then: the period that each begins with, and complex ``[H, W]``."""
        at = seconds / PERIOD
        last = math.floor(at)
        for number in [n for n in self.open if n < last - 1]:
            yield from ((number, w) for w in self.open.pop(number).end())
        for number in (last - 1, last):
            if number not in self.open:
                self.open[number] = _Window(y)
            self.open[number].add(y, at, math.sin(math.pi * (at - number) / 2) ** 2)

    def end(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the windows that are still open."""
        for number in sorted(self.open):
            yield from ((number, w) for w in self.open.pop(number).end())


class _Window:
    """Weighted sums of a window: frames times the carrier, frames, the carrier, and the weights."""

    def __init__(self, like: Tensor) -> None:
        self.real, self.imaginary, self.plain = (torch.zeros_like(like) for _ in range(3))
        self.total, self.turned, self.frames = 0.0, 0j, 0

    def add(self, y: Tensor, at: float, weight: float) -> None:
        turn = complex(math.cos(2 * math.pi * at), math.sin(2 * math.pi * at))
        self.real.add_(y, alpha=weight * turn.real)
        self.imaginary.add_(y, alpha=weight * turn.imag)
        self.plain.add_(y, alpha=weight)
        self.total += weight
        self.turned += weight * turn
        self.frames += 1

    def end(self) -> Iterator[Tensor]:
        """Yield the window without its static content; nothing if it has too few frames."""
        if self.frames < 3 or self.total <= 0:
            return
        rest = self.turned / self.total
        self.real.sub_(self.plain, alpha=rest.real)
        self.imaginary.sub_(self.plain, alpha=rest.imag)
        yield torch.complex(self.real, self.imaginary) / math.sqrt(self.total)


def whitened(y: Tensor) -> Tensor:
    """A frame minus its local mean, divided by its local standard deviation. Shape: ``[H, W]`` in levels -> same."""
    mean, width = deviation(y[None, None], _odd(SIZE * min(y.shape) / CELLS))
    return ((y - mean) / (width + WHITENING))[0, 0].clamp(-3, 3)


def _odd(x: float) -> int:
    return max(3, 2 * int(x // 2) + 1)


@dataclass
class Place:
    """A geometry at which the lattice may lie.

    Attributes:
        map: ``[2, 2]``, from cycles per cell to cycles per pixel, up to mirrors and quarter turns.
        score: mean power at the lattice points, in standard deviations of chance.
    """

    map: np.ndarray
    score: float


def covariance(windows: Tensor) -> Tensor:
    """Covariance of windows over their pixels, with diagonal loading. Shape: complex ``[C, H, W]`` -> ``[C, C]``."""
    flat = windows.flatten(1)
    r = flat @ flat.conj().T / flat.shape[1]
    level = r.diagonal().real.mean().clamp(min=1e-12)
    return r + LOADING * level * torch.eye(len(r), dtype=torch.float32, device="cpu")


LOADING = 0.1  # of the mean power: the covariance contains the mark, too, which must not be suppressed if its rate is slightly off


def beams(covariance: Tensor, rates: Tensor) -> Tensor:
    """Minimum-variance weights of windows that pass what rotates at a rate, in cycles per window. Shape: ``[R]`` -> ``[R, C]``."""
    turns = torch.outer(rates, torch.arange(len(covariance), dtype=rates.dtype, device="cpu"))
    steering = torch.polar(torch.ones_like(turns), 2 * math.pi * turns).to(covariance.dtype)
    return torch.linalg.solve(covariance, steering.T).T.conj()  # type: ignore[no-any-return]


class Spectrum:
    """Power spectrum of windows, normalised by the power at neighbouring frequencies.

    Args:
        windows: ``[C, H, W]``, complex.
        together: consecutive windows summed before the power is taken, at three rates in a range of 1 / together cycles per window.
    """

    def __init__(self, windows: Tensor, together: int) -> None:
        c, h, w = windows.shape
        self.h, self.w = _fast(2 * h), _fast(2 * w)
        total = torch.zeros(self.h, self.w, dtype=torch.float32, device="cpu")
        n = min(together, c)
        for first in sorted({*range(0, c - n + 1, max(1, n // 2)), c - n}):
            part = windows[first : first + n]
            for picture in torch.einsum(
                "rc,chw->rhw", beams(covariance(part), torch.tensor([-0.5, 0.0, 0.5], dtype=torch.float32, device="cpu") / n), part
            ):
                spectrum = torch.fft.fft2(picture, s=(self.h, self.w))
                power = spectrum.real.square() + spectrum.imag.square()
                total += power / _around(power).clamp(min=1e-12)
        self.power = (total / _around(total).clamp(min=1e-12)).numpy()  # about 1 without a mark, 0 for black frames
        self.spread = max(1e-3, float(np.minimum(self.power, CAP).std()))  # of chance: windows overlap, few are independent
        coarse = torch.from_numpy(self.power)[None, None]
        self.coarse = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(coarse, (1, 1, 1, 1), mode="circular"), 3, 1)[0, 0].numpy()

    def at(self, y: np.ndarray, x: np.ndarray, coarse: bool = False) -> np.ndarray:
        """Power at frequencies in cycles per pixel; 1, the value without a mark, beyond the Nyquist frequency. Shape: two ``[...]`` -> ``[...]``."""
        inside = (np.abs(y) < 0.49) & (np.abs(x) < 0.49)
        y, x = y * self.h, x * self.w
        if coarse:
            out = self._take(self.coarse, np.rint(y), np.rint(x))
        else:
            y0, x0 = np.floor(y), np.floor(x)
            fy, fx = y - y0, x - x0
            above, below = ((1 - fx) * self._take(self.power, v, x0) + fx * self._take(self.power, v, x0 + 1) for v in (y0, y0 + 1))
            out = (1 - fy) * above + fy * below
        return np.where(inside, np.minimum(out, CAP), 1.0)

    def _take(self, plane: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return plane.take(y.astype(np.int32) % self.h * self.w + x.astype(np.int32) % self.w)  # type: ignore[no-any-return]

    def score(self, maps: np.ndarray, vectors: np.ndarray, coarse: bool = False) -> np.ndarray:
        """Mean power at the lattice points minus 1, in standard deviations of chance. Shape: ``[N, 2, 2]`` -> ``[N]``."""
        out = np.empty(len(maps))
        for first in range(0, len(maps), 1024):
            part = maps[first : first + 1024]
            y, x = (part.reshape(-1, 2) @ vectors.T).reshape(len(part), 2, -1).swapaxes(0, 1)  # [N, L] each
            out[first : first + 1024] = self.at(y, x, coarse).mean(1)
        return (out - 1) * math.sqrt(len(vectors)) / self.spread


CAP = 12.0  # limit of the normalised power at one frequency, so that a periodic structure in the picture is not taken for a mark


def _around(power: Tensor) -> Tensor:
    """Mean power of the frequencies around each. Shape: ``[H, W]`` -> same."""
    n = AROUND
    x = torch.nn.functional.pad(power[None, None], (n, n, n, n), mode="circular")
    for size in ((1, 2 * n + 1), (2 * n + 1, 1)):
        x = torch.nn.functional.avg_pool2d(x, size, 1)
    return x[0, 0]


AROUND = 14


def _fast(n: int) -> int:
    """The next size whose prime factors are 2, 3 and 5, for a fast Fourier transform."""
    while True:
        m = n
        for p in (2, 3, 5):
            while m % p == 0:
                m //= p
        if m == 1:
            return n
        n += 1


def search(spectrum: Spectrum, cell: float, far: bool = False, best: int = 6) -> list[Place]:
    """Geometries with the most power at the lattice points, best first.

    Args:
        spectrum: of a group of windows.
        cell: size of a cell in pixels if the frame is uncropped.
        far: those in the range ``FAR`` that are not in ``NEAR``, rather than those in ``NEAR``.
        best: maximum number of geometries returned.
    """
    k = VECTORS / TILE
    most_turned, most_scaled = FAR if far else NEAR
    steps = np.arange(-most_scaled, most_scaled + 1e-9, COARSE)
    tall, wide = (a.ravel() for a in np.meshgrid(steps, steps, indexing="ij"))
    similar = np.abs(tall - wide) < ASPECTS
    searched = far & (np.maximum(np.abs(tall), np.abs(wide)) <= NEAR[1])
    found: list[tuple[float, np.ndarray]] = []
    for degrees in np.arange(-most_turned, most_turned + 0.1, 1.0):
        keep = similar & ~(searched & (abs(degrees) <= NEAR[0]))
        scale = np.exp(-np.stack([tall[keep], wide[keep]], 1)) / cell  # [S, 2]
        maps = _turn(math.radians(degrees)) @ (scale[:, :, None] * np.eye(2))
        scores = spectrum.score(maps, k, coarse=True)
        found += [(scores[i], maps[i]) for i in np.argsort(-scores)[:4]]
    found.sort(key=lambda f: -f[0])
    places: list[Place] = []
    for _, start in found[: 3 * best]:
        map_, score = _climb(spectrum, start, k)
        if all(np.abs(map_ - p.map).max() > 0.004 * np.abs(map_).max() for p in places):
            places.append(Place(map_, score))
    return sorted(places, key=lambda p: -p.score)[:best]


COARSE = 0.025


def _turn(angle: float) -> np.ndarray:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _climb(spectrum: Spectrum, start: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, float]:
    """The best geometry near a given one, by hill climbing in scale, aspect ratio and turn with decreasing steps."""
    best = start
    score = float(spectrum.score(best[None], k)[0])
    for step in (0.02, 0.01, 0.005, 0.0025, 0.00125):
        while True:
            tries = [
                _turn(a * step) @ np.diag(np.exp([b * step, c * step])) @ best for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)
            ]
            scores = spectrum.score(np.stack(tries), k)
            i = int(scores.argmax())
            if not scores[i] > score + 1e-9:
                break
            best, score = tries[i], float(scores[i])
    return best, score


def responses(windows: Tensor, place: Place) -> np.ndarray:
    """Response of each window to each wave under a geometry. Shape: ``[C, H, W]`` -> complex ``[C, J]``."""
    h, w = windows.shape[1:]
    q = 2 * math.pi * torch.from_numpy(VECTORS / TILE @ place.map.T)  # [J, 2], radians per pixel
    y = torch.arange(h, dtype=torch.float64, device="cpu") + 0.5 - h / 2
    x = torch.arange(w, dtype=torch.float64, device="cpu") + 0.5 - w / 2
    rows = torch.polar(torch.ones((), dtype=torch.float32, device="cpu").double(), -y[:, None] * q[:, 0]).to(windows.dtype)  # [H, J]
    columns = torch.polar(torch.ones((), dtype=torch.float32, device="cpu").double(), -x[:, None] * q[:, 1]).to(windows.dtype)  # [W, J]
    return torch.stack([((window @ columns) * rows).sum(0) for window in windows]).numpy()  # type: ignore[no-any-return]


def combined(v: np.ndarray, r: Tensor) -> list[np.ndarray]:
    """Candidate sums of the windows, a list of ``[J]``: at the nominal speed and at speeds that differ by up to ``FASTEST`` (:func:`beams`), and with
    phases and weights estimated from the windows themselves (first right singular vector of the whitened windows), which cuts do not disturb. The sum
    at nominal speed and the estimated one are also taken without the covariance, which is unreliable if the picture flickers. The pilots decide
    which sum is used.

    Args:
        v: response of each window, ``[C, J]``.
        r: covariance of the windows, ``[C, C]``.
    """
    each_way = math.ceil(2 * FASTEST * len(v))  # rates differ by half a cycle over all windows
    rates = torch.arange(-each_way, each_way + 1, dtype=torch.float64, device="cpu") / (2 * len(v))
    turned = beams(r.to(torch.complex128), rates).resolve_conj().numpy() @ v  # [R, J]
    white = np.linalg.solve(np.linalg.cholesky(r.numpy()), v)
    plain = v / np.sqrt((np.abs(v) ** 2).mean(1, keepdims=True)).clip(1e-12)
    return [*turned, _common(white), plain.sum(0), _common(plain)]


def _common(v: np.ndarray) -> np.ndarray:
    """What the rows have in common, up to a phase and weight of each (first singular vector). Shape: ``[C, J] -> [J]``."""
    _, s, right = np.linalg.svd(v, full_matrices=False)
    return s[0] * right[0]  # type: ignore[no-any-return]


FASTEST = 0.06  # maximum relative change of a video's speed


@dataclass(frozen=True)
class Pose:
    """How the marked frame lies in the one that is read: index into ``ORIENTATIONS``, and whether time runs backwards."""

    orientation: int
    backwards: bool

    def of(self, x: np.ndarray) -> np.ndarray:
        """Responses to the lattice ``[..., J]`` in the order of the marked frame's waves; if backwards, the conjugates at the opposite points."""
        if self.backwards:
            return x[..., _PLACES[(self.orientation + 2) % 4 + self.orientation // 4 * 4]].conj()
        return x[..., _PLACES[self.orientation]]


POSES = [Pose(o, b) for o in range(len(ORIENTATIONS)) for b in (False, True)]


@dataclass
class Aligned:
    """Responses corrected for the offset of the frame and the phase in time.

    Attributes:
        z: ``[J]``; the real part has the sign of the wave.
        pose: how the frame lies.
        offset: ``[2]`` in cells.
        pilots: how well the pilots agree: mean cosine of their phases, at most 1. Each counts alike: a few strong ones, such as the harmonics of a
            moving grating, always agree after the fit of offset and phase.
        straight: how close to the real axis the other waves lie: mean cosine of twice their phases; 0 without a mark, at most 1.
        likelihood: log-likelihood, up to a constant.
    """

    z: np.ndarray
    pose: Pose
    offset: np.ndarray
    pilots: float
    straight: float
    likelihood: float


def align(x: np.ndarray, mark: Mark, best: int = 3, tried: int = 24) -> list[Aligned]:
    """Poses and offsets that fit the pilots and make the other responses real, most likely first.

    Args:
        x: combined response of the windows, ``[J]``.
        mark: the mark of the key.
        best: maximum number of alignments returned.
        tried: number of candidates from the pilots that are refined.
    """
    n = OFFSETS
    power = rings(np.abs(x) ** 2)  # all waves were embedded equally strong: weight by amplitude over noise power
    unit = x / power * np.sqrt(np.mean(power))
    unit /= np.sqrt(np.mean(np.abs(unit) ** 2))
    a, b = VECTORS[mark.pilots].T % n
    peaks: list[tuple[float, Pose, np.ndarray, float]] = []
    for pose in POSES:
        grid = np.zeros((n, n), dtype=np.complex64)
        grid[a, b] = (pose.of(unit) * np.exp(-1j * mark.phases))[mark.pilots]
        # sum_j unit_j exp(-2 pi i k_j . d / TILE) at d = TILE / n (0, 1, ...)
        surface = np.fft.fft2(grid)
        size = np.abs(surface)
        for _ in range(4):
            at = np.unravel_index(int(size.argmax()), size.shape)
            peaks.append((float(size[at]), pose, np.array(at) * TILE / n, float(np.angle(surface[at]))))
            near = [(np.arange(-3, 4) + i) % n for i in at]
            size[np.ix_(*near)] = 0
    peaks.sort(key=lambda p: -p[0])
    out = [_polish(pose.of(unit) * np.exp(-1j * mark.phases), mark, pose, offset, phase) for _, pose, offset, phase in peaks[:tried]]
    return sorted(out, key=lambda a: -a.likelihood)[:best]


OFFSETS = 96  # offsets tried along each axis of a tile


def _polish(unit: np.ndarray, mark: Mark, pose: Pose, offset: np.ndarray, phase: float) -> Aligned:
    """Refine offset and phase to minimise the imaginary parts; data waves enter by their squares, which do not depend on the sign."""
    pilot = np.zeros(len(unit), dtype=bool)
    pilot[mark.pilots] = True
    design = np.concatenate([2 * math.pi / TILE * VECTORS, np.ones((len(unit), 1))], 1)
    for _ in range(4):
        z = unit * np.exp(-1j * (design[:, :2] @ offset + phase))
        error = np.where(pilot, np.angle(z), np.angle(z * z) / 2)
        weight = (np.abs(z) * np.where(pilot, 1.0, 0.5)) ** 2
        step = np.linalg.solve(design.T @ (design * weight[:, None]), design.T @ (error * weight))
        offset, phase = offset + np.clip(step[:2], -0.3, 0.3), phase + float(np.clip(step[2], -0.5, 0.5))
    z = unit * np.exp(-1j * (design[:, :2] @ offset + phase))
    agree, straight = float(np.cos(np.angle(z[pilot])).mean()), float(np.cos(2 * np.angle(z[~pilot])).mean())
    # log-likelihood ratio of a wave of amplitude m in noise of deviation d: s = m re(z) / d^2 if its sign is known, else log cosh s
    level = np.abs(z.real).mean()
    noise = max(1e-3, float((z.imag**2).mean()))
    said = level * z.real / noise
    likelihood = said[pilot].sum() + (np.logaddexp(said, -said) - math.log(2))[~pilot].sum() - (z.imag**2).sum() / (2 * noise)
    return Aligned(z, pose, offset, agree, straight, float(likelihood - len(z) / 2 * math.log(noise)))
