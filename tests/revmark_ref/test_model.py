import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import natural
from torch import Tensor

import diffcodec as dc
from revmark_ref import losses
from revmark_ref.blocks import TAsBlock, inverse, scale_residual, sigma_clip
from revmark_ref.config import DISTORTIONS, PRESETS, Config, Model, Training
from revmark_ref.distortion import Distortion
from revmark_ref.keys import messages
from revmark_ref.mapping import Matched, Spread, water_fill
from revmark_ref.model import Detector, Discriminator, REVMark, inside

TINY = Model(
    bits=8,
    height=32,
    width=32,
    mapping="spread",
    widths=(8, 16),
    decoder_widths=(8, 16),
    hidden=16,
    convs=1,
    tas=False,
    motion="none",
    tile=16,
)
TINY_LINEAR = dataclasses.replace(TINY, mapping="linear", tas=True, motion="block", widths=(8, 16, 16), decoder_widths=(8, 16, 16))


def clips(model: Model, b: int = 2) -> Tensor:
    return natural(b, model.frames, model.height, model.width)


def test_parameters_and_flops_are_the_papers() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    net = REVMark(dataclasses.replace(PRESETS["paper"].model, motion="spynet"))
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 2) == 8.38  # Table 8
    video = torch.rand(1, 8, 3, 128, 128)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net.extract(net.embed(video, torch.ones(1, 96), 6.2))
    # the third time that flow is computed is the distortion layer's; the paper has 242 G for all three
    with torch.no_grad(), FlopCounterMode(display=False) as flow:
        net.encoder.tas.flow(inside(video))
    total = (counter.get_total_flops() + flow.get_total_flops()) / 1e9
    assert total == pytest.approx(242, rel=0.02)


def test_scaling_gives_every_frame_one_norm() -> None:
    r = torch.randn(2, 3, 4, 8, 8)
    out = scale_residual(r, 6.2, 7.0)
    torch.testing.assert_close(out.square().sum((1, 3, 4)).sqrt(), torch.full((2, 4), 6.2))
    # 6.2 on [-1, 1] at 128 x 128 is about 37.1 dB (before clamping); other sizes keep the PSNR
    for model in (PRESETS["paper"].model, PRESETS["small"].model):
        alpha = model.alpha(6.2)
        mse = alpha**2 / (3 * model.height * model.width) / 4
        assert -10 * math.log10(mse) == pytest.approx(37.1, abs=0.06)


def test_sigma_clipping_by_hand_and_per_sample() -> None:
    x = torch.zeros(2, 1, 1, 10, 10)
    x[0, 0, 0, 0, 0] = 100.0
    once = sigma_clip(x, 2.0, times=1)
    mean, std = 1.0, float(x[0].std())
    assert once[0].max() == pytest.approx(mean + 2 * std)
    assert once[1].abs().max() == 0  # the other sample's statistics are its own
    assert sigma_clip(x, 2.0)[0].max() < once[0].max()


def test_losses_by_hand() -> None:
    clip = torch.zeros(1, 3, 2, 4, 4)
    clip[..., 2:] = 1.0  # an edge between columns 1 and 2
    mask = losses.spatial_mask(clip, 7.0)
    torch.testing.assert_close(mask.square().sum((1, 3, 4)), torch.ones(1, 2))
    assert (mask[..., 1:3] > 0).all()
    assert (mask[..., 0] == 0).all()
    assert (mask[..., 3] == 0).all()
    # eq. (16) where the mask is zero: the squared residual
    residual = torch.full_like(clip, 0.5)
    flat = torch.zeros_like(clip)
    torch.testing.assert_close(losses.spatial_loss(residual, flat, 7.0), torch.full((1, 2), 48 * 0.25))
    # eq. (18): flicker beyond the clip's own
    marked = clip.clone()
    marked[:, :, 1] += 0.3
    torch.testing.assert_close(losses.temporal_loss(marked, clip), torch.full((1, 1), 48 * 0.09))
    moving = clip.clone()
    moving[:, :, 1] += 0.3
    assert losses.temporal_loss(moving, moving).item() == 0
    # eq. (19): 200 / (N T) sum + 5 / (N (T - 1)) sum
    by_hand = 200 * 12 / 16 + 0.0
    assert losses.mask_loss(residual, flat, Training(), 7.0).item() == pytest.approx(by_hand)
    # eq. (20) with the weights of a step
    t = Training()
    total = losses.total_loss(torch.tensor(1.0), torch.tensor(2.0), torch.tensor(3.0), t, 3000)
    assert total.item() == pytest.approx(1 + 0 * 2 + 5 * 3)
    total = losses.total_loss(torch.tensor(1.0), torch.tensor(2.0), torch.tensor(3.0), t, 60000)
    assert total.item() == pytest.approx(1 + 5e-4 * 2 + 10 * 3)
    assert losses.message_loss(torch.ones(1, 4), torch.zeros(1, 4)).item() == pytest.approx(math.log(2))
    assert losses.discriminator_loss(torch.tensor([0.2]), torch.tensor([0.7])).item() == pytest.approx(-0.5)


def test_schedules_are_the_papers() -> None:
    t = Training()
    assert [t.alpha(s) for s in (0, 1500, 1750, 2000, 60000)] == pytest.approx([20, 20, 13.1, 6.2, 6.2])
    assert [t.mask_weight(s) for s in (0, 2000, 3000, 4000)] == [0, 0, 5, 10]
    assert [t.adversarial_weight(s) for s in (3000, 6500, 10000)] == pytest.approx([0, 2.5e-4, 5e-4])
    assert (t.stage(2999), t.stage(3000)) == (None, "revmark")


def test_config_round_trip_and_errors() -> None:
    for config in PRESETS.values():
        assert Config.from_json(config.to_json()) == config
    assert PRESETS["small"].with_values({"lr": 1, "alpha": 5, "bits": 16}).training.alpha(0) == 5
    with pytest.raises(ValueError, match="no field 'color'"):
        PRESETS["small"].with_values({"color": 1})
    with pytest.raises(ValueError, match="multiples of 16"):
        Model(mapping="spread", height=72, width=128)
    with pytest.raises(ValueError, match="frames expected a multiple of 8, got 6"):
        Model(frames=6)
    with pytest.raises(ValueError, match="'magic'"):
        Training(distortion=((0, "magic"),))
    with pytest.raises(ValueError, match="not a configuration"):
        Config.from_json("{}")


def test_water_filling_spends_the_energy_on_the_weakest() -> None:
    level = torch.tensor([[0.0, 1.0, 5.0], [2.0, -1.0, 0.0]])
    amount = water_fill(level, 2.5)
    torch.testing.assert_close(amount.square().sum(1), torch.full((2,), 2.5))
    raised = level + amount
    for row, given in zip(raised, amount):
        touched = row[given > 0]
        torch.testing.assert_close(touched, touched[:1].expand_as(touched))  # all at one level
        assert (row[given == 0] >= touched[0]).all()


def test_spread_patterns_are_orthonormal_and_read_back() -> None:
    spread = Matched(dataclasses.replace(TINY, bits=32, height=64, width=64))
    p = spread.patterns().detach().flatten(0, 1)
    torch.testing.assert_close(p @ p.T, torch.eye(96), atol=1e-5, rtol=0)
    still = inside(natural(1, 1, 64, 64)).expand(-1, -1, 8, -1, -1)
    assert spread.correlate(still)[:, :, :2].abs().max() < 1e-4  # turning patterns do not hear what does not move
    assert spread.correlate(still)[:, :, 2].abs().max() > 0.1
    clip = inside(natural(2, 8, 64, 64))
    message = messages(0, [1, 2], 32)
    volume = spread(message, spread.read(clip), 20.0, 64, 64)
    torch.testing.assert_close(volume.flatten(1).norm(dim=1), torch.full((2,), 20.0), rtol=1e-4, atol=0)
    heard = spread.read(clip + volume)
    assert ((heard > 0) == (message > 0.5)).all()
    amount = torch.randn(1, 32)
    torch.testing.assert_close(spread.read(spread.volume(amount, 64, 64)), amount, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="at least 2 frames"):
        Spread(dataclasses.replace(TINY, frames=1, widths=(8,), target=0))
    with pytest.raises(ValueError, match="holds 60 bits, got 64"):
        Spread(dataclasses.replace(TINY, tile=8, bits=64))


@pytest.mark.parametrize("model", [TINY, TINY_LINEAR], ids=["spread", "linear"])
def test_shapes_gradients_and_samples_apart(model: Model) -> None:
    torch.manual_seed(1)
    net = REVMark(model)
    video, message = clips(model), messages(0, [0, 1], model.bits)
    marked = net.embed(video, message, 6.2)
    assert marked.shape == video.shape
    logits = net.extract(marked)
    assert logits.shape == (2, model.bits)
    torch.testing.assert_close(net.embed(video[:1], message[:1], 6.2), marked[:1], atol=1e-5, rtol=1e-4)
    losses.message_loss(message, logits).backward()
    without = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without
    with pytest.raises(ValueError, match="8 frames of 32 x 32"):
        net.extract(video[:, :4])
    with pytest.raises(ValueError, match=r"message \[2, 8\]"):
        net.embed(video, message[:, :4], 6.2)


def test_tas_block_aligns_and_brings_back() -> None:
    """With features that are the identity, what is aligned and recovered is the clip again, and aligned frames are the target's."""
    still = natural(1, 1, 48, 48)[:, 0]
    video = torch.stack([still.roll((2 * i, i), (2, 3)) for i in range(4)], 1)  # whole-pel motion
    block = TAsBlock(dc.motion.BlockMotion(), target=1)
    seen: list[Tensor] = []

    class Identity(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return x

    block.features = Identity()
    out = block(inside(video))
    middle = (slice(None), slice(None), slice(None), slice(12, 36), slice(12, 36))
    aligned, target = seen[0][middle], inside(video)[:, :, 1:2][middle]
    assert (aligned - target).abs().mean() < 0.01
    assert (out - inside(video))[middle].abs().mean() < 0.01
    flow = torch.zeros(1, 2, 8, 8)
    flow[:, 0] = 2.0
    torch.testing.assert_close(inverse(flow), -flow)


@pytest.mark.parametrize("name", [*DISTORTIONS, "jpeg:quality=30-90", "diffcodec:GaussianBlur:sigma=0.5"])
def test_gradients_reach_encoder_and_decoder_through_every_distortion(name: str) -> None:
    training = Training(distortion=((0, name),), codec_share=1.0, codec_preset="ultrafast")
    layer = Distortion(training)
    net = REVMark(TINY)
    video, message = clips(TINY), messages(0, [0, 1], 8)
    draw = layer.sample(video.shape, [0, 1], 0)
    logits = net.extract(layer(net.embed(video, message, 6.2), draw, 0))
    losses.message_loss(message, logits).backward()
    assert net.encoder.mapping.weight.grad.abs().sum() > 0
    assert net.decoder.filter.weight.grad.abs().sum() > 0
    assert torch.isfinite(net.encoder.mapping.weight.grad).all()


def test_distortions_of_others_by_name(tmp_path: Path) -> None:
    config = Config(training=Training(distortion=((0, "none"), (9, "diffcodec:GaussianBlur:sigma=0.5"))))
    assert Config.from_json(config.to_json()) == config
    for name, words in (
        ("gaussianblur", "expected one of"),
        ("no.such:Layer", "cannot be imported"),
        (str(tmp_path / "no.yaml"), "no.yaml"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            Distortion(Training(distortion=((0, name),)))


def test_distortion_is_keyed_by_sample_and_follows_its_stages() -> None:
    training = Training(distortion=((5, "none"), (10, "jpeg")), attacks_in_none=True)
    layer = Distortion(training)
    x = clips(TINY, 4)
    assert layer.sample(x.shape, [0, 1, 2, 3], 4) is None
    assert layer(x, None, 4) is x
    whole = layer(x, layer.sample(x.shape, [7, 8, 9, 10], 12), 12)
    parts = [layer(x[i : i + 1], layer.sample(x[i : i + 1].shape, [7 + i], 12), 12) for i in range(4)]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_discriminator_and_detector() -> None:
    score = Discriminator(patch=2)(inside(clips(TINY)))
    assert score.shape == (2,)
    assert ((score > 0) & (score < 1)).all()
    assert Detector(8)(clips(TINY)[0]).shape == (8,)
    convs = [m for m in Detector().modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convs) == 8  # A.2
    with_patterns = Detector.of(REVMark(TINY))
    frames = clips(TINY)[0]
    frames[0] = 0  # as at the start of many a video
    frames.requires_grad_()
    with_patterns(frames).sum().backward()
    assert float(frames.grad.abs().max()) > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in with_patterns.parameters())
    assert Detector.of(REVMark(TINY_LINEAR)).folded is None
    layers = [m for m in Discriminator().modules() if isinstance(m, torch.nn.Conv3d)]
    assert len(layers) == 5  # section 3.5


def test_the_detector_sees_the_patterns_of_a_model_in_what_repeats() -> None:
    net = REVMark(PRESETS["small"].model)
    folded = Detector.of(net).folded
    assert folded is not None
    torch.manual_seed(0)
    clip = 0.5 + 0.02 * torch.randn(4, 8, 3, 64, 64)
    marked = net.embed(clip, messages(1, [0, 1, 2, 3], 32), 6.2).detach()
    heard: list[torch.Tensor] = []
    folded.judge.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0].detach()))
    folded(marked.flatten(0, 1))
    folded(clip.flatten(0, 1))
    scores = folded.mix.shape[0] * 2
    assert float(heard[0][:, :scores].mean(1).min()) > float(heard[1][:, :scores].mean(1).max())  # in every frame, before any training


def test_a_tiny_model_memorises_four_clips() -> None:
    torch.manual_seed(0)
    model = dataclasses.replace(TINY_LINEAR, tas=False, motion="none", hidden=64, widths=(8, 16))
    net = REVMark(model)
    video, message = clips(model, 4), messages(3, [0, 1, 2, 3], 8)
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(150):
        logits = net.extract(net.embed(video, message, 20.0))
        loss = losses.message_loss(message, logits)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert dc.metrics.bit_accuracy(message, logits).mean() > 0.9
    other = net.extract(net.embed(video, 1 - message, 20.0)).detach()
    assert np.isfinite(other.numpy()).all()


def test_spynet_of_the_user_serves_networks_and_distortion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from revmark_ref import weights
    from revmark_ref.run import Plan, Run
    from revmark_ref.train import train

    spynet = dc.motion.SPyNet()
    torch.save(spynet.state_dict(), tmp_path / "spynet.pth")
    model = dataclasses.replace(TINY_LINEAR, motion="spynet", height=16, width=16)
    config = Config(model, dataclasses.replace(PRESETS["paper"].training, batch=1, steps=1, distortion=((0, "revmark"),)))
    monkeypatch.delenv("REVMARK_SPYNET", raising=False)
    with pytest.raises(weights.CheckpointError, match="set REVMARK_SPYNET"):
        Run(Plan(config, "synthetic", tmp_path / "run", quiet=True))
    run = Run(Plan(config, "synthetic", tmp_path / "run", quiet=True, spynet=tmp_path / "spynet.pth"))
    layer = run.system.distortion.codecs["revmark"]
    assert layer.motion is run.net.motion
    assert not any(p.requires_grad for p in run.net.motion.parameters())
    clip = clips(model, 1)
    block = dc.DiffH264(model="revmark")
    draw = layer.sample(clip.shape, torch.Generator().manual_seed(0))
    assert not torch.equal(layer(clip, draw), block(clip, draw))
    # weights hold no SPyNet: without its file they must not run on random flow
    file = tmp_path / "w.safetensors"
    assert train(Plan(config, "synthetic", tmp_path / "run", quiet=True, spynet=tmp_path / "spynet.pth")).why == "done"
    weights.export(tmp_path / "run", file)
    assert not any("motion." in k for k in weights.read(file)[0])
    with pytest.raises(weights.CheckpointError, match="set REVMARK_SPYNET"):
        weights.load(file)
    monkeypatch.setenv("REVMARK_SPYNET", str(tmp_path / "spynet.pth"))
    net, _ = weights.load(file)
    for a, b in zip(net.motion.parameters(), spynet.parameters()):  # type: ignore[attr-defined]
        assert torch.equal(a, b)


def test_the_manual_has_the_parameters_of_table_8() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    net = REVMark(dataclasses.replace(PRESETS["paper"].model, motion="spynet"))
    video = torch.rand(1, 8, 3, 128, 128)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net.extract(net.embed(video, torch.ones(1, 96), 6.2))
    parts = [sum(p.numel() for n, p in net.named_parameters() if n.startswith(k)) for k in ("encoder", "decoder", "motion")]
    text = " ".join((Path(__file__).parents[2] / "docs" / "revmark.rst").read_text().split())
    with torch.no_grad(), FlopCounterMode(display=False) as third:
        net.encoder.tas.flow(inside(video))  # type: ignore[union-attr]
    total, gflops, flow = sum(parts) / 1e6, counter.get_total_flops() / 1e9, third.get_total_flops() / 1e9
    encoder, decoder, motion = (n / 1e6 for n in parts)
    assert (
        f"the preset ``paper`` with SPyNet has {total:.3f} M parameters (encoder {encoder:.3f}, decoder {decoder:.3f}, SPyNet {motion:.3f})"
        f" and takes {gflops:.0f} GFLOPs, {gflops + flow:.0f} with the flow of the distortion layer" in text
    )
    assert "Table 8 has 8.38 M and 242 GFLOPs" in text
