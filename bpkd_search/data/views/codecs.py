"""Storage formats of teacher logits: exact to float16, or smaller. All decode to float16 [B, C, h, w].

| option | bytes per location, C classes | what changes |
|---|---|---|
| `float16` | 2 C | rounding to 11 bits, values beyond 65,504 clipped |
| `int8` | C, plus 8 C per view | each class of a view in 256 even steps from its minimum to its maximum |
| `topk:K` | 3 K + 2 | all but the K largest classes share their softmax mass evenly |

The error of `int8` is at most half a step, 1/510 of the range of the class in that view. With `topk:K` the K largest
logits are exact to float16, and at temperature 1 so are their probabilities; at other temperatures the mass of the
rest is wrong, and losses over space see the other classes as flat. `topk:K` is smaller than `int8` for K < C / 3.

Measured on CamVid with 11 classes at 120x160 (128 views, EfficientNet-Lite0 teacher with 0.42 mIoU, whose softmax
has a mean entropy of 0.70 nats): mean KL in nats from the float16 softmax, over classes and over space.

| option | bytes per view | classes, tau 1 | classes, tau 4 | space, tau 1 | space, tau 4 |
|---|---|---|---|---|---|
| `float16` (from float32) | 26,400 | 3e-8 | 5e-9 | 2e-7 | 2e-9 |
| `int8` | 13,288 | 9e-6 | 1.5e-6 | 2.3e-5 | 1.4e-6 |
| `topk:1` | 6,000 | 0.095 | 0.019 | 0.18 | 0.018 |
| `topk:2` | 9,600 | 0.019 | 0.0073 | 0.059 | 0.0068 |
| `topk:4` | 16,800 | 0.0038 | 0.0025 | 0.022 | 0.0026 |
| `topk:8` | 31,200 | 0.0005 | 0.0005 | 0.0028 | 0.0005 |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from bpkd_search.errors import ConfigError

LARGEST = 65504.0
Rows = dict[str, tuple[tuple[int, ...], str]]


class Codec(Protocol):
    """Encodes logits [B, C, h, w] as arrays to be stored, and decodes those."""

    def rows(self, shape: tuple[int, int, int]) -> Rows:
        """Return the shape and dtype of one row of each array, for logits of shape (C, h, w)."""
        ...

    def encode(self, logits: Tensor) -> dict[str, Tensor]:
        """Return the arrays [B, ...] of a batch of logits, float32 [B, C, h, w]."""
        ...

    def decode(self, parts: dict[str, Tensor]) -> Tensor:
        """Return the logits of a batch, float16 [B, C, h, w], on the device of its arrays."""
        ...


class Float16:
    """Half precision, clipped to the range of float16."""

    def __init__(self, classes: int, argument: int | None = None) -> None:
        pass

    def rows(self, shape: tuple[int, int, int]) -> Rows:
        """Return one array."""
        return {"values": (shape, "<f2")}

    def encode(self, logits: Tensor) -> dict[str, Tensor]:
        """Round."""
        return {"values": _half(logits)}

    def decode(self, parts: dict[str, Tensor]) -> Tensor:
        """Return the stored logits unchanged."""
        return parts["values"]


class Int8:
    """256 even steps between the minimum and the maximum of each class of each view."""

    def __init__(self, classes: int, argument: int | None = None) -> None:
        pass

    def rows(self, shape: tuple[int, int, int]) -> Rows:
        """Return codes, and two numbers per class."""
        return {"codes": (shape, "|u1"), "low": (shape[:1], "<f4"), "step": (shape[:1], "<f4")}

    def encode(self, logits: Tensor) -> dict[str, Tensor]:
        """Round to the nearest step."""
        logits = logits.float().clamp(-LARGEST, LARGEST)
        low, high = logits.amin((2, 3)), logits.amax((2, 3))
        step = ((high - low) / 255).clamp(min=torch.finfo(torch.float32).tiny)
        codes = ((logits - low[:, :, None, None]) / step[:, :, None, None]).round().clamp(0, 255)
        return {"codes": codes.to(torch.uint8), "low": low, "step": step}

    def decode(self, parts: dict[str, Tensor]) -> Tensor:
        """Convert steps back to logits."""
        low, step = (parts[name][:, :, None, None] for name in ("low", "step"))
        return torch.addcmul(low, parts["codes"].float(), step).half()


class TopK:
    """The K largest logits of a location; the other classes share one value that keeps the softmax mass."""

    def __init__(self, classes: int, argument: int | None = None) -> None:
        if argument is None or not 1 <= argument < classes:
            got = "topk" if argument is None else f"topk:{argument}"
            raise ConfigError([f"data.logits: got {got}, must be topk:K with K from 1 to {classes - 1} here"])
        self.classes, self.k = classes, argument

    def rows(self, shape: tuple[int, int, int]) -> Rows:
        """Return indices and values of the K largest, and the value of the rest."""
        large = (self.k, *shape[1:])
        return {"index": (large, "|u1"), "values": (large, "<f2"), "rest": ((1, *shape[1:]), "<f2")}

    def encode(self, logits: Tensor) -> dict[str, Tensor]:
        """Select the K largest, and average the rest in probability."""
        values, order = logits.float().sort(dim=1, descending=True, stable=True)
        rest = values[:, self.k :].logsumexp(1, keepdim=True) - math.log(self.classes - self.k)
        index = order[:, : self.k].to(torch.uint8)
        return {"index": index, "values": _half(values[:, : self.k]), "rest": _half(rest)}

    def decode(self, parts: dict[str, Tensor]) -> Tensor:
        """Scatter to all classes."""
        rest = parts["rest"]
        logits = rest.expand(-1, self.classes, -1, -1).contiguous()
        return logits.scatter_(1, parts["index"].long(), parts["values"])


CODECS: dict[str, Callable[[int, int | None], Codec]] = {"float16": Float16, "int8": Int8, "topk": TopK}


def open_codec(name: str, classes: int) -> Codec:
    """Return the codec of a `data.logits` value. Raises `ConfigError` with the valid values if it is unknown."""
    kind, _, argument = name.partition(":")
    if kind not in CODECS or (argument and not argument.isdigit()) or bool(argument) != (kind == "topk"):
        raise ConfigError([f"data.logits: got {name!r}, must be float16, int8 or topk:K"])
    return CODECS[kind](classes, int(argument) if argument else None)


def _half(values: Tensor) -> Tensor:
    return values.float().clamp(-LARGEST, LARGEST).half()
