"""
An image watermark that survives JPEG
=====================================

A small HiDDeN-like watermark, trained twice from the same initialisation: without any distortion, and through :class:`~diffcodec.DiffJPEG`. Both are
then read after real JPEG compression by Pillow.
"""

# %%
# Training images: random patches from frames of the demo clips.
import torch
import torch.nn as nn
import torch.nn.functional as F
from matplotlib import pyplot as plt

import diffcodec as dc
from diffcodec import report

torch.manual_seed(0)
torch.set_num_threads(1)
films = [dc.read_video(path, 0, 24) for path in report.demo_clips()[1:]]
frames = torch.cat(
    [F.interpolate(film, (180, 320), mode="bilinear", antialias=True) for film in films]
)  # [48, 3, 180, 320]


def patches(n: int, side: int = 64) -> torch.Tensor:
    """Random patches. Shape: ``[n, 3, side, side]``."""
    out = []
    for i in torch.randint(len(frames), (n,)).tolist():
        y, x = (int(torch.randint(s - side, ())) for s in frames.shape[-2:])
        out.append(frames[i, :, y : y + side, x : x + side])
    return torch.stack(out)


# %%
# The watermark: each of 16 bits adds or subtracts a learned pattern, and a convolution reads the bits. The strength is fixed at 33 dB PSNR.
BITS, SIDE = 16, 16


class Watermark(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patterns = nn.Parameter(torch.randn(BITS, 1, SIDE, SIDE) * 0.1)
        self.decoder = nn.Conv2d(
            1, BITS, SIDE, stride=SIDE
        )  # a matched filter for each bit, averaged over the picture

    def embed(self, images: torch.Tensor, message: torch.Tensor) -> torch.Tensor:
        tile = torch.einsum("bl,lchw->bchw", 2 * message - 1, self.patterns)
        residual = tile.repeat(1, 1, images.shape[-2] // SIDE, images.shape[-1] // SIDE)
        residual = (
            residual / residual.square().mean((1, 2, 3), keepdim=True).sqrt() * 10 ** (-33 / 20)
        )
        return (images + residual).clamp(0, 1)

    def extract(self, images: torch.Tensor) -> torch.Tensor:
        grey = images.mean(1, keepdim=True)
        return (
            self.decoder(grey - F.avg_pool2d(grey, 5, 1, 2, count_include_pad=False)).mean((2, 3))
            * 30
        )


# %%
# Training: the layer goes between embedder and extractor; nothing else changes. ``quality=(30, 95)`` draws a quality for each image.
def train(distortion: dc.Layer, steps: int = 150) -> Watermark:
    torch.manual_seed(1)
    model = Watermark()
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    for _ in range(steps):
        images, message = patches(16), torch.randint(2, (16, BITS)).float()
        attacked = distortion(model.embed(images, message))
        loss = F.binary_cross_entropy_with_logits(model.extract(attacked), message)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


plain, robust = train(dc.Identity()), train(dc.DiffJPEG(quality=(30, 95)))

# %%
# Evaluation on real JPEG.
qualities = [95, 80, 65, 50, 35]
images, message = patches(64), torch.randint(2, (64, BITS)).float()


@torch.no_grad()
def accuracy(model: Watermark, quality: int) -> float:
    received = dc.RealJPEG(quality)(model.embed(images, message))
    return float(dc.metrics.bit_accuracy(model.extract(received), message).mean())


results = {
    name: [100 * accuracy(m, q) for q in qualities]
    for name, m in (("no distortion", plain), ("through DiffJPEG", robust))
}
for name, values in results.items():
    print(f"{name:18}", " ".join(f"q{q}: {v:5.1f} %" for q, v in zip(qualities, values)))

figure, (left, *pictures) = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
for (name, values), marker in zip(results.items(), "os"):
    left.plot(qualities, values, marker=marker, label=name)
left.set_xlabel("quality of Pillow's JPEG")
left.set_ylabel("bit accuracy, %")
left.legend()
for ax, (name, model) in zip(pictures, (("no distortion", plain), ("through DiffJPEG", robust))):
    with torch.no_grad():
        residual = model.embed(images, message)[0] - images[0]
    ax.imshow((residual * 5 + 0.5).clamp(0, 1).permute(1, 2, 0))
    ax.set_title(f"mark x 5, trained with\n{name}")
    ax.axis("off")
figure.show()

# %%
# The second mark avoids the frequencies that JPEG removes: it lies at lower ones. In your own code only the line
# ``attacked = distortion(...)`` is added; for HiDDeN's ``[noised, cover]`` lists and other layouts there is :func:`diffcodec.adapt`.
assert results["through DiffJPEG"][-1] > results["no distortion"][-1]
