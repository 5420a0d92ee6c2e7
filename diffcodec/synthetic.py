"""Six synthetic clips, made by code: the same samples on every machine, which :mod:`diffcodec.clipsets` checks by their hash.

They are made in float64 from elementary functions and a hash of integers, and rounded to 8 bits, so that the last place of a library's sine does not
matter. Random number generators of libraries, whose sequences may change, are not used.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

FRAMES, HEIGHT, WIDTH = 64, 144, 176
_CUT = 24  # frame of the scene cut: in the middle of the window that starts at frame 20

# rows of 5 x 7 pixels, the left one in bit 4
_GLYPHS = {
    "0": (14, 17, 19, 21, 25, 17, 14), "1": (4, 12, 4, 4, 4, 4, 14), "2": (14, 17, 1, 2, 4, 8, 31), "3": (31, 2, 4, 2, 1, 17, 14),
    "4": (2, 6, 10, 18, 31, 2, 2), "5": (31, 16, 30, 1, 1, 17, 14), "6": (6, 8, 16, 30, 17, 17, 14), "7": (31, 1, 2, 4, 8, 8, 8),
    "8": (14, 17, 17, 14, 17, 17, 14), "9": (14, 17, 17, 15, 1, 2, 12), "A": (14, 17, 17, 17, 31, 17, 17), "C": (14, 17, 16, 16, 16, 17, 14),
    "D": (28, 18, 17, 17, 17, 18, 28), "E": (31, 16, 16, 30, 16, 16, 31), "F": (31, 16, 16, 30, 16, 16, 16), " ": (0, 0, 0, 0, 0, 0, 0),
}  # fmt: skip


def gratings() -> Tensor:
    """Four moving gratings, .02 to .23 cycles a pixel, each in another colour and direction, at whole and broken speeds."""
    t, y, x = _grid()
    out = torch.zeros(FRAMES, 3, HEIGHT, WIDTH, dtype=torch.float64, device="cpu")
    for i, (f, angle, speed) in enumerate(((0.021, 0.3, 0.7), (0.06, 1.4, 2.0), (0.117, 2.2, 0.33), (0.23, 2.9, 0.5))):
        inside = ((y >= HEIGHT // 2) == (i // 2 > 0)) & ((x >= WIDTH // 2) == (i % 2 > 0))
        phase = 2 * math.pi * f * (x * math.cos(angle) + y * math.sin(angle) - speed * t)
        for c in range(3):
            wave = 0.4917 + (0.2 + 0.1 * ((c + i) % 3)) * torch.sin(phase + 0.8123 * c + 0.317)
            out[:, c] += inside * wave
    return out


def plate() -> Tensor:
    """A zone plate, all frequencies up to .3 cycles a pixel, that grows by half a percent a frame."""
    t, y, x = _grid()
    zoom = 1 / (1 + 0.005 * t)
    r2 = ((y - 71.3) ** 2 + (x - 87.7) ** 2) * zoom**2
    rings = torch.cos(math.pi * 0.0027 * r2 + 0.123)
    return torch.stack([0.5031 + s * rings for s in (0.42, 0.36, 0.27)], 1)


def text() -> Tensor:
    """Text on a plain ground: lines that scroll up a pixel a frame, a ticker that runs at two, and a still line."""
    lines = ["".join(list(_GLYPHS)[int(v)] for v in _hash(torch.arange(40, device="cpu") + 100 * n) * len(_GLYPHS)) for n in range(24)]
    page = torch.cat([_line(words) for words in lines])  # [24 * 10, 240]
    wide = torch.cat([_line(words) for words in lines[:6]], 1)
    ground, ink = (
        torch.tensor(c, dtype=torch.float64, device="cpu")[:, None, None] for c in ((0.081, 0.103, 0.221), (0.898, 0.882, 0.801))
    )
    frames = []
    for t in range(FRAMES):
        mask = page[t : t + HEIGHT, :WIDTH].clone()
        mask[:16] = mask[-16:] = 0
        mask[3:13] = page[:10, :WIDTH]
        mask[-13:-3] = wide[:, 2 * t : 2 * t + WIDTH]
        frames.append(ground + mask * (ink - ground))
    return torch.stack(frames)


def film() -> Tensor:
    """A still picture under film grain that is new in every frame, and a flicker of the light."""
    t, y, x = _grid()
    picture = _colours(y[0], x[0], seed=1)
    cells = torch.arange(FRAMES * HEIGHT * WIDTH, device="cpu").view(FRAMES, HEIGHT, WIDTH)
    fine = _hash(cells + 7919) + _hash(cells + 104729) - 1
    grain = fine + fine.roll(1, 1) + fine.roll(1, 2) + fine.roll((1, 1), (1, 2))  # grains of two pixels
    light = 1 + 0.02 * torch.sin(2.1 * t + 0.4)
    return picture * light[:, None] + 0.035 * grain[:, None]


def pan() -> Tensor:
    """A camera pan of .75 and .25 pixels a frame over a texture, and a textured disc that crosses it."""
    t, y, x = _grid()
    back = _colours(y + 0.25 * t, x + 0.75 * t, seed=2)
    front = _colours(y - 0.5 * t, x + 1.5 * t, seed=3)
    disc = ((y - 72.2) ** 2 + (x - 120.4 + 1.5 * t) ** 2 < 30.1**2)[:, None]
    return torch.where(disc, front, back)


def cut() -> Tensor:
    """Two textures that move apart, one after the other: a scene cut."""
    t, y, x = _grid()
    first, second = slice(_CUT), slice(_CUT, None)
    return torch.cat([_colours((y + 0.5 * t)[first], x[first], seed=4), _colours(y[second], (x - 1.25 * t)[second], seed=5)])


CLIPS: dict[str, Callable[[], Tensor]] = {"gratings": gratings, "plate": plate, "text": text, "film": film, "pan": pan, "cut": cut}


def frames(name: str) -> Tensor:
    """A clip as 8-bit values. Shape: ``[64, 3, 144, 176]`` uint8."""
    return torch.floor(255 * CLIPS[name]().clamp(0, 1) + 0.5).to(torch.uint8)  # floor: the same at a half on every machine


def _grid() -> tuple[Tensor, Tensor, Tensor]:
    """Frame, row and column. Shape: ``[T, 1, 1]``, ``[T, H, W]``, ``[T, H, W]`` float64."""
    t, y, x = (torch.arange(n, dtype=torch.float64, device="cpu") for n in (FRAMES, HEIGHT, WIDTH))
    return t[:, None, None], y[None, :, None].expand(FRAMES, -1, WIDTH), x.expand(FRAMES, HEIGHT, -1)


def _hash(n: Tensor) -> Tensor:
    """White noise, uniform in [0, 1), of integers (lowbias32, Wellons 2018). Shape: any int64 -> same, float64."""
    low = 0xFFFFFFFF
    n = n & low
    n = ((n ^ (n >> 16)) * 0x7FEB352D) & low
    n = ((n ^ (n >> 15)) * 0x846CA68B) & low
    return (n ^ (n >> 16)).double() / 2**32


def _colours(y: Tensor, x: Tensor, seed: int) -> Tensor:
    """A texture in weak colours at any place. Shape: ``[..., H, W] -> [..., 3, H, W]``."""
    if y.dim() > 2:  # frame by frame: temporaries stay in the cache
        return torch.stack([_colours(a, b, seed) for a, b in zip(y, x)])
    grey, warm, cold = (_texture(y, x, 3 * seed + i, octaves) for i, octaves in enumerate((6, 3, 3)))
    return torch.stack([0.4519 + 0.5 * grey + s * warm + r * cold for s, r in ((0.2, 0.0), (-0.05, 0.05), (-0.1, -0.2))], -3)


def _texture(y: Tensor, x: Tensor, seed: int, octaves: int) -> Tensor:
    """Value noise whose amplitude falls with frequency, as in photographs. Shape: any -> same."""
    out = torch.zeros_like(y)
    for k in range(octaves):
        size = 64 / 2**k
        iy, ix = torch.floor(y / size), torch.floor(x / size)
        fy, fx = (v * v * (3 - 2 * v) for v in (y / size - iy, x / size - ix))
        rows, columns = (torch.arange(int(v.min()), int(v.max()) + 2, device="cpu") for v in (iy, ix))
        lattice = _hash(rows[:, None] * 7477 + columns * 15331 + 1000003 * (seed * 8 + k)) - 0.5
        at = (iy - rows[0]).long() * len(columns) + (ix - columns[0]).long()
        near, far = (_between(lattice, start, fx) for start in (at, at + len(columns)))
        out += (near + fy * (far - near)) * (size / 64) ** 0.75
    return out


def _between(lattice: Tensor, at: Tensor, part: Tensor) -> Tensor:
    """Interpolate the value at an index and the one after it. Shape: ``[N, M]``, any, same -> same."""
    first = lattice.take(at)
    return first + part * (lattice.take(at + 1) - first)


def _line(words: str) -> Tensor:
    """Shape: ``[10, 6 n]``."""
    bits = torch.tensor([_GLYPHS[c] for c in words], dtype=torch.int64, device="cpu")  # [n, 7]
    pixels = (bits[:, :, None] >> torch.arange(4, -1, -1, device="cpu")) & 1  # [n, 7, 5]
    return torch.nn.functional.pad(pixels.double(), (0, 1, 1, 2)).transpose(0, 1).flatten(1)
