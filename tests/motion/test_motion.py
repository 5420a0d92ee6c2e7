import pytest
import torch
from helpers import natural
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

import diffcodec as dc
from diffcodec.motion import BlockMotion, SPyNet, warp


def shifted(dx: int, dy: int) -> tuple[Tensor, Tensor]:
    """A frame and the frame it came from, moved by whole pixels."""
    big = natural(1, 1, 112, 128)[:, 0]
    return big[..., 24:88, 24:104], big[..., 24 - dy : 88 - dy, 24 - dx : 104 - dx]


def test_zero_and_whole_pel_flow_are_exact() -> None:
    x = torch.rand(2, 3, 9, 11)
    assert torch.equal(warp(x, torch.zeros(2, 2, 9, 11)), x)
    flow = torch.zeros(2, 2, 9, 11)
    flow[:, 0], flow[:, 1] = 2, -1
    y = warp(x, flow)
    assert torch.equal(y[..., 1:, :-2], x[..., :-1, 2:])
    assert torch.equal(y[..., 0, :-2], x[..., 0, 2:])  # edges repeat
    assert torch.equal(y[..., 1:, -1], x[..., :-1, -1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_wide_frames_in_half_precision(dtype: torch.dtype) -> None:
    x = torch.rand(1, 3, 2, 3000).to(dtype)
    assert torch.equal(warp(x, torch.zeros(1, 2, 2, 3000, dtype=dtype)), x)
    assert torch.equal(warp(x, BlockMotion()(x, x)), x)


def test_flow_must_be_finite() -> None:
    with pytest.raises(ValueError, match="finite"):
        warp(torch.rand(1, 3, 4, 4), torch.full((1, 2, 4, 4), float("nan")))


def test_spynet_serves_any_dtype() -> None:
    x = natural(1, 2, 16, 16).double()
    assert dc.DiffH264(model="revmark", motion=SPyNet(2))(x).dtype == torch.float64


def test_half_pel_is_the_mean() -> None:
    x = torch.tensor([[[[0.0, 1.0, 4.0]]]])
    flow = torch.zeros(1, 2, 1, 3)
    flow[:, 0] = 0.5
    assert warp(x, flow).flatten().tolist() == [0.5, 2.5, 4.0]


def test_warp_gradients() -> None:
    x = torch.rand(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    flow = (torch.rand(1, 2, 5, 6, dtype=torch.float64) * 0.6 + 0.2 + torch.randint(-1, 2, (1, 2, 5, 6))).requires_grad_(True)
    # keep clear of the edges in the flow: clamping has a kink there
    inner = torch.zeros_like(flow)
    inner[..., 1:-2, 1:-2] = 1
    assert gradcheck(lambda a, f: warp(a, f * inner), (x, flow))


def test_warp_names_wrong_shapes() -> None:
    with pytest.raises(ValueError, match=r"\[1, 2, 4, 4\]"):
        warp(torch.rand(1, 3, 4, 4), torch.rand(1, 4, 4, 2))


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (3, -2), (-7, 5), (12, 11), (-16, 0)])
@pytest.mark.parametrize("block", [4, 8, 16])
def test_block_motion_finds_a_whole_pel_move(dx: int, dy: int, block: int) -> None:
    current, reference = shifted(dx, dy)
    flow = BlockMotion(block=block)(current, reference)
    inner = warp(reference, flow)[..., 16:-16, 16:-16]
    assert dc.metrics.psnr(inner, current[..., 16:-16, 16:-16]).item() > 45
    assert torch.equal(flow[..., 24:40, 32:48], torch.tensor([float(dx), dy])[None, :, None, None].expand(1, 2, 16, 16))


def test_block_motion_finds_quarter_pels() -> None:
    _, reference = shifted(0, 0)
    true = torch.tensor([1.25, -0.5])[None, :, None, None].expand(1, 2, *reference.shape[-2:])
    current = warp(reference, true)
    errors = {s: (warp(reference, BlockMotion(subpel=s)(current, reference)) - current).abs().mean().item() for s in (1, 2, 4)}
    assert errors[4] < 0.2 * errors[2]
    assert errors[2] < 0.6 * errors[1]


@given(st.integers(1, 2), st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]))
def test_block_motion_any_size(n: int, h: int, w: int, c: int) -> None:
    x, y = torch.rand(n, c, h, w), torch.rand(n, c, h, w)
    flow = BlockMotion()(x, y)
    assert flow.shape == (n, 2, h, w)
    assert torch.equal(BlockMotion()(x, x), torch.zeros(n, 2, h, w))


def test_block_motion_never_predicts_worse_than_no_motion() -> None:
    x, y = torch.rand(4, 1, 48, 64), torch.rand(4, 1, 48, 64)
    for block in (4, 8, 16):
        error = (warp(y, BlockMotion(block=block, smoothness=0.0)(x, y)) - x).abs()
        still = (y - x).abs()
        pool = torch.nn.functional.avg_pool2d
        assert (pool(error, block) <= pool(still, block) + 1e-6).all()


def test_frames_do_not_affect_each_other() -> None:
    a, b = torch.rand(3, 3, 32, 32), torch.rand(3, 3, 32, 32)
    flow = BlockMotion()(a, b)
    for i in range(3):
        assert torch.equal(BlockMotion()(a[i : i + 1], b[i : i + 1]), flow[i : i + 1])


def test_large_frames_are_searched_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = torch.rand(3, 3, 32, 48), torch.rand(3, 3, 32, 48)
    whole = BlockMotion()(a, b)
    monkeypatch.setattr("diffcodec.ops.block_motion.reference._CHUNK", 1)
    assert torch.equal(BlockMotion()(a, b), whole)


def test_block_motion_is_a_well_behaved_op() -> None:
    torch.library.opcheck(torch.ops.diffcodec.block_motion.reference, (torch.rand(2, 20, 36), torch.rand(2, 20, 36), 8, 4, 4, 0.05))


def test_block_motion_errors() -> None:
    with pytest.raises(ValueError, match="5"):
        BlockMotion(block=5)
    with pytest.raises(ValueError, match="3"):
        BlockMotion(subpel=3)
    with pytest.raises(ValueError, match="-1"):
        BlockMotion(search=-1)
    with pytest.raises(ValueError, match="one size"):
        BlockMotion()(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 9))
    with pytest.raises(TypeError, match="uint8"):
        BlockMotion()(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, 3, 8, 8))


def test_spynet_is_as_large_as_published() -> None:
    assert sum(p.numel() for p in SPyNet(4).parameters()) == 4 * 240_050
    x = torch.rand(1, 3, 30, 45)
    assert SPyNet(4)(x, x).shape == (1, 2, 30, 45)


@pytest.mark.parametrize("style", ["ours", "pytorch-spynet", "sniklaus net", "mmediting", "wrapped"])
def test_spynet_reads_public_names(style: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    source = SPyNet(6)
    names = {
        "ours": "levels.{0}.{1}.{2}",
        "pytorch-spynet": "moduleBasic.{0}.moduleBasic.{1}.{2}",
        "sniklaus net": "netBasic.{0}.netBasic.{1}.{2}",
        "wrapped": "moduleBasic.{0}.moduleBasic.{1}.{2}",
        "mmediting": "basic_module.{0}.basic_module.{1}.conv.{2}",
    }
    state = {}
    for key, value in source.state_dict().items():
        _, level, layer, kind = key.split(".")
        layer = str(int(layer) // 2) if style == "mmediting" else layer
        state[names[style].format(level, layer, kind)] = value
    torch.save({"state_dict": state} if style == "wrapped" else state, tmp_path / "w.pth")
    net = SPyNet(4).load(tmp_path / "w.pth")
    for key, value in net.state_dict().items():
        assert torch.equal(value, source.state_dict()[key])


def test_spynet_load_errors(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        SPyNet().load(tmp_path / "nowhere.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="tensors missing"):
        SPyNet().load(tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match=r"text\.pth"):
        SPyNet().load(tmp_path / "text.pth")
    torch.save(SPyNet(2).state_dict(), tmp_path / "two.pth")
    with pytest.raises(ValueError, match="4 levels"):
        SPyNet(4).load(tmp_path / "two.pth")


def test_prediction_on_real_clips(real_clips) -> None:  # type: ignore[no-untyped-def]
    one, four = [], []
    for path in real_clips:
        v = dc.read_video(path, 2, 5, crop=(128, 128))
        for gap, out in ((1, one), (4, four)):
            flow = BlockMotion()(v[gap][None], v[0][None])
            out.append(dc.metrics.psnr(warp(v[0][None], flow), v[gap][None]).item())
    assert sum(one) / len(one) >= 30
    assert sum(four) / len(four) >= 24
