"""What a distillation run and a search over runs are: frozen models, checked as they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    StrictBool,
    StrictFloat,
    StrictInt,
    Tag,
    field_validator,
    model_serializer,
)

from bpkd_search.blocks import Block, Matching
from bpkd_search.config.loss import Loss
from bpkd_search.config.optimisation import Optimisation
from bpkd_search.config.search import Search
from bpkd_search.data.kinds import OPTION_BLOCKS, KindName, with_option_blocks
from bpkd_search.losses.methods import Bpkd

Name = Annotated[
    str,
    Matching(
        r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}",
        "1 to 80 characters of a to z, A to Z, 0 to 9, dot, underscore and hyphen, the first a letter or digit",
    ),
]


@with_option_blocks
class Data(Block):
    """Images and masks, the training crop in pixels, and the augmentation that makes the views.

    `images: computed` keeps no views on the disk: each is computed when it is read, bit for bit the same.
    `local_dir` is a folder of each node's own, `~` and `$VARIABLES` as that node has them, into which a search
    copies the views before its trials; without it every node reads `views_dir`. `logits` is how a stored teacher's
    outputs are kept: float16, int8 or topk:K. `test_split` names a held-out split that nothing reads but
    `bpkd-search confirm --test`, once for each confirmed student.
    """

    kind: KindName = Field(default="synthetic", description="Which data set; its options are in a block of this name.")
    root: Path | None = Field(
        default=None, description="Folder of the data set; without it, the variable BPKD_KIND, such as BPKD_CAMVID."
    )
    height: int = Field(default=96, ge=32, le=4096, description="Height of training crops and validation, in pixels.")
    width: int = Field(default=128, ge=32, le=4096, description="Width of training crops and validation, in pixels.")
    scale: tuple[float, float] = Field(
        default=(0.75, 1.5), description="Range of the random scale; 1 is the whole image resized to the crop."
    )
    flip: float = Field(default=0.5, ge=0, le=1, description="Probability of a horizontal flip.")
    colour: float = Field(default=0.2, ge=0, le=1, description="Strength of the colour jitter.")
    views: int = Field(default=8, ge=1, le=1000, description="Augmented crops kept per image.")
    views_dir: Path | None = Field(
        default=None, description="Folder of views and teachers; default: BPKD_SEARCH_CACHE or the user's cache."
    )
    local_dir: Path | None = Field(default=None, description="Folder of each node's own copy of the views.")
    images: Literal["stored", "computed"] = Field(
        default="stored", description="Views kept on the disk, or made when read."
    )
    logits: Annotated[
        str, Matching(r"float16|int8|topk:[1-9][0-9]{0,2}", "float16, int8, or topk:K with K from 1 to 999")
    ] = Field(default="float16", description="Format of stored teacher logits: float16, int8 or topk:K.")
    seed: int = Field(default=0, ge=0, description="Seed of the views.")
    test_split: Name | None = Field(default=None, description="Held-out split, read by `confirm --test` alone.")

    @field_validator("scale")
    @classmethod
    def _range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 8:
            raise ValueError("must be [low, high] with 0 < low <= high <= 8")
        return value

    @field_validator("test_split")
    @classmethod
    def _held_out(cls, value: str | None) -> str | None:
        if value in ("train", "val"):
            raise ValueError("must be a split that the search does not use: not train, not val")
        return value

    @model_serializer(mode="wrap")
    def _without_empty_blocks(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        tree: dict[str, Any] = handler(self)
        return {key: value for key, value in tree.items() if value is not None or key not in OPTION_BLOCKS}

    @property
    def options(self) -> Block | None:
        """The block of options of the chosen kind, or None if the kind has none or it is not given."""
        block: Block | None = getattr(self, self.kind, None)
        return block


# Where the options of data sets are in a configuration.
DATA_OPTIONS = tuple(f"data.{kind}" for kind in OPTION_BLOCKS)


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

    With `mode: stored` its logits are computed once per view and read by every trial; `online` runs it at
    every step, which the feature losses need.
    """

    encoder: str = Field(
        default="mobilenetv3_large_100", description="A timm model with a feature pyramid (`features_only`)."
    )
    checkpoint: Path | None = Field(
        default=None, description="A file with all the teacher's weights; it is then not trained."
    )
    mode: Literal["stored", "online"] = Field(
        default="stored", description="Logits from the store, or the teacher run at every step."
    )
    train: Optimisation = Optimisation(epochs=14)


class Student(Model):
    """The student."""

    encoder: str = Field(
        default="mobilenetv3_small_050", description="A timm model with a feature pyramid (`features_only`)."
    )


class RunConfig(Block):
    """One distillation run, complete: what `bpkd-search train` takes and `export` writes."""

    data: Data = Data()
    teacher: Teacher = Teacher()
    student: Student = Student()
    loss: Loss = Bpkd()
    train: Optimisation = Optimisation()
    provenance: dict[str, Any] | None = Field(
        default=None, description="What `export` writes about where a setting comes from."
    )


class FloatRange(Block):
    """A real number from `float: [low, high]`, on a log scale or in steps if asked."""

    bounds: tuple[float, float] = Field(alias="float", description="Lowest and highest value.")
    step: float | None = Field(default=None, gt=0, description="Distance between values.")
    log: StrictBool = Field(default=False, description="Sample on a logarithmic scale.")
    when: dict[str, Any] = Field(
        default={}, description="Sampled only where these paths have these values (one, or any of a list)."
    )


class IntRange(Block):
    """A whole number from `int: [low, high]`, in steps if asked."""

    bounds: tuple[int, int] = Field(alias="int", description="Lowest and highest value.")
    step: int = Field(default=1, ge=1, description="Distance between values.")
    log: StrictBool = Field(default=False, description="Sample on a logarithmic scale.")
    when: dict[str, Any] = Field(
        default={}, description="Sampled only where these paths have these values (one, or any of a list)."
    )


class Choice(Block):
    """One of a list of values."""

    options: tuple[StrictBool | StrictInt | StrictFloat | str, ...] = Field(
        alias="choice", min_length=1, description="The values."
    )
    when: dict[str, Any] = Field(
        default={}, description="Sampled only where these paths have these values (one, or any of a list)."
    )


def _kind(value: Any) -> str | None:
    if isinstance(value, dict):
        return next((kind for kind in ("float", "int", "choice") if kind in value), None)
    kinds = {"float": FloatRange, "int": IntRange, "choice": Choice}
    return next((kind for kind, model in kinds.items() if isinstance(value, model)), None)


Distribution = Annotated[
    Annotated[FloatRange, Tag("float")] | Annotated[IntRange, Tag("int")] | Annotated[Choice, Tag("choice")],
    Discriminator(
        _kind,
        custom_error_type="distribution",
        custom_error_message="must be {float: [low, high]}, {int: [low, high]} or {choice: [...]}",
    ),
]


class Logging(Block):
    """Loggers beside the tables, each off by default; `mlflow` may be a path or a tracking URI."""

    tensorboard: StrictBool = Field(default=False, description="Event files for TensorBoard.")
    mlflow: StrictBool | Annotated[str, Field(min_length=1)] = Field(
        default=False, description="Runs in MLflow; a path or a tracking URI says where."
    )
    wandb: StrictBool = Field(default=False, description="Runs in Weights & Biases.")
    csv: StrictBool = Field(default=False, description="CSV files.")


class SearchConfig(RunConfig):
    """A search: a run, the parameters that vary in it, and how they are sampled."""

    name: Name = Field(default="search", description="Name of the experiment; its directory is `runs/NAME`.")
    search: Search = Search()
    logging: Logging = Logging()
    space: dict[str, Distribution] = Field(
        min_length=1, description="Dotted paths below `loss`, `train` and `student`, each with a distribution."
    )
    enqueue: tuple[dict[str, Any], ...] = Field(default=(), description="Points tried before the sampler's.")

    def run(self) -> RunConfig:
        """The run that the search varies, without the search."""
        return RunConfig.model_validate({name: getattr(self, name) for name in RunConfig.model_fields})
