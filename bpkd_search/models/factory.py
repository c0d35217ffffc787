"""Networks that a user's function builds: `factory: package.module:function`, called with the number of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bpkd_search.errors import ConfigError, UserError
from bpkd_search.imports import argument_faults, first_line, import_object
from bpkd_search.models.network import Network, Outputs

# The mean colour of ImageNet, in 0..255.
_GREY = (123.675, 116.28, 103.53)
# Submodules of a user's network that `train.head_lr` is about.
HEADS = ("head", "classifier")


class FactoryNetwork(Network):
    """A user's network, `network`, behind the interface of `Network`; what it returns is checked at every call.

    It gets images [B, 3, H, W], red first, float in 0..255, and returns logits [B, C, h, w], or a pair of logits and
    features [B, channels, h, w], if it has an attribute `channels`.
    Raises `ConfigError` that says what was returned and what must be.
    """

    def __init__(self, network: nn.Module, num_classes: int, place: str) -> None:
        super().__init__()
        self.network, self.num_classes, self.place = network, num_classes, place
        self.auxiliary = None
        channels = getattr(network, "channels", None)
        self.channels = channels if isinstance(channels, int) else None
        self.register_buffer("mean", torch.tensor(_GREY).view(1, 3, 1, 1), persistent=False)

    def outputs(self, images: Tensor) -> Outputs:
        """Return logits, and features or None; there is no auxiliary head."""
        returned = self.network(images.float())
        logits, features = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
        self._check("logits", logits, images, f"num_classes = {self.num_classes}", self.num_classes)
        if features is not None:
            self._check("features", features, images, f"its attribute channels = {self.channels}", self.channels)
        return logits, features, None

    def heads(self) -> Sequence[nn.Module]:
        """Return the network's submodules `head` and `classifier`. Raises `ConfigError` if it has neither."""
        found = [part for name in HEADS if isinstance(part := getattr(self.network, name, None), nn.Module)]
        if not found:
            rule = f"needs a submodule {' or '.join(HEADS)} in the network of {self.place}"
            raise ConfigError([f"train.head_lr: {rule}"])
        return found

    def _check(self, what: str, value: Any, images: Tensor, rule: str, channels: int | None) -> None:
        fault = None
        if not isinstance(value, Tensor):
            fault = f"a {type(value).__name__}"
        elif value.ndim != 4 or value.shape[0] != images.shape[0] or value.shape[1] != channels:
            fault = f"the shape {list(value.shape)}"
        elif not value.is_floating_point():
            fault = f"the dtype {value.dtype}"
        elif value.device != images.device:
            fault = f"the device {value.device}"
        if fault is not None:
            wanted = f"[{images.shape[0]}, {channels}, h, w]"
            raise ConfigError(
                [
                    f"factory: {self.place} builds a network that returns {what} of {fault} for"
                    f" {images.shape[0]} image(s), must be a floating-point tensor {wanted} ({rule}) on {images.device}"
                ]
            )


def build_network(place: str, arguments: Mapping[str, Any], num_classes: int) -> FactoryNetwork:
    """Return the network that the function at `place` builds for `num_classes` classes.

    Raises `ConfigError`, with keys of the network's block, if there is no such function, an argument is unknown or
    missing, or it raises or returns no module.
    """
    factory = import_object(place, "factory")
    if not callable(factory):
        raise ConfigError([f"factory: {place} is a {type(factory).__name__}, must be a function"])
    if faults := argument_faults(factory, place, arguments, "arguments", handed=("num_classes",)):
        raise ConfigError(faults)
    try:
        network = factory(num_classes, **arguments)
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as e:
        raise ConfigError([f"factory: {place} raised {first_line(e)}"]) from e
    if not isinstance(network, nn.Module):
        raise ConfigError([f"factory: {place} returned a {type(network).__name__}, must be a torch.nn.Module"])
    return FactoryNetwork(network, num_classes, place)
