"""What a teacher and a student are in a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

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
        default=None,
        description="A function of yours that builds the network instead, `package.module:function`; it replaces all"
        " keys above.",
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


Positive = Annotated[float, Field(gt=0)]
# Of ImageNet, red first, in 0..1.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Input(Block):
    """What a network of other software reads: pixels in 0..`range`, minus `mean`, divided by `std`.

    `mean` and `std` are in the units of `range` and in the order of `channels`; those of ImageNet, if not given.
    """

    mean: tuple[float, float, float] | None = Field(default=None, description="What is subtracted from each channel.")
    std: tuple[Positive, Positive, Positive] | None = Field(
        default=None, description="What each channel is divided by."
    )
    channels: Literal["rgb", "bgr"] = Field(default="rgb", description="The order of the channels.")
    range: Literal[1, 255] = Field(default=1, description="The largest value of a pixel before the mean is subtracted.")
    multiple: int = Field(
        default=1, ge=1, le=256, description="Heights and widths are padded to multiples of it, and logits cut back."
    )

    def in_bytes(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and deviation of images in 0..255, red first."""
        order = -1 if self.channels == "bgr" else 1
        unit = 255 / self.range
        mean, std = (
            tuple(255 * value for value in usual) if given is None else tuple(unit * value for value in given[::order])
            for given, usual in ((self.mean, IMAGENET_MEAN), (self.std, IMAGENET_STD))
        )
        return mean, std


class Teacher(Model):
    """The teacher: trained as `train` says and stored by content, or read whole from `checkpoint` or `factory`.

    [Teachers](teachers.md) lists what these can be: networks of other software too, for which the keys of a network
    (`encoder`, `head`, ...) are not used, and those from `factory` to `stride` say what their files do not.
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
        default=None,
        description="A file or folder with the whole teacher, or hf:OWNER/NAME; it is then not trained.",
    )
    smp: dict[str, Any] | None = Field(
        default=None,
        description="Arguments of segmentation_models_pytorch's `create_model`, for a state dict in `checkpoint`.",
    )
    input: Input | None = Field(
        default=None, description="What the network reads; default: what its files say, else ImageNet's."
    )
    classes: tuple[str, ...] | None = Field(
        default=None, description="The teacher's classes in its order; default: what its files say."
    )
    missing_classes: Literal["refuse", "lowest"] = Field(
        default="refuse",
        description="A class of the data that the teacher lacks is an error, or gets the lowest logit of each pixel.",
    )
    stride: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="Pixels per cell to which finer logits are averaged; default: the network's own.",
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
