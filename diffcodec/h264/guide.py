"""Decisions of a real encoder, read from its stream by ffmpeg's decoder, which a simulator can use instead of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..color import luma
from ..media import side_data


@dataclass(frozen=True)
class Guide:
    """The coding decisions in one clip's H.264 stream; H and W are padded to multiples of 16 here.

    Attributes:
        types: one letter per frame in display order: I, P, B (a B frame used as reference) or b.
        order: display indices in coding order.
        size: height and width of the clip, not padded.
        qp: QP of every macroblock, ``[T, H/16, W/16]`` float32; one without coded residual has that of the macroblock before it.
        vectors: motion vectors of every 8x8 block in quarter pixels (y, x), for list 0 (past) and list 1 (future), ``[T, 2, H/8, W/8, 2]`` int64.
        used: whether the block uses the list, ``[T, 2, H/8, W/8]`` bool; an intra block uses neither.
        thumbnail: mean luma of the source in 8 x 8 cells, ``[T, 8, 8]``, by which a guide of another clip is detected.
    """

    types: str
    order: tuple[int, ...]
    size: tuple[int, int]
    qp: Tensor
    vectors: Tensor
    used: Tensor
    thumbnail: Tensor

    def check(self, clip: Tensor) -> None:
        """Check that a clip ``[T, 3, H, W]`` in [0, 1] can be the one that was encoded.

        Raises:
            ValueError: another length, size or content.
        """
        t, _, h, w = clip.shape
        if t != len(self.types):
            raise ValueError(f"guide is of a clip of {len(self.types)} frames, the clip has {t}")
        if (h, w) != self.size:
            raise ValueError(f"guide is of frames of {self.size[0]} x {self.size[1]} (height x width), the clip has {h} x {w}")
        apart = (thumbnail(clip) - self.thumbnail.to(clip)).abs().amax().item()
        if apart > 0.1:
            raise ValueError(f"guide is of another clip: mean luma differs by up to {apart:.2f} (of 1) in a cell of 1/8 x 1/8 of the frame")


def thumbnail(clip: Tensor) -> Tensor:
    """Shape: ``[T, 3, H, W] -> [T, 8, 8]``."""
    return F.adaptive_avg_pool2d(luma(clip.detach().float())[:, None], 8)[:, 0]


def read(frames: Sequence[Any], packets: Sequence[Any], clip: Tensor) -> Guide:
    """Collect a guide from decoded frames with motion vectors and quantisers as side data (``flags2=+export_mvs``, ``export_side_data=venc_params``).

    Args:
        frames: PyAV frames in display order.
        packets: PyAV packets in coding order, whose ``pts`` is the display index.
        clip: the source, ``[T, 3, H, W]``.
    """
    t, _, h, w = clip.shape
    bh, bw = -(-h // 16), -(-w // 16)
    referred = {int(p.pts): _is_reference(bytes(p)) for p in packets}
    qp = np.zeros((t, bh, bw), np.float32)
    vectors = np.zeros((t, 2, 2 * bh, 2 * bw, 2), np.int64)
    used = np.zeros((t, 2, 2 * bh, 2 * bw), bool)
    types = ""
    for i, frame in enumerate(frames):
        letter = "IPB"[int(frame.pict_type) - 1]
        types += "b" if letter == "B" and not referred.get(i, True) else letter
        for data in side_data(frame):
            kind = type(data).__name__
            if kind == "VideoEncParams":
                qp[i] = np.asarray(data.qp_map(), np.float32)[:bh, :bw]
            elif kind == "MotionVectors":
                _place(data.to_ndarray(), vectors[i], used[i])
    order = tuple(int(p.pts) for p in packets)
    return Guide(types, order, (h, w), torch.from_numpy(qp), torch.from_numpy(vectors), torch.from_numpy(used), thumbnail(clip))


def _place(exported: Any, vectors: Any, used: Any) -> None:
    """Write exported vectors, one per partition, into 8x8 blocks. ``dst`` is the partition's centre."""
    list_index = (exported["source"] > 0).astype(int)
    w, h = exported["w"].astype(int), exported["h"].astype(int)
    top, left = exported["dst_y"].astype(int) - h // 2, exported["dst_x"].astype(int) - w // 2
    scale = np.maximum(exported["motion_scale"].astype(int), 1)
    y = exported["motion_y"].astype(int) * 4 // scale
    x = exported["motion_x"].astype(int) * 4 // scale
    for k in range(len(exported)):
        rows, columns = slice(top[k] // 8, -(-(top[k] + h[k]) // 8)), slice(left[k] // 8, -(-(left[k] + w[k]) // 8))
        vectors[list_index[k], rows, columns] = (y[k], x[k])
        used[list_index[k], rows, columns] = True


def _is_reference(packet: bytes) -> bool:
    """Whether nal_ref_idc of a picture's first slice is not 0 (7.4.1)."""
    start = 0
    while (start := packet.find(b"\x00\x00\x01", start)) >= 0:
        header = packet[start + 3]
        if header & 31 in (1, 5):
            return bool(header & 0x60)
        start += 3
    return True
