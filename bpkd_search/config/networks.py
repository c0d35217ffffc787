"""What a teacher and a student are in a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from typing_extensions import Self

from bpkd_search.blocks import Arguments, Block
from bpkd_search.config.optimisation import Optimisation


class Model(Block):
    """A segmentation network: an encoder and a head; `weights` is a file that starts the encoder.

    `pspnet`, `deeplabv3plus`, `isanet`, `hrnetv2` and `segformer` are the published heads, as mmsegmentation builds
    them; `psp` and `aspp` are lighter. [Networks](networks.md) lists the paper's.
    """

    encoder: str = Field(description="A timm model with a feature pyramid (`features_only`).")
    head: Literal["fcn", "fpn", "psp", "aspp", "pspnet", "deeplabv3plus", "isanet", "hrnetv2", "segformer"] = Field(
        default="fpn", description="What turns the encoder's features into one map."
    )
    channels: int = Field(default=64, ge=8, le=1024, description="Width of the head.")
    output_stride: Literal[8, 16, 32] = Field(
        default=32, description="Stride of the encoder's last features; 8 and 16 dilate it."
    )
    auxiliary_weight: float = Field(
        default=0,
        ge=0,
        description="Weight of an auxiliary FCN head's cross-entropy in training; 0: no such head; papers use 0.4.",
    )
    weights: Path | None = Field(
        default=None,
        description="A file with the encoder's first weights, of timm or mmsegmentation; nothing is downloaded.",
    )
    factory: str | None = Field(
        default=None, description="Your own network instead: `package.module:function`; it replaces all keys above."
    )
    arguments: Arguments = Field(default={}, description="Arguments of `factory`, by name.", validate_default=True)

    @model_validator(mode="after")
    def _either(self) -> Self:
        if self.factory is None:
            if self.arguments:
                raise ValueError("arguments need factory, package.module:function, which takes them")
            return self
        for name in BUILT:
            if getattr(self, name) != type(self).model_fields[name].get_default():
                raise ValueError(f"{name} and factory are both given; a factory builds the whole network")
        return self

    @model_serializer(mode="wrap")
    def _as_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        tree: dict[str, Any] = handler(self)
        without = ("factory", "arguments") if self.factory is None else BUILT
        return {key: value for key, value in tree.items() if key not in without}

    @property
    def described(self) -> str:
        """The network in a few words."""
        if self.factory is None:
            return f"{self.encoder} + {self.head}"
        return f"{self.factory}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"


# The keys of a network that this package builds.
BUILT = ("encoder", "head", "channels", "output_stride", "auxiliary_weight", "weights")


class Teacher(Model):
    """The teacher: trained as `train` says and stored by content, or read whole from `checkpoint`.

    With `mode: stored` its logits are computed once per view and read by every trial. With `maps` they are computed on
    whole images, at `data.scale_steps` scales, and a crop, new at every epoch, reads a slice of them. `online` runs it
    at every step, which the feature losses need. `auto` takes the cheapest that gives every epoch its own crops:
    views, one an epoch, where those need less of the teacher than maps and fit `data.disk`; maps, if they agree with
    the teacher on crops; or online.
    """

    encoder: str = Field(
        default="mobilenetv3_large_100", description="A timm model with a feature pyramid (`features_only`)."
    )
    checkpoint: Path | None = Field(
        default=None, description="A file with all the teacher's weights; it is then not trained."
    )
    mode: Literal["auto", "stored", "maps", "online"] = Field(
        default="auto", description="Logits stored on views or on whole images, or the teacher run at every step."
    )
    train: Optimisation = Optimisation(epochs=14)


class Student(Model):
    """The student."""

    encoder: str = Field(
        default="mobilenetv3_small_050", description="A timm model with a feature pyramid (`features_only`)."
    )
