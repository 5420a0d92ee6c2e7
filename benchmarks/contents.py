"""Synthetic films of many kinds: what people put into a video besides footage. Used by ``benchmarks.readable``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diffcodec.files import replacing

HEIGHT, WIDTH, FPS, SECONDS = 360, 640, 25, 4
FRAMES = FPS * SECONDS
Array = np.ndarray
Film = Callable[[], Iterator[Array]]  # frames [HEIGHT, WIDTH, 3] of 0..255, float or integer

CONTENTS: dict[str, Film] = {}


def content(name: str) -> Callable[[Callable[[int], Array]], Callable[[int], Array]]:
    """Registers a function of the frame number under a name. A grey frame ``[H, W]`` is repeated over the channels."""

    def register(frame: Callable[[int], Array]) -> Callable[[int], Array]:
        CONTENTS[name] = lambda: (_colour(frame(i)) for i in range(FRAMES))
        return frame

    return register


def write(name: str, path: Path) -> None:
    """A film as a file: libx264, CRF 10, as a good source has."""
    import av

    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as writer:
        stream = writer.add_stream("libx264", rate=FPS, options={"crf": "10", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in CONTENTS[name]():
            writer.mux(stream.encode(av.VideoFrame.from_ndarray(np.clip(frame + 0.5, 0, 255).astype(np.uint8), format="rgb24")))
        writer.mux(stream.encode(None))


def _colour(frame: Array) -> Array:
    return frame if frame.ndim == 3 else np.repeat(frame[:, :, None], 3, axis=2)


def _rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _photo(seed: int, height: int = HEIGHT, width: int = WIDTH, fall: float = 1.1) -> Array:
    """A still whose amplitude spectrum falls with frequency as in photographs, with edges. ``[H, W, 3]``."""
    rng = _rng(1, seed)
    f = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.fftfreq(width) * width)
    falls = (f + 1.0) ** -fall
    planes = np.fft.ifft2(np.fft.fft2(rng.normal(size=(4, height, width))) * falls).real
    planes /= planes.std(axis=(1, 2), keepdims=True)
    light = planes[0] + 1.2 * np.sign(planes[3]) * (np.abs(planes[3]) > 0.4)
    return np.clip(120 + 34 * light[:, :, None] + 16 * planes[:3].transpose(1, 2, 0), 0, 255)


def _drawn(background: object, *steps: Callable[[ImageDraw.ImageDraw], None]) -> Array:
    """A frame that is drawn in steps on a colour or a frame."""
    if isinstance(background, np.ndarray):
        image = Image.fromarray(np.clip(background, 0, 255).astype(np.uint8))
    else:
        image = Image.new("RGB", (WIDTH, HEIGHT), background)  # type: ignore[arg-type]
    for step in steps:
        step(ImageDraw.Draw(image))
    return np.asarray(image, dtype=np.float32)


def _words(rng: np.random.Generator, letters: int) -> str:
    out = "".join(rng.choice(list("etaoinshrdlucmfwypvbgk  "), letters))
    return " ".join(out.split())


def _page(seed: int, ink: object, paper: object, size: int = 22, lines: int = 8, left: int = 60, letters: int = 40) -> Array:
    rng = _rng(2, seed)
    font = ImageFont.load_default(size)

    def draw(d: ImageDraw.ImageDraw) -> None:
        d.text((left, 24), _words(rng, letters // 2).title(), fill=ink, font=ImageFont.load_default(2 * size))
        for i in range(lines):
            d.text((left, 40 + 2 * size + i * int(1.4 * size)), _words(rng, letters), fill=ink, font=font)

    return _drawn(paper, draw)


def _cached(make: Callable[[int], Array]) -> Callable[[int], Array]:
    kept: dict[int, Array] = {}

    def get(n: int) -> Array:
        if n not in kept:
            kept.clear()
            kept[n] = make(n)
        return kept[n]

    return get


_photos, _wide = _cached(_photo), _cached(lambda n: _photo(n, HEIGHT + 160, WIDTH + 160))


def _pan(i: int, seed: int = 1) -> Array:
    y, x = i // 3, i // 2
    return _wide(seed)[20 + y : 20 + y + HEIGHT, 20 + x : 20 + x + WIDTH]


def _still(frame: Array) -> Callable[[int], Array]:
    return lambda _: frame


_Y, _X = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)


# --- still ---------------------------------------------------------------------------------------------------------------------

_BARS = np.array([(191, 191, 191), (191, 191, 0), (0, 191, 191), (0, 191, 0), (191, 0, 191), (191, 0, 0), (0, 0, 191)], dtype=np.float32)
content("colour bars")(_still(_BARS[(_X * 7 / WIDTH).astype(int)]))
content("black")(_still(np.zeros((HEIGHT, WIDTH))))
content("grey")(_still(np.full((HEIGHT, WIDTH), 128.0)))
content("white")(_still(np.full((HEIGHT, WIDTH), 255.0)))
content("dark blue")(_still(np.broadcast_to(np.array([10.0, 20.0, 70.0]), (HEIGHT, WIDTH, 3))))
content("gradient")(_still(30 + 190 * _X / WIDTH))
content("checkerboard")(_still(40 + 170 * (((_X // 20) + (_Y // 20)) % 2)))
content("test card")(_still(np.where(np.hypot(_X - 320, _Y - 180) < 150, 60 + 130 * ((_X // (4 + _Y // 60)) % 2), 128)))
content("still photograph")(lambda _: _photos(0))
content("still of noise")(_still(128 + 40 * _rng(3).normal(size=(HEIGHT, WIDTH))))
content("text slide")(_still(_page(0, "black", "white")))
content("title on black")(_still(_page(1, "white", "black", 30, 1)))


# --- text and screens ----------------------------------------------------------------------------------------------------------

_slides, _blue = _cached(lambda n: _page(10 + n, "black", "white")), _cached(lambda n: _page(20 + n, "white", (20, 40, 110), 26, 6))
content("text slides")(lambda i: _slides(i // 75))
content("text slides, white on blue")(lambda i: _blue(i // 50))


def _terminal(lines: int, ink: object = (190, 190, 190), first: int = 0) -> Array:
    font = ImageFont.load_default(13)

    def draw(d: ImageDraw.ImageDraw) -> None:
        for row in range(22):
            if first + row < lines:
                d.text((6, 4 + 16 * row), _words(_rng(4, first + row), int(_rng(5, first + row).integers(5, 80))), fill=ink, font=font)

    return _drawn("black", draw)


@content("terminal, scrolling")
def _(i: int) -> Array:
    return _terminal(10_000, first=i // 3)


@content("terminal, typing")
def _(i: int) -> Array:
    return _terminal(2 + i // 12)


@content("terminal, bursts")
def _(i: int) -> Array:
    return _terminal(10_000, first=11 * (i // 50))


_scroll = np.concatenate([_page(40 + k, "black", "white", 15, 14, 30, 70) for k in range(4)])
content("web page, scrolling")(lambda i: _scroll[3 * i : 3 * i + HEIGHT])
_credits = np.concatenate([np.zeros((HEIGHT, WIDTH, 3)), *(_page(50 + k, "white", "black", 18, 11, 180, 26) for k in range(3))])
content("credits")(lambda i: _credits[2 * i + 120 : 2 * i + 120 + HEIGHT])
_desk = _drawn(
    _page(60, "black", (245, 245, 245), 14, 13, 250, 40),
    lambda d: d.rectangle((0, 0, 220, 360), fill=(40, 44, 52)),
    lambda d: d.rectangle((0, 0, 640, 22), fill=(200, 205, 215)),
)


@content("screen capture, cursor")
def _(i: int) -> Array:
    x, y = 320 + 200 * math.sin(i / 20), 180 + 120 * math.sin(i / 13)
    return _drawn(_desk, lambda d: d.polygon([(x, y), (x, y + 14), (x + 10, y + 10)], fill="black"))


@content("screen capture, windows")
def _(i: int) -> Array:
    x = 40 + min(200, 4 * (i % 75))
    return _drawn(
        _desk,
        lambda d: d.rectangle((x, 90, x + 300, 270), fill=(230, 240, 250), outline="black"),
        lambda d: d.text((x + 20, 120), _words(_rng(6, i // 75), 30), fill="black", font=ImageFont.load_default(18)),
    )


@content("chart, growing")
def _(i: int) -> Array:
    rise = np.cumsum(_rng(7).normal(size=FRAMES)) * 8
    points = [(60 + 3.4 * k, 190 - float(rise[k])) for k in range(max(2, i))]
    return _drawn(
        "white",
        lambda d: d.line([(60, 20), (60, 330), (600, 330)], fill="black", width=2),
        lambda d: d.line(points, fill=(200, 30, 30), width=3),
    )


@content("countdown")
def _(i: int) -> Array:
    return _drawn((150, 150, 150), lambda d: d.text((240, 60), str(9 - i // 25), fill=(20, 20, 20), font=ImageFont.load_default(220)))


@content("ticker over a still")
def _(i: int) -> Array:
    text = _words(_rng(8), 200)
    return _drawn(
        _photos(2),
        lambda d: d.rectangle((0, 310, 640, 350), fill=(170, 20, 20)),
        lambda d: d.text((600 - 6 * i, 316), text, fill="white", font=ImageFont.load_default(24)),
    )


# --- drawn ---------------------------------------------------------------------------------------------------------------------

_COLOURS = [(230, 90, 60), (60, 160, 220), (90, 190, 80), (240, 200, 60), (170, 90, 200)]


def _shapes(i: int, background: object, outline: object = None) -> Array:
    def draw(d: ImageDraw.ImageDraw) -> None:
        for k, colour in enumerate(_COLOURS):
            x, y, r = 320 + 240 * math.sin(i / 22 + 1.3 * k), 180 + 110 * math.cos(i / 17 + 2.1 * k), 30 + 9 * k
            shape = d.ellipse if k % 2 else d.rectangle
            shape((x - r, y - r, x + r, y + r), fill=colour, outline=outline, width=3)  # type: ignore[arg-type]

    return _drawn(background, draw)


content("shapes on black")(lambda i: _shapes(i, "black"))
content("shapes on white")(lambda i: _shapes(i, "white"))
_scene = _drawn(
    (140, 200, 240),
    lambda d: d.rectangle((0, 240, 640, 360), fill=(110, 180, 90), outline="black", width=3),
    lambda d: d.polygon([(60, 240), (200, 80), (340, 240)], fill=(150, 140, 130), outline="black"),
    lambda d: d.ellipse((500, 30, 570, 100), fill=(250, 230, 90)),
)
content("cartoon")(lambda i: _shapes(i, _scene, "black"))
_tiles = (
    np.array([(90, 140, 60), (100, 150, 70), (120, 90, 50), (60, 110, 180)])[_rng(9).integers(0, 4, (30, 60))].repeat(16, 0).repeat(16, 1)
)
content("pixel game, scrolling")(lambda i: _tiles[: 23 * 16][:HEIGHT, 2 * i : 2 * i + WIDTH])


@content("stars")
def _(i: int) -> Array:
    out = np.zeros((HEIGHT, WIDTH))
    y, x, speed = _rng(10).integers(0, HEIGHT, 300), _rng(11).integers(0, WIDTH, 300), _rng(12).integers(1, 5, 300)
    out[y, (x + speed * i) % WIDTH] = 255
    return out


@content("logo on black, turning")
def _(i: int) -> Array:
    corners = [(320 + 90 * math.cos(i / 15 + k * 2.1), 180 + 90 * math.sin(i / 15 + k * 2.1)) for k in range(3)]
    return _drawn("black", lambda d: d.polygon(corners, fill=(220, 180, 40)))


content("gradient, drifting")(lambda i: 40 + 170 * ((_X + 2 * i) % WIDTH) / WIDTH)
content("plasma")(lambda i: 128 + 50 * np.sin(_X / 60 + i / 9) + 40 * np.sin(_Y / 45 - i / 14) + 30 * np.sin((_X + _Y) / 80 + i / 20))
content("grating at the mark's rate")(lambda i: 128 + 60 * np.sign(np.sin(0.35 * _X - 2 * np.pi * i / FPS / 0.44)))


# --- light and footage ---------------------------------------------------------------------------------------------------------

content("noise")(lambda i: 128 + 40 * _rng(13, i).normal(size=(HEIGHT, WIDTH)))
content("grain on grey")(lambda i: 128 + 3 * _rng(14, i).normal(size=(HEIGHT, WIDTH)))
_SKY = (150 + 60 * (1 - _Y / HEIGHT))[:, :, None] * np.array([0.7, 0.85, 1.0])
content("sky with faint grain")(lambda i: _SKY + _rng(15, i).normal(size=(HEIGHT, WIDTH, 1)) * np.array([0.7, 0.85, 1.0]))
content("grain on black")(lambda i: 4 + 2 * _rng(16, i).normal(size=(HEIGHT, WIDTH)))
_CLOUDS = 110 + 0.5 * _photo(3, fall=2.5)
content("clouds, drifting")(lambda i: np.roll(_CLOUDS, i, axis=1))
content("pan")(_pan)
content("slow pan")(lambda i: _wide(4)[40 : 40 + HEIGHT, 20 + i // 8 : 20 + i // 8 + WIDTH])


@content("hand-held")
def _(i: int) -> Array:
    y, x = (int(40 + 12 * math.sin(i / a) + 6 * math.sin(i / b)) for a, b in ((5, 2.3), (7, 3.1)))
    return _wide(5)[y : y + HEIGHT, x : x + WIDTH] + 2 * _rng(17, i).normal(size=(HEIGHT, WIDTH, 1))


@content("zoom")
def _(i: int) -> Array:
    size = (int(WIDTH * (1 + i / 300)), int(HEIGHT * (1 + i / 300)))
    big = Image.fromarray(_photos(6).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    left, top = (size[0] - WIDTH) // 2, (size[1] - HEIGHT) // 2
    return np.asarray(big.crop((left, top, left + WIDTH, top + HEIGHT)), dtype=np.float32)


@content("talking head")
def _(i: int) -> Array:
    near = np.hypot((_X - 320 - 5 * math.sin(i / 9)) / 90, (_Y - 190 - 3 * math.sin(i / 6)) / 130) < 1
    mouth = np.hypot((_X - 320) / 25, (_Y - 240) / (4 + 6 * abs(math.sin(i / 3)))) < 1
    face = np.where(mouth, 60, 170 + 0.15 * (_photos(7)[:, :, 0] - 120))
    return np.where(near, face, 0.4 * _photos(7)[:, :, 1] + 30) + 1.5 * _rng(18, i).normal(size=(HEIGHT, WIDTH))


content("slideshow")(lambda i: _photos(30 + i // 50))
content("slideshow, blended")(lambda i: _photo_pair(i // 50, min(1.0, (i % 50) / 25)))
_first, _second = _cached(lambda n: _photo(60 + n)), _cached(lambda n: _photo(61 + n))


def _photo_pair(n: int, share: float) -> Array:
    return (1 - share) * _first(n) + share * _second(n)


content("fade from and to black")(lambda i: _pan(i, 8) * min(1.0, i / 60, (FRAMES - 1 - i) / 60))
content("mostly black, one scene")(lambda i: _pan(i, 8) * (50 <= i < 110))
content("letterbox")(lambda i: _pan(i, 9) * ((_Y > 60) & (_Y < 300))[:, :, None])
content("pillarbox")(lambda i: _pan(i, 10) * ((_X > 200) & (_X < 440))[:, :, None])
content("picture in picture")(lambda i: np.where(((_X > 460) & (_Y > 240))[:, :, None], _pan(i, 11), _slides(0)))
content("very dark")(lambda i: 6 + 0.06 * _pan(i, 12) + 0.7 * _rng(19, i).normal(size=(HEIGHT, WIDTH, 1)))
content("dark")(lambda i: 0.2 * _pan(i, 13))
content("very bright")(lambda i: 225 + 0.15 * _pan(i, 14))
content("fog")(lambda i: 150 + 0.08 * _pan(i, 15))
content("flicker")(lambda i: _pan(i, 16) * (0.75 + 0.25 * (i % 2)))
content("cuts every .4 s")(lambda i: _pan(i % 10, 70 + i // 10))
content("strobe")(lambda i: np.full((HEIGHT, WIDTH), 255.0 * (i // 5 % 2)))
