"""Keys of the cache: each is a hash of everything that determines the bytes that are stored under it.

A key is made from parts, which the owners of the settings name, and from the libraries that compute the bytes:

- **Views**: torchvision resizes and jitters them, Pillow decodes the files.
- **Trained teachers**: timm defines the network and its initial weights. The machine is not part of the key: a teacher
  trained on a GPU serves a laptop too, and all that follows is keyed by the contents of its weights.
- **Logits of a teacher**: timm's network maps images to them, and device and number format decide how they are rounded.

Versions count as MAJOR.MINOR: patch releases fix bugs and must not cost a rebuild, minor releases may change
resampling, decoders or networks. PyTorch is not listed, since every minor release of it has its own of torchvision.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from bpkd_search.data.base import digest

_MODULES = {"Pillow": "PIL", "timm": "timm", "torchvision": "torchvision"}
LIBRARIES = tuple(_MODULES)


def views_key(parts: Sequence[Any]) -> str:
    """Return the key of views, given what else determines them."""
    return digest([*parts, _versions("torchvision", "Pillow")])


def teacher_key(parts: Sequence[Any]) -> str:
    """Return the key of a teacher's weights and scores, given what else determines them."""
    return digest([*parts, _versions("timm")])


def logits_key(parts: Sequence[Any], precision: str) -> str:
    """Return the key of a teacher's logits, given what else determines them.

    `parts` hold the contents of its weights and how the logits are stored; `precision` is that of `models.build`.
    """
    return digest([*parts, _versions("timm"), precision])


def version(library: str) -> str:
    """Return MAJOR.MINOR of an installed library, one of `LIBRARIES`."""
    # Not the package's metadata: builds such as pillow-simd have another name.
    full = str(import_module(_MODULES[library]).__version__)
    return ".".join(full.split(".")[:2])


def _versions(*libraries: str) -> dict[str, str]:
    return {library: version(library) for library in libraries}
