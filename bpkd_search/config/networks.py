"""What a teacher and a student are in a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from bpkd_search.blocks import Block
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
