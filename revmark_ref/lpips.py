"""LPIPS v0.1 with AlexNet (Zhang et al., CVPR 2018).

The linear heads (1152 weights, BSD-2-Clause, from github.com/richzhang/PerceptualSimilarity) are in the package; AlexNet's convolutional layers
("features"), with torchvision's weights, are read from a file that you provide or from torchvision's cache.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .weights import FOLDER

_CACHED = "alexnet-owt-7be5be79.pth"
_LAYERS = ((3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1))
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class LPIPS(nn.Module):
    """Learned perceptual distance, mean over frames.

    Args:
        features: file with AlexNet's features (``features.0.weight``, ...), ``.pth`` or ``.safetensors``; None looks where ``REVMARK_ALEXNET``
            points and into torchvision's cache.

    Raises:
        FileNotFoundError: no features found; the message tells how to get them.
        ValueError: a file without AlexNet's features.
    """

    def __init__(self, features: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        from safetensors.torch import load_file

        state = _features(features)
        self.convs = nn.ModuleDict()
        # torchvision numbers all layers (0, 3, 6, 8, 10), others the convolutions alone
        numbers = sorted({int(k.split(".")[1]) for k in state if k.startswith("features.")})
        for i, (a, b, k, s, p) in enumerate(_LAYERS):
            layer = nn.Conv2d(a, b, k, s, p)
            try:
                layer.load_state_dict({n: state[f"features.{numbers[i]}.{n}"] for n in ("weight", "bias")})
            except (KeyError, IndexError, RuntimeError) as error:
                raise ValueError(f"these are not AlexNet's features: {error}") from error
            self.convs[str(i)] = layer
        heads = load_file(FOLDER / "lpips.safetensors")
        self.heads = [heads[f"linear.{i}.weight"].view(1, -1, 1, 1) for i in range(5)]
        self.requires_grad_(False)

    def maps(self, frames: Tensor) -> list[Tensor]:
        """The five activations of frames ``[N, 3, H, W]`` in [0, 1]."""
        x = (2 * frames - 1 - frames.new_tensor(_SHIFT).view(1, 3, 1, 1)) / frames.new_tensor(_SCALE).view(1, 3, 1, 1)
        out = []
        for i, conv in self.convs.items():
            if i in ("1", "2"):
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(conv(x))
            out.append(x)
        return out

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of each sample. Shape: two ``[B, T, 3, H, W]`` in [0, 1] ``-> [B]``; H, W >= 31."""
        if a.shape != b.shape or a.dim() != 5 or min(a.shape[-2:]) < 31:
            raise ValueError(
                f"LPIPS expected two videos [B, T, 3, H, W] of one shape, at least 31 x 31, got {tuple(a.shape)} and {tuple(b.shape)}"
            )
        total = torch.zeros(a.shape[0] * a.shape[1], device=a.device, dtype=torch.float32)
        for head, x, y in zip(self.heads, self.maps(a.flatten(0, 1)), self.maps(b.flatten(0, 1))):
            x, y = (v / (v.square().sum(1, keepdim=True).sqrt() + 1e-10) for v in (x, y))
            total += ((x - y).square() * head.to(x)).sum(1).mean((1, 2))
        return total.view(a.shape[:2]).mean(1)


def _features(path: str | os.PathLike[str] | None) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    cache = Path(torch.hub.get_dir()) / "checkpoints" / _CACHED
    tried = [Path(p) for p in (path, os.environ.get("REVMARK_ALEXNET"), cache) if p]
    if path is not None:
        tried = tried[:1]
    for p in tried:
        if p.is_file():
            state = load_file(p) if p.suffix == ".safetensors" else torch.load(p, map_location="cpu", weights_only=True)
            return {k: v.float() for k, v in state.items()}
    raise FileNotFoundError(
        f"LPIPS needs AlexNet's features ({', '.join(map(str, tried))}: no such file). Give a file with --alexnet or REVMARK_ALEXNET, or let"
        " torchvision fetch it: python -c 'import torchvision; torchvision.models.alexnet(weights=\"DEFAULT\")'"
    )
