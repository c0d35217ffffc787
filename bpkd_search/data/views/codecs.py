"""How a teacher's logits are kept: exact to float16, or smaller. All read back as float16 [B, C, h, w].

| option | bytes a location, C classes | what changes |
|---|---|---|
| `float16` | 2 C | rounding to 11 bits, values beyond 65,504 clipped |
| `int8` | C, and 8 C a view | each class of a view in 256 even steps from its least to its largest value |
| `topk:K` | 3 K + 2 | all but the K largest classes share their softmax mass evenly |

Errors of `int8` are at most half a step, 1/510 of the class's range in that view. With `topk:K` the K largest
logits are exact to float16, and so are, at temperature 1, their probabilities; at other temperatures the rest's
mass is off, and losses over space see the lesser classes flat. `topk:K` is the smaller one below K = C / 3.

Measured on CamVid's 11 classes at 120x160 (128 views, EfficientNet-Lite0 teacher of 0.42 mIoU, whose softmax
has a mean entropy of 0.70 nats): mean KL in nats from the float16 softmax, over classes and over space.

| option | bytes a view | classes, tau 1 | classes, tau 4 | space, tau 1 | space, tau 4 |
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
    """Turns logits [B, C, h, w] into arrays to be stored, and those back into logits."""

    def rows(self, shape: tuple[int, int, int]) -> Rows:
        """Each array's shape and dtype in a row, for logits of shape (C, h, w)."""
        ...

    def encode(self, logits: Tensor) -> dict[str, Tensor]:
        """Arrays of a batch of logits float32."""
        ...

    def decode(self, parts: dict[str, Tensor]) -> Tensor:
        """Logits float16 of a batch, on the device where its arrays are."""
        ...


class Float16:
    """Half precision, clipped to its range."""

    def __init__(self, classes: int, argument: int | None = None) -> None:
        pass

    def rows(self, shape: tuple[int, int, int]) -> Rows:
        """One array."""
        return {"values": (shape, "<f2")}

    def encode(self, logits: Tensor) -> dict[str, Tensor]:
        """Round."""
        return {"values": _half(logits)}

    def decode(self, parts: dict[str, Tensor]) -> Tensor:
        """As they are."""
        return parts["values"]


class Int8:
    """256 even steps between the least and the largest value of each class of each view."""

    def __init__(self, classes: int, argument: int | None = None) -> None:
        pass

    def rows(self, shape: tuple[int, int, int]) -> Rows:
        """Codes, and two numbers a class."""
        return {"codes": (shape, "|u1"), "low": (shape[:1], "<f4"), "step": (shape[:1], "<f4")}

    def encode(self, logits: Tensor) -> dict[str, Tensor]:
        """Round to the nearest step."""
        logits = logits.float().clamp(-LARGEST, LARGEST)
        low, high = logits.amin((2, 3)), logits.amax((2, 3))
        step = ((high - low) / 255).clamp(min=torch.finfo(torch.float32).tiny)
        codes = ((logits - low[:, :, None, None]) / step[:, :, None, None]).round().clamp(0, 255)
        return {"codes": codes.to(torch.uint8), "low": low, "step": step}

    def decode(self, parts: dict[str, Tensor]) -> Tensor:
        """Steps back to values."""
        low, step = (parts[name][:, :, None, None] for name in ("low", "step"))
        return torch.addcmul(low, parts["codes"].float(), step).half()


class TopK:
    """The K largest logits of a location; every other class has the value that keeps the softmax's mass."""

    def __init__(self, classes: int, argument: int | None = None) -> None:
        if argument is None or not 1 <= argument < classes:
            got = "topk" if argument is None else f"topk:{argument}"
            raise ConfigError([f"data.logits: got {got}, must be topk:K with K from 1 to {classes - 1} here"])
        self.classes, self.k = classes, argument

    def rows(self, shape: tuple[int, int, int]) -> Rows:
        """Indices and values of the largest, and the value of the rest."""
        large = (self.k, *shape[1:])
        return {"index": (large, "|u1"), "values": (large, "<f2"), "rest": ((1, *shape[1:]), "<f2")}

    def encode(self, logits: Tensor) -> dict[str, Tensor]:
        """Pick, and average the rest in probability."""
        values, order = logits.float().sort(dim=1, descending=True, stable=True)
        rest = values[:, self.k :].logsumexp(1, keepdim=True) - math.log(self.classes - self.k)
        index = order[:, : self.k].to(torch.uint8)
        return {"index": index, "values": _half(values[:, : self.k]), "rest": _half(rest)}

    def decode(self, parts: dict[str, Tensor]) -> Tensor:
        """Spread out again."""
        rest = parts["rest"]
        logits = rest.expand(-1, self.classes, -1, -1).contiguous()
        return logits.scatter_(1, parts["index"].long(), parts["values"])


CODECS: dict[str, Callable[[int, int | None], Codec]] = {"float16": Float16, "int8": Int8, "topk": TopK}


def open_codec(name: str, classes: int) -> Codec:
    """The codec of a `data.logits` option for a number of classes. Raises `ConfigError` with what is valid."""
    kind, _, argument = name.partition(":")
    if kind not in CODECS or (argument and not argument.isdigit()) or bool(argument) != (kind == "topk"):
        raise ConfigError([f"data.logits: got {name!r}, must be float16, int8 or topk:K"])
    return CODECS[kind](classes, int(argument) if argument else None)


def _half(values: Tensor) -> Tensor:
    return values.float().clamp(-LARGEST, LARGEST).half()
