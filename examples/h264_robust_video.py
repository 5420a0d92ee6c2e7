"""
A video watermark that survives H.264
=====================================

A small video watermark, trained through a mixture of a simulated codec and other attacks, described as data, and tested on the real libx264.
"""

# %%
# Clips: windows of four frames of 64 x 64. For folders of many videos :class:`~diffcodec.Clips` is a dataset that draws such windows from the files.
import torch
import torch.nn as nn
import torch.nn.functional as F
from matplotlib import pyplot as plt

import diffcodec as dc
from diffcodec import report

torch.manual_seed(0)
torch.set_num_threads(1)
films = [
    F.interpolate(dc.read_video(path, 0, 40), (180, 320), mode="bilinear", antialias=True)
    for path in report.demo_clips()[1:]
]


def windows(n: int, frames: int = 4, side: int = 64) -> torch.Tensor:
    """Random windows. Shape: ``[n, frames, 3, side, side]``."""
    out = []
    for film in torch.randint(len(films), (n,)).tolist():
        t, y, x = (
            int(torch.randint(whole - part + 1, ()))
            for whole, part in ((40, frames), (180, side), (320, side))
        )
        out.append(films[film][t : t + frames, :, y : y + side, x : x + side])
    return torch.stack(out)


# %%
# The distortion, as it would appear in a YAML file. Names are those of diffcodec, or ``package.module:Class``;
# ``distortion.config()`` returns the same.
distortion = dc.build(
    {
        "name": "RandomDistortion",
        "layers": [
            "x264:crf=20-32,preset=ultrafast",
            "FrameDrop:p=0.5",
            "GaussianNoise:sigma=0.0-0.04",
        ],
        "weights": [4, 1, 1],
        "per": "sample",
    }
)

# %%
# Random decisions are drawn outside the graph, so that a log can record what was applied to each sample:
video = windows(4)
draw = distortion.sample(video.shape)
for line in distortion.describe(draw):
    print(line)

# %%
# A mark of sixteen learned space-time patterns, and a decoder that is trained with them.
BITS, FRAMES, SIDE = 16, 4, 16


class Watermark(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patterns = nn.Parameter(torch.randn(BITS, FRAMES, SIDE, SIDE) * 0.1)
        self.decoder = nn.Conv3d(1, BITS, (FRAMES, SIDE, SIDE), stride=(FRAMES, SIDE, SIDE))

    def embed(self, video: torch.Tensor, message: torch.Tensor) -> torch.Tensor:
        tile = torch.einsum("bl,lthw->bthw", 2 * message - 1, self.patterns)
        residual = tile.repeat(1, 1, video.shape[-2] // SIDE, video.shape[-1] // SIDE)[:, :, None]
        residual = (
            residual / residual.square().mean((1, 2, 3, 4), keepdim=True).sqrt() * 10 ** (-30 / 20)
        )
        return (video + residual).clamp(0, 1)

    def extract(self, video: torch.Tensor) -> torch.Tensor:
        grey = video.mean(2)  # [B, T, H, W]
        high = grey - F.avg_pool2d(grey, 5, 1, 2, count_include_pad=False)
        return self.decoder(high[:, None]).mean((2, 3, 4)) * 30


def train(layer: dc.Layer, steps: int = 200, batch: int = 8) -> Watermark:
    torch.manual_seed(1)
    model = Watermark()
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    for step in range(steps):
        video, message = windows(batch), torch.randint(2, (batch, BITS)).float()
        loss = F.binary_cross_entropy_with_logits(
            model.extract(layer(model.embed(video, message), step=step)), message
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


plain, robust = train(dc.Identity()), train(distortion)

# %%
# Tested on libx264 itself, at CRFs inside and outside the training range.
crfs = [18, 23, 28, 33]
video, message = windows(24), torch.randint(2, (24, BITS)).float()


@torch.no_grad()
def accuracy(model: Watermark, crf: int) -> float:
    received = dc.RealCodec("libx264", crf=crf, preset="medium")(model.embed(video, message))
    return float(dc.metrics.bit_accuracy(model.extract(received), message).mean())


results = {
    name: [100 * accuracy(m, c) for c in crfs]
    for name, m in (("no distortion", plain), ("through the mixture", robust))
}
for name, values in results.items():
    print(f"{name:20}", " ".join(f"CRF {c}: {v:5.1f} %" for c, v in zip(crfs, values)))

figure, ax = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
for (name, values), marker in zip(results.items(), "os"):
    ax.plot(crfs, values, marker=marker, label=name)
ax.set_xlabel("CRF of libx264, preset medium")
ax.set_ylabel("bit accuracy, %")
ax.legend()
figure.show()

# %%
# For validation a strength can be given in the call, ``distortion(video, crf=28)``. :class:`~diffcodec.RealCodec` can be part of the mixture as
# well: its output is libx264's own, and its gradient is that of the simulator.
assert sum(results["through the mixture"]) > sum(results["no distortion"])
