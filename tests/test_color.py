import io

import numpy as np
import pytest
import torch
from helpers import natural
from PIL import Image
from torch import Tensor
from torch.autograd import gradcheck

from diffcodec import color

PRIMARIES = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]]).T[:, :, None]  # [3, 5, 1]


@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
@pytest.mark.parametrize("full", [True, False])
def test_there_and_back(matrix: str, full: bool) -> None:
    x = natural(1)[0]
    back = color.ycbcr_to_rgb(color.rgb_to_ycbcr(x, matrix, full), matrix, full)
    torch.testing.assert_close(back, x, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("matrix", "full", "red", "white"),
    [
        ("bt601", True, [76.245, 84.972, 255.5], [255, 128, 128]),  # JFIF 1.02: 0.299, -0.1687 and 0.5 times 255
        ("bt601", False, [81.481, 90.203, 240.0], [235, 128, 128]),
        ("bt709", False, [62.559, 102.336, 240.0], [235, 128, 128]),
    ],
)
def test_standard_colours(matrix: str, full: bool, red: list[float], white: list[float]) -> None:
    ycc = color.rgb_to_ycbcr(PRIMARIES, matrix, full)[:, :, 0]
    torch.testing.assert_close(ycc[:, 0], torch.tensor(red), atol=6e-3, rtol=0)
    torch.testing.assert_close(ycc[:, 3], torch.tensor(white, dtype=torch.float32), atol=1e-4, rtol=0)
    assert ycc[0, 4].item() == pytest.approx(0 if full else 16, abs=1e-4)


def test_full_range_is_pillows() -> None:
    x = natural(1)[0, 0]
    ours = color.rgb_to_ycbcr(x).round().clamp(0, 255)
    theirs = np.asarray(Image.fromarray(color.to_8bit(x).permute(1, 2, 0).numpy()).convert("YCbCr"))
    assert (ours.permute(1, 2, 0).numpy() - theirs).__abs__().max() <= 1


@pytest.mark.parametrize("subsampling", list(color.SUBSAMPLINGS))
@pytest.mark.parametrize("mode", ["triangle", "nearest"])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 8), (8, 5)])
def test_flat_chroma_survives_any_size(subsampling: str, mode: str, size: tuple[int, int]) -> None:
    flat = torch.full((2, *size), 77.0)
    small = color.downsample(flat, subsampling)
    v, h = color.SUBSAMPLINGS[subsampling]
    assert small.shape == (2, -(-size[0] // v), -(-size[1] // h))
    torch.testing.assert_close(color.upsample(small, *size, subsampling, mode), flat)


def test_box_and_triangle_by_hand() -> None:
    x = torch.tensor([[1.0, 3.0], [5.0, 7.0]])[None]
    assert color.downsample(x).flatten().tolist() == [4.0]
    row = torch.tensor([[0.0, 4.0]])[None]
    assert color.upsample(row, 1, 4, "4:2:2")[0, 0].tolist() == [0.0, 1.0, 3.0, 4.0]
    assert color.upsample(row, 1, 4, "4:2:2", "nearest")[0, 0].tolist() == [0.0, 0.0, 4.0, 4.0]


@pytest.mark.parametrize("mode", ["triangle", "nearest"])
def test_gradients(mode: str) -> None:
    x = torch.rand(1, 3, 3, 5, dtype=torch.float64, requires_grad=True)
    assert gradcheck(color.rgb_to_ycbcr, x)
    assert gradcheck(color.ycbcr_to_rgb, x)
    assert gradcheck(lambda v: color.upsample(color.downsample(v), 3, 5, mode=mode), x)


def test_to_8bit_rounds() -> None:
    x = torch.tensor([0.0, 0.6 / 255, 1.4 / 255, -3.0, 3.0])
    assert color.to_8bit(x).tolist() == [0, 1, 1, 0, 255]


def test_errors() -> None:
    with pytest.raises(ValueError, match="bt2020"):
        color.rgb_to_ycbcr(torch.rand(3, 4, 4), "bt2020")
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        color.rgb_to_ycbcr(torch.rand(4, 4))
    with pytest.raises(ValueError, match="4:1:1"):
        color.downsample(torch.rand(4, 4), "4:1:1")


def jpeg_round_trip(x: Tensor, quality: int, subsampling: int) -> Tensor:
    file = io.BytesIO()
    Image.fromarray(color.to_8bit(x).permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1).float() / 255
