"""Save and load layers with weights in Hugging Face's folder format: ``model.safetensors``, ``config.json`` and a model card, ``README.md``.

Needs the package safetensors; huggingface_hub only for names that are not local folders.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from torch import nn

from .buildable import Buildable
from .config import built
from .files import replacing

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


def save_pretrained(
    module: nn.Module, folder: str | os.PathLike[str], *, title: str, text: str = "", license: str = "mit", tags: tuple[str, ...] = ()
) -> Path:
    """Write a layer's description, its weights and a model card.

    Args:
        module: a diffcodec layer, or another module that is a :class:`diffcodec.buildable.Buildable`.
        folder: folder to write to; created if missing.
        title, text: title and text of the model card; say what the weights were fitted to, on which data, and how well.
        license: license of the weights, as Hugging Face spells it.
        tags: further tags of the model card, in addition to "diffcodec" and "watermarking".

    Returns:
        The folder.

    Raises:
        TypeError: a module whose arguments are not recorded or cannot be written as plain data.

    Example:
        >>> import tempfile, diffcodec as dc
        >>> from diffcodec import hub
        >>> net = dc.CompNet(4, 2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = hub.from_pretrained(hub.save_pretrained(net, folder, title="CompNet, untrained"))
        >>> all((a == b).all() for a, b in zip(net.state_dict().values(), again.state_dict().values()))
        True
    """
    from safetensors.torch import save_model

    if not isinstance(module, Buildable):
        raise TypeError(f"{type(module).__name__} keeps no arguments: make it a diffcodec.Layer, or a diffcodec.buildable.Buildable")
    config = module.config()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = ["diffcodec", "watermarking", *tags]
    head = "\n".join(["---", "library_name: diffcodec", f"license: {license}", "tags:", *(f"- {t}" for t in names), "---"])
    use = f'```python\nfrom diffcodec import hub\n\nlayer = hub.from_pretrained("{folder.resolve().name}")\n```'
    with replacing(folder / CARD) as path:
        path.write_text(f"{head}\n\n# {title}\n\n{text}\n\n{use}\n\n`{config['name']}` of diffcodec; arguments are in `{CONFIG}`.\n")
    with replacing(folder / CONFIG) as path:
        path.write_text(json.dumps(config, indent=1) + "\n")
    with replacing(folder / WEIGHTS) as path:
        save_model(module, str(path))  # shared tensors are stored once
    return folder


def from_pretrained(source: str | os.PathLike[str], *, revision: str | None = None, cache: str | os.PathLike[str] | None = None) -> Any:
    """Load a layer from a folder or a Hugging Face repository. Its description can name any class that can be imported: load only what you trust.

    Args:
        source: a local folder, or ``owner/name``.
        revision: branch, tag or commit of the repository.
        cache: folder for downloads; None for Hugging Face's default.

    Returns:
        The layer, with its weights.

    Raises:
        FileNotFoundError: no such folder and not the name of a repository, or a file in it is missing.
        ValueError: an invalid description, or weights that do not fit it.
        ImportError: a repository is named, and huggingface_hub is not installed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    folder = Path(source)
    if not folder.is_dir():
        if str(source).count("/") != 1 or str(source).startswith((".", "/")):
            raise FileNotFoundError(f"{source}: no such folder, and not the name of a repository (owner/name)")
        try:
            from huggingface_hub import snapshot_download
        except ImportError as error:
            raise ImportError(f"{source} is not a local folder; to download it: pip install huggingface_hub") from error
        folder = Path(snapshot_download(str(source), revision=revision, cache_dir=cache, allow_patterns=[WEIGHTS, CONFIG]))
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder}: {name} is missing")
    layer = built(folder / CONFIG, {})
    if not isinstance(layer, nn.Module):
        raise ValueError(f"{folder}: {CONFIG} describes a {type(layer).__name__}, which has no weights")
    try:
        load_model(layer, folder / WEIGHTS)
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder}: {WEIGHTS} does not fit {CONFIG}: {error}") from error
    return layer
