"""The distortion layer (section 3.3), built from diffcodec: a compression layer by name within the paper's mixture of attacks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

import diffcodec as dc
from diffcodec.attacks.compose import REVMARK_ATTACKS, revmark_attack
from diffcodec.checks import require
from diffcodec.layer import Draw, Layer

from .blocks import Motion
from .config import DISTORTIONS, Training, described
from .keys import generator

ATTACKS: dict[str, Layer] = {name: revmark_attack(name) for name in REVMARK_ATTACKS}


def codec(name: str, training: Training, motion: Motion | None = None) -> Layer:
    """Compression layer by name.

    Args:
        name: "none" (:class:`~diffcodec.Identity`), "jpeg" (:class:`~diffcodec.DiffJPEG` frame by frame), "compnet" (an untrained
            :class:`~diffcodec.CompNet`, to be fitted with :func:`fit_compnet`), "revmark" (the paper's layer), "x264" (calibrated
            :class:`~diffcodec.DiffH264`) or "exact" (libx264 itself, with the gradient that ``training`` names); or a description for
            :func:`diffcodec.build`: ``package.module:Class``, ``jpeg:quality=30-90``, a YAML file.
        training: ranges of CRF and quality, preset, gradient of "exact".
        motion: motion estimator of "revmark", such as the paper's SPyNet; None for block search.
    """
    if described(name):
        return dc.build(name)  # type: ignore[no-any-return]
    require("distortion", name, DISTORTIONS)
    if name == "none":
        return dc.Identity()
    if name == "jpeg":
        return dc.DiffJPEG(training.quality)
    if name == "compnet":
        return dc.CompNet()
    if name == "revmark":
        return dc.DiffH264(model="revmark", motion=motion)
    if name == "x264":
        return dc.DiffH264(crf=training.crf, preset=training.codec_preset, gop="random")
    return dc.RealCodec("libx264", crf=training.crf, preset=training.codec_preset, gradient=training.exact_gradient)


def fit_compnet(net: dc.CompNet, clips: Sequence[Tensor], training: Training, steps: int = 500) -> dc.CompNet:
    """Fit CompNet to libx264 over the training's range of CRF, as DVMark trains its proxy network, and freeze it."""
    real = dc.RealCodec("libx264", crf=training.crf, preset=training.codec_preset, gradient=None)
    net.fit(real, clips, steps)
    return net


class Distortion(nn.Module):
    """The mixture of distortions in training. Each sample has its own draw, keyed by (seed, sample number): the same for any number of processes.

    Args:
        training: stages, shares and strengths.
        motion: as in :func:`codec`.
    """

    def __init__(self, training: Training, motion: Motion | None = None) -> None:
        super().__init__()
        self.training_ = training
        codecs = {name: codec(name, training, motion) for name in dict.fromkeys(n for _, n in training.distortion)}
        self.codecs = nn.ModuleDict(
            {name if name in DISTORTIONS else f"described {i}": layer for i, (name, layer) in enumerate(codecs.items())}
        )
        mixtures = {}
        share = training.codec_share
        for name, layer in codecs.items():
            if name == "none" and not training.attacks_in_none:
                mixtures[name] = dc.RandomDistortion([layer], per="sample")
            else:
                mixtures[name] = dc.RandomDistortion(
                    [layer, *ATTACKS.values()],
                    [share, *((1 - share) * w / sum(training.attack_weights) for w in training.attack_weights)],
                    per="sample",
                )
        self.mixtures = mixtures  # plain dict: the codecs are registered above

    def sample(self, shape: Sequence[int], samples: Sequence[int], step: int) -> Draw | None:
        """Draws for the samples with these numbers; None before the first stage."""
        name = self.training_.stage(step)
        if name is None:
            return None
        generators = [generator(self.training_.seed, "distortion", k) for k in samples]
        return self.mixtures[name].sample(shape, generators, step=step)

    def forward(self, video: Tensor, draw: Draw | None, step: int) -> Tensor:
        """Shape: ``[B, T, 3, H, W]`` -> same."""
        name = self.training_.stage(step)
        if name is None or draw is None:
            return video
        return self.mixtures[name](video, draw, step=step)  # type: ignore[no-any-return]
