"""
Mark a folder of videos
=======================

Every file is marked with a message, re-encoded and cut by somebody else, and read. Nothing is trained here: the mark ``base`` has no network.
"""

# %%
# A folder of videos: two of the demo clips, played forwards and then backwards.
import tempfile
from pathlib import Path

import torch
from matplotlib import pyplot as plt

import diffcodec as dc
from diffcodec import report
from revmark_ref import apply, weights

torch.set_num_threads(1)
folder = Path(tempfile.mkdtemp())
for name, clip in zip(("street", "rabbit"), report.demo_clips()[1:]):
    frames = dc.read_video(clip, 0, 40)
    dc.write_video(folder / f"{name}.mp4", torch.cat([frames, frames.flip(0)]), fps=25, crf=16)

# %%
# Embedding. On the command line this is ``revmark embed in.mp4 out.mp4 --message ...``. Without the ``key`` the mark cannot be found.
# A video that cannot be marked, such as one whose mark is predicted not to be readable, is an error, which does not stop the others.
net, _ = weights.load("base")
for number, path in enumerate(sorted(folder.glob("*.mp4"))):
    out = folder / f"{path.stem}.marked.mkv"
    try:
        told = apply.embed(net, path, out, message=f"{number:016x}", key="studio")
    except dc.VideoError as error:
        print(f"left out: {error}")
        continue
    print(
        f"{path.name}: {told.frames} frames, {told.bytes_before // 1024} -> {told.bytes_after // 1024} KiB; {told.prediction}"
    )

# %%
# Typical processing: re-encoding at a lower quality, scaling to half the size, cutting off the beginning.
for path in sorted(folder.glob("*.marked.mkv")):
    frames = dc.read_video(path)[15:]
    small = torch.nn.functional.interpolate(
        frames, scale_factor=0.5, mode="bilinear", antialias=True
    )
    dc.write_video(folder / f"{path.stem}.received.mp4", small, fps=25, crf=24)

# %%
# Reading. A message is reported only if its 32-bit check is valid.
for path in sorted(folder.glob("*.received.mp4")):
    found = apply.extract(net, path, key="studio")
    print(
        f"{path.name}: {found.verdict} {found.message}, chance {found.p_value:.0e}, geometry {found.geometry}"
    )
    assert found.verdict == "message"
print("another key:", apply.extract(net, path, key="somebody else").verdict)
print("the source:", apply.extract(net, folder / "street.mp4", key="studio").verdict)

# %%
# The mark itself, amplified eight times.
before, after = (
    dc.read_video(folder / name, 30, 1)[0] for name in ("street.mp4", "street.marked.mkv")
)
figure, axes = plt.subplots(1, 3, figsize=(12, 2.8), layout="constrained")
for ax, image, title in zip(
    axes, (before, after, (after - before) * 8 + 0.5), ("source", "marked", "difference x 8")
):
    ax.imshow(image.clamp(0, 1).permute(1, 2, 0))
    ax.set_title(title)
    ax.axis("off")
figure.show()
