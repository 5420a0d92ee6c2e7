"""Weights in folders of Hugging Face's form."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers import natural

import diffcodec as dc
from diffcodec import hub
from diffcodec.buildable import Buildable


def test_a_layer_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = dc.Compose([dc.DiffJPEG(60), dc.CompNet(4, 2)])
    folder = hub.save_pretrained(layer, tmp_path / "mine", title="Mine", text="Fitted to nothing.", license="cc0-1.0", tags=("video",))
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    again = hub.from_pretrained(folder)
    x = natural(1, 2)
    assert torch.equal(again(x), layer(x))
    front = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert front == {"library_name": "diffcodec", "license": "cc0-1.0", "tags": ["diffcodec", "watermarking", "video"]}


class Net(Buildable, torch.nn.Module):
    """A module that is no layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = torch.nn.Linear(width, 1)


def test_a_module_that_keeps_its_arguments_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    net = Net(3)
    again = hub.from_pretrained(hub.save_pretrained(net, ".", title="Net"))
    assert type(again) is Net
    assert torch.equal(again.net.weight, net.net.weight)
    assert f'from_pretrained("{tmp_path.name}")' in (tmp_path / "README.md").read_text()


def test_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match="Linear keeps no arguments"):
        hub.save_pretrained(torch.nn.Linear(1, 1), tmp_path / "no", title="")
    assert not (tmp_path / "no").exists()
    folder = hub.save_pretrained(dc.CompNet(4, 2), tmp_path / "a", title="A")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(dc.CompNet(8, 2).config()))
    with pytest.raises(ValueError, match=r"model\.safetensors does not fit config\.json"):
        hub.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config | {"name": "CompNett"}))
    with pytest.raises(ValueError, match="did you mean 'CompNet'"):
        hub.from_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"garbage")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"model\.safetensors does not fit config\.json"):
        hub.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing"):
        hub.from_pretrained(folder)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        hub.from_pretrained("./nowhere")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        hub.from_pretrained("owner/name")
