"""The networks of the paper: encoder, decoder, discriminator, detector (Zhang et al., ACM MM 2023, sections 3.2, 3.4, 3.5, A.2).

The interface takes video ``[B, T, 3, H, W]`` in [0, 1], as in all of diffcodec; internally it is ``[B, C, T, H, W]`` on the paper's scale, [-1, 1].
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffcodec.checks import check_video

from .blocks import SLOPE, Motion, TAsBlock, conv, estimator, level, scale_residual, to_channels, to_pixels
from .config import Model
from .mapping import Linear, Matched, Spread, dct_basis
from .waves import WaveDecoder, WaveEncoder


def inside(video: Tensor) -> Tensor:
    """From the library's layout and range to the paper's. Shape: ``[B, T, 3, H, W] -> [B, 3, T, H, W]``."""
    return 2 * video.transpose(1, 2) - 1


class Encoder(nn.Module):
    """A 3-D U-Net that turns clip and message into a residual (section 3.2).

    With the mapping "spread" the residual is the informed volume of patterns (:class:`revmark_ref.mapping.Spread`), to which the U-Net's output is
    added with a trainable weight that starts small.

    Args:
        model: sizes.
        motion: for TAsBlock.
    """

    def __init__(self, model: Model, motion: Motion) -> None:
        super().__init__()
        self.model = model
        self.mapping: Linear | Spread = Linear(model) if model.mapping == "linear" else Spread(model)
        self.tas = TAsBlock(motion, model.target) if model.tas else None
        k = model.patch
        enters = (6 + 3 * model.tas) * k * k  # clip, message, features
        widths = model.widths
        self.down = nn.ModuleList(level(a, b, model.convs, 1 + (i > 0)) for i, (a, b) in enumerate(itertools.pairwise((enters, *widths))))
        self.rise = nn.ModuleList(nn.ConvTranspose3d(a, b, 2, 2) for a, b in itertools.pairwise(widths[::-1]))
        self.up = nn.ModuleList(level(2 * b, b, model.convs) for b in widths[-2::-1])
        self.last = nn.Sequential(conv(widths[0] + 6 * k * k, 2 * widths[0]), nn.LeakyReLU(SLOPE), conv(2 * widths[0], 3 * k * k))
        self.gate = nn.Parameter(torch.tensor(GATE)) if model.mapping == "spread" else None

    def forward(self, clip: Tensor, message: Tensor, alpha: float, heard: Tensor | None = None) -> Tensor:
        """The scaled residual of eq. (2).

        Args:
            clip: ``[B, 3, T, H, W]`` in [-1, 1].
            message: ``[B, L]``, 0 or 1.
            alpha: strength on this clip size (:meth:`revmark_ref.config.Model.alpha`).
            heard: for the mapping "spread", the response of the decoder's matched filter to the unmarked clip, ``[B, L]``.

        Returns:
            ``[B, 3, T, H, W]``, each frame of L2 norm alpha.
        """
        norm = alpha * math.sqrt(clip.shape[2])
        if isinstance(self.mapping, Spread):
            assert heard is not None
            volume = self.mapping(message, heard, norm, *clip.shape[3:])
            given = volume * (math.sqrt(volume[0].numel()) / norm)  # of unit variance
        else:
            given = self.mapping(message)
        k = self.model.patch
        entry = torch.cat([clip, given], 1)  # [B, 6, T, H, W]
        x = entry if self.tas is None else torch.cat([entry, self.tas(clip)], 1)
        x, levels = to_channels(x, k), []
        for down in self.down:
            x = down(x)
            levels.append(x)
        levels.pop()
        for rise, up, beside in zip(self.rise, self.up, levels[::-1]):
            x = up(torch.cat([rise(x), beside], 1))
        x = to_pixels(self.last(torch.cat([x, to_channels(entry, k)], 1)), k)  # [B, 3, T, H, W]
        if self.gate is not None:
            x = given + self.gate * x
        return scale_residual(x, alpha, self.model.sigma)


class Decoder(nn.Module):
    """TAsBlock, strided 3-D convolutions, two linear layers (section 3.4).

    With the mapping "spread" the linear layers are applied at every position and their outputs averaged over the clip, so that any part of it
    suffices; a matched filter for the patterns, with weights of its own, is added and dominates at first.

    Args:
        model: sizes.
        motion: for TAsBlock.
    """

    def __init__(self, model: Model, motion: Motion) -> None:
        super().__init__()
        self.model = model
        self.tas = TAsBlock(motion, model.target) if model.tas else None
        enters = (3 + 3 * model.tas) * model.patch**2
        widths = model.decoder_widths
        self.convs = nn.Sequential(
            *(level(a, b, model.convs, strides(i)) for i, (a, b) in enumerate(itertools.pairwise((enters, *widths))))
        )
        self.filter = Matched(model) if model.mapping == "spread" else None
        places = 1 if self.filter is not None else math.prod(self.places())
        self.head = nn.Sequential(nn.Linear(widths[-1] * places, model.hidden), nn.LeakyReLU(SLOPE), nn.Linear(model.hidden, model.bits))
        if self.filter is not None:
            self.loudness = nn.Parameter(torch.tensor(1.0))
            self.gate = nn.Parameter(torch.tensor(GATE))

    def places(self) -> tuple[int, int, int]:
        """Size of the last feature map (T, H, W)."""
        m = self.model
        size = [m.frames, m.height // m.patch, m.width // m.patch]
        for i in range(len(m.decoder_widths)):
            size = [-(-n // s) for n, s in zip(size, strides(i))]
        return size[0], size[1], size[2]

    def forward(self, video: Tensor) -> Tensor:
        """Logits of the bits. Shape: ``[B, 3, T, H, W]`` in [-1, 1] ``-> [B, L]``."""
        x = video if self.tas is None else torch.cat([video, self.tas(video)], 1)
        x = self.convs(to_channels(x, self.model.patch))  # [B, C, t, h, w]
        if self.filter is None:
            return self.head(x.flatten(1))  # type: ignore[no-any-return]
        found = self.head(x.flatten(2).transpose(1, 2)).mean(1)  # [B, L], mean over places
        heard = self.filter.read(video)
        return self.loudness * READING * heard + self.gate * found


GATE = 0.1  # initial weight of the networks relative to the matched filter
READING = 16.0  # initial logit per unit of a tile's mean correlation


def strides(i: int) -> tuple[int, int, int]:
    """Stride (T, H, W) of the decoder's level i: time is halved three times only."""
    return (2 if i < 3 else 1, 2, 2)


class REVMark(nn.Module):
    """Encoder and decoder with one shared motion estimator.

    Args:
        model: sizes; see :class:`revmark_ref.config.Model`.

    Example:
        >>> from revmark_ref.config import PRESETS
        >>> net = REVMark(PRESETS["small"].model)
        >>> video, message = torch.rand(1, 8, 3, 64, 64), torch.randint(0, 2, (1, 32)).float()
        >>> marked = net.embed(video, message, alpha=6.2)
        >>> net.extract(marked).shape  # above 0 is a 1
        torch.Size([1, 32])
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.motion = estimator(model.motion)
        waves = model.mapping == "waves"
        self.encoder: Encoder | WaveEncoder = WaveEncoder(model) if waves else Encoder(model, self.motion)
        self.decoder: Decoder | WaveDecoder = WaveDecoder(model) if waves else Decoder(model, self.motion)

    def check(self, video: Tensor) -> None:
        check_video(video, "REVMark")
        m = self.model
        if (video.shape[1], *video.shape[3:]) != (m.frames, m.height, m.width):
            raise ValueError(f"REVMark expected clips of {m.frames} frames of {m.height} x {m.width}, got shape {tuple(video.shape)}")

    def embed(self, video: Tensor, message: Tensor, alpha: float) -> Tensor:
        """The marked clip, unclamped.

        Args:
            video: ``[B, T, 3, H, W]`` in [0, 1].
            message: ``[B, L]``, 0 or 1.
            alpha: the paper's strength, eq. (2), on its scale and clip size (6.2 gives about 37.1 dB).

        Raises:
            ValueError: clip or message of another size than the model's.
        """
        return video + self.residual(video, message, alpha)

    def residual(self, video: Tensor, message: Tensor, alpha: float) -> Tensor:
        """The residual that :meth:`embed` adds, ``[B, T, 3, H, W]`` on the [0, 1] scale. Arguments and errors as there."""
        self.check(video)
        if message.shape != (len(video), self.model.bits):
            raise ValueError(f"REVMark expected a message [{len(video)}, {self.model.bits}], got shape {tuple(message.shape)}")
        if isinstance(self.encoder, WaveEncoder):
            return self.encoder(video, message.to(video), alpha, self.decoder)[:, :, None].expand_as(video) / 255  # type: ignore[no-any-return]
        clip = inside(video)
        matched = self.decoder.filter if isinstance(self.decoder, Decoder) else None
        heard = None if matched is None else matched.read(clip)
        out = self.encoder(clip, message.to(video), self.model.alpha(alpha), heard)
        return out.transpose(1, 2) / 2

    def extract(self, video: Tensor) -> Tensor:
        """Logits ``[B, L]`` of the bits of a clip ``[B, T, 3, H, W]`` in [0, 1]."""
        self.check(video)
        return self.decoder(video if isinstance(self.decoder, WaveDecoder) else inside(video))  # type: ignore[no-any-return]


class Discriminator(nn.Module):
    """Marked or not: a 3-D CNN of five layers (section 3.5).

    Its score is a sigmoid averaged over positions: eq. (13) is not bounded below, so an unbounded score would diverge.
    """

    def __init__(self, width: int = 16, patch: int = 1) -> None:
        super().__init__()
        self.patch = patch
        widths = [3 * patch**2, width, 2 * width, 4 * width, 4 * width]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [conv(a, b, 2 if a > widths[0] else 1), nn.LeakyReLU(SLOPE)]
        self.net = nn.Sequential(*layers, conv(widths[-1], 1))

    def forward(self, video: Tensor) -> Tensor:
        """Score D of eqs. (12) and (13). Shape: ``[B, 3, T, H, W]`` in [-1, 1] ``-> [B]``, in (0, 1)."""
        return self.net(to_channels(video, self.patch)).sigmoid().flatten(1).mean(1)  # type: ignore[no-any-return]


class Detector(nn.Module):
    """Detector of marked frames (appendix A.2): eight 2-D convolutions, global average pooling, one linear layer; in parallel, optionally, filters
    for a model's own patterns (:class:`Folded`).

    As in steganalysis (Fridrich and Kodovsky 2012), the input of the convolutions is the truncated difference from the local mean. Two of them are
    dilated to the side of the patterns of the mapping "spread": the mark repeats from tile to tile, the picture does not.

    Args:
        width: channels.
        folded: shape (patterns, bits, tile) of the mapping "spread" whose marks are to be detected; None for the convolutions only.
        reach: dilation, on the feature map of half the frame's size.
    """

    def __init__(self, width: int = 32, folded: tuple[int, int, int] | None = None, reach: int = 8) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 5, 2, 2), nn.LeakyReLU(SLOPE)]
        for dilation in (1, reach, 1, reach, 1, 1, 1):
            layers += [nn.Conv2d(width, width, 3, 1, dilation, dilation), nn.LeakyReLU(SLOPE)]
        self.net = nn.Sequential(*layers)
        self.linear = nn.Linear(width, 1)
        self.folded = None if folded is None else Folded(*folded)

    @classmethod
    def of(cls, net: REVMark, width: int = 32) -> Detector:
        """An untrained detector for a model's marks, initialised with the model's patterns."""
        spread = getattr(net.decoder, "filter", None)
        if spread is None:
            return cls(width)
        share, bits = spread.weight.shape[:2]
        out = cls(width, (share, bits, spread.tile))
        out.folded.begin(net.encoder.mapping)  # type: ignore[union-attr, arg-type]
        return out

    def forward(self, frames: Tensor) -> Tensor:
        """Logit of each frame, above 0 for marked. Shape: ``[N, 3, H, W]`` in [0, 1] ``-> [N]``."""
        fine = frames - F.avg_pool2d(frames, 5, 1, 2, count_include_pad=False)
        logit = self.linear(self.net((16 * fine).clamp(-1, 1)).mean((2, 3)))[:, 0]
        return logit if self.folded is None else logit + self.folded(frames)  # type: ignore[no-any-return]


class Folded(nn.Module):
    """Detects what repeats from tile to tile of a frame, with the patterns of the mapping "spread".

    The DCT coefficients of each tile are limited according to its texture, as in the locally optimal detector of a weak mark in heavy-tailed noise
    (Hernandez, Amado and Perez-Gonzalez 2000), and averaged over the tiles. All patterns of a bit share its sign, and each pattern has one of two
    signs in a frame; responses are therefore summed with every combination of signs before they are squared, since the bit is unknown.

    Args:
        patterns, bits, tile: of the mapping.
    """

    basis: Tensor

    def __init__(self, patterns: int, bits: int, tile: int) -> None:
        super().__init__()
        self.tile, self.shape = tile, (patterns, bits, tile)
        self.register_buffer("basis", dct_basis(tile), persistent=False)  # [F, p p]
        self.luma = nn.Parameter(torch.tensor([0.3, 0.5, 0.2]))
        self.log_knee = nn.Parameter(torch.full((len(self.basis),), math.log(4.0)))  # in 8-bit steps
        self.log_texture = nn.Parameter(torch.tensor(0.0))
        self.patterns = nn.Parameter(torch.randn(patterns, bits, len(self.basis)))
        signs = torch.tensor(
            [(*s, 1.0) for s in itertools.product((1.0, -1.0), repeat=patterns - 1)], dtype=torch.float32, device="cpu"
        )  # [C / 2, P]
        self.mix = nn.Parameter(torch.cat([signs, signs]))  # amplitudes: with all patterns present, and with mainly the constant one
        inputs = 2 * len(self.mix) + patterns + 6
        self.judge = nn.Sequential(nn.Linear(inputs, 32), nn.LeakyReLU(SLOPE), nn.Linear(32, 32), nn.LeakyReLU(SLOPE), nn.Linear(32, 1))

    def begin(self, mapping: Spread) -> None:
        """Initialise with a model's patterns and their shares."""
        with torch.no_grad():
            colours = mapping.patterns().unflatten(2, (3, mapping.times, -1)).mean(2)  # [P, L, T, p p]
            found = colours @ self.basis.mT  # [P, L, T, F]
            sign = (found * found[:, :, -1:]).sum(3, keepdim=True).sign()  # over time a pattern only changes its sign
            self.patterns.copy_(F.normalize((found * sign).mean(2), dim=2) * STEADY)
            whole, steady = self.mix.chunk(2)
            whole.mul_(2 * mapping.share)
            steady.mul_(torch.tensor([0.4] * (len(mapping.share) - 1) + [1.4], dtype=torch.float32, device="cpu"))

    def forward(self, frames: Tensor) -> Tensor:
        """Logit of each frame; incomplete tiles at its edges are ignored. Shape: ``[N, 3, H, W]`` in [0, 1] ``-> [N]``."""
        p = self.tile
        y = 255 * (frames * self.luma[:, None, None]).sum(1)  # [N, H, W]
        y = y[:, : y.shape[1] // p * p, : y.shape[2] // p * p]
        tiles = y.unflatten(2, (-1, p)).unflatten(1, (-1, p)).transpose(2, 3).flatten(3).flatten(1, 2)  # [N, n, p p]
        found = tiles @ self.basis.mT  # [N, n, F]
        texture = found.square().mean(2, keepdim=True)  # [N, n, 1]
        limited = found * (found.square() + (2 * self.log_knee).exp() + texture * self.log_texture.exp()).rsqrt()
        mean = limited.mean(1)  # [N, F]
        noise = (limited.square().mean(1) - mean.square()).clamp(min=0) / tiles.shape[1]
        sure = mean * (noise + 1e-3).rsqrt()  # in standard deviations
        heard = torch.einsum("nf,plf->npl", sure, self.patterns / STEADY)
        squares = torch.einsum("npl,cp->ncl", heard, self.mix).square()  # [N, C, L]
        scores = torch.stack([(1 + squares).log().mean(2), squares.mean(2).log1p()], 1)  # [N, 2, C]
        scores = scores.unflatten(2, (2, -1)).sort(3).values.flatten(1)  # independent of the signs in this frame
        about = (
            sure.square().clamp(max=9).mean(1),
            sure.square().mean(1).log1p(),
            (noise.mean(1) + 1e-6).sqrt(),  # a frame may be black
            (mean.square().mean(1) + 1e-6).sqrt(),
            texture.mean((1, 2)).log1p(),
            texture.log1p().mean((1, 2)),
        )
        of_patterns = heard.square().mean(2).log1p()  # [N, P]
        return self.judge(torch.cat([scores, of_patterns, torch.stack(about, 1)], 1) - 2)[:, 0]  # type: ignore[no-any-return]


STEADY = 5.0  # scale of a detector's patterns, so that optimiser steps are small relative to them
