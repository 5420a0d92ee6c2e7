"""SPyNet, the pyramid flow network that the REVMark paper uses."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..buildable import Buildable
from ..checks import check_tensor
from ..constants import Constant
from .warp import warp

_MEAN = Constant([[[0.485]], [[0.456]], [[0.406]]])  # ImageNet statistics [3, 1, 1], as the published weights expect
_STD = Constant([[[0.229]], [[0.224]], [[0.225]]])


class SPyNet(Buildable, nn.Module):
    """Spatial pyramid network for optical flow (Ranjan and Black, CVPR 2017), 0.24 M parameters per level.

    It starts with random weights: the published ones are for non-commercial research and are not included. :meth:`load` reads them from
    a local file. Differentiable in frames and weights.

    Args:
        levels: pyramid levels; the paper uses 4, the published weights have 6 (the first, coarsest ones are used).
    """

    def __init__(self, levels: int = 4) -> None:
        super().__init__()
        if not (isinstance(levels, int) and levels >= 1):
            raise ValueError(f"levels expected to be a whole number >= 1, got {levels!r}")
        self.levels = nn.ModuleList(_level() for _ in range(levels))

    def forward(self, current: Tensor, reference: Tensor) -> Tensor:
        """Flow ``[N, 2, H, W]`` in pixels (x, y) for which ``warp(reference, flow)`` approximates ``current``; frames ``[N, 3, H, W]`` in [0, 1].

        Raises:
            ValueError: frames of another layout, or of different sizes.
        """
        for frame in (current, reference):
            check_tensor(frame, "SPyNet")
            if frame.dim() != 4 or frame.shape[1] != 3:
                raise ValueError(f"SPyNet expected frames [N, 3, H, W], got shape {tuple(frame.shape)}")
        if current.shape != reference.shape:
            raise ValueError(f"SPyNet expected two frames of one size, got {tuple(current.shape)} and {tuple(reference.shape)}")
        dtype, weights = current.dtype, next(self.parameters()).dtype
        current, reference = current.to(weights), reference.to(weights)
        n, _, h, w = current.shape
        step = 2 ** (len(self.levels) - 1)
        size = (-(-h // step) * step, -(-w // step) * step)
        pyramid = []
        for frame in (current, reference):
            x = (frame - _MEAN.like(frame)) / _STD.like(frame)
            if size != (h, w):
                x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
            scales = [x]
            for _ in range(len(self.levels) - 1):
                scales.append(F.avg_pool2d(scales[-1], 2))
            pyramid.append(scales[::-1])

        flow = current.new_zeros(n, 2, size[0] // step, size[1] // step)
        for i, (cur, ref) in enumerate(zip(*pyramid)):
            if i:
                flow = 2 * F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=True)
            flow = flow + self.levels[i](torch.cat([cur, warp(ref, flow), flow], 1))
        if size != (h, w):
            flow = F.interpolate(flow, size=(h, w), mode="bilinear", align_corners=False)
            flow = flow * flow.new_tensor([w / size[1], h / size[0]])[:, None, None]
        return flow.to(dtype)

    def load(self, path: str | Path) -> SPyNet:
        """Load weights from a ``torch.save`` file and return the network.

        Reads this class's own naming, pytorch-spynet's (``moduleBasic.0.moduleBasic.0.weight``, ``netBasic...``) and MMEditing's
        (``basic_module.0.basic_module.0.conv.weight``), bare or under ``state_dict``. Finer levels than this network has are ignored.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file holds no SPyNet, or one with fewer levels.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no SPyNet weights at {path}")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(f"{path} is not a file of tensors that torch.load reads: {error}") from error
        state = state.get("state_dict", state) if isinstance(state, dict) else {}
        ours = {}
        for name, value in state.items():
            if (m := _PUBLIC.search(name)) and isinstance(value, Tensor):
                level, layer, kind = m.groups()
                # MMEditing counts convolutions, pytorch-spynet layers of a Sequential with activations between
                index = int(layer) * 2 if ".conv." in name else int(layer)
                ours[f"levels.{level}.{index}.{kind}"] = value
        missing = [k for k in self.state_dict() if k not in ours]
        if missing:
            raise ValueError(
                f"{path} holds no SPyNet of {len(self.levels)} levels: {len(missing)} tensors missing, the first {missing[0]!r}"
            )
        wrong = [k for k, v in self.state_dict().items() if ours[k].shape != v.shape]
        if wrong:
            raise ValueError(
                f"{path}: {wrong[0]!r} has shape {tuple(ours[wrong[0]].shape)}, not {tuple(self.state_dict()[wrong[0]].shape)}"
            )
        self.load_state_dict({k: ours[k] for k in self.state_dict()})
        return self


_PUBLIC = re.compile(
    r"(?:(?:module|net)Basic|basic_module|levels)\.(\d+)\.(?:(?:(?:module|net)Basic|basic_module)\.)?(\d+)\.(?:conv\.)?(weight|bias)$"
)


def _level() -> nn.Sequential:
    widths = [8, 32, 64, 32, 16, 2]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Conv2d(a, b, 7, padding=3), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
