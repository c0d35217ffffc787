"""What a distillation run and a search over runs are: frozen models, checked as they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StrictBool, StrictFloat, StrictInt, Tag, field_validator

from bpkd_search.blocks import Block
from bpkd_search.config.loss import Bpkd, Loss
from bpkd_search.config.search import Search

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]


class FolderData(Block):
    """Where a data set of one's own keeps images and masks, and what the ids mean."""

    images: str = "images/{split}"
    masks: str = "masks/{split}"
    class_names: tuple[str, ...] = Field(min_length=1, max_length=200)
    ignore_id: int = 255
    id_map: dict[int, int] | None = None


class SyntheticData(Block):
    """How many scenes the package draws, at which size, and from which seed."""

    train_images: int = Field(default=96, ge=1)
    val_images: int = Field(default=32, ge=1)
    height: int = Field(default=96, ge=32)
    width: int = Field(default=128, ge=32)
    seed: int = Field(default=0, ge=0)


class Data(Block):
    """Images and masks, the training crop in pixels, and the augmentation that makes the views.

    `images: computed` keeps no views on the disk: each is made anew, bit for bit the same, when it is read.
    `local_dir` is a folder of each node's own, `~` and `$VARIABLES` as that node has them, into which a search
    copies the views before its trials; without it every node reads `views_dir`. `logits` is how a stored teacher's
    outputs are kept: float16, int8 or topk:K. `test_split` names a held-out split that nothing reads but
    `bpkd-search confirm --test`, once for each confirmed student.
    """

    kind: Literal["synthetic", "camvid", "folder", "cityscapes", "ade20k", "pascal_context", "voc"] = "synthetic"
    root: Path | None = None
    height: int = Field(default=96, ge=32, le=4096)
    width: int = Field(default=128, ge=32, le=4096)
    scale: tuple[float, float] = (0.75, 1.5)
    flip: float = Field(default=0.5, ge=0, le=1)
    colour: float = Field(default=0.2, ge=0, le=1)
    views: int = Field(default=8, ge=1, le=1000)
    views_dir: Path | None = None
    local_dir: Path | None = None
    images: Literal["stored", "computed"] = "stored"
    logits: Annotated[str, Field(pattern=r"^(float16|int8|topk:[1-9]\d{0,2})$")] = "float16"
    seed: int = Field(default=0, ge=0)
    test_split: Name | None = None
    folder: FolderData | None = None
    synthetic: SyntheticData = SyntheticData()

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


class Model(Block):
    """A segmentation network: a timm encoder and a head; `weights` is a file that starts the encoder."""

    encoder: str
    head: Literal["fcn", "fpn", "psp", "aspp"] = "fpn"
    channels: int = Field(default=64, ge=8, le=1024)
    output_stride: Literal[8, 16, 32] = 32
    weights: Path | None = None


class Optimisation(Block):
    """How weights are trained. `lr` is the peak; it decays by `(1 - t)^power` after `warmup` epochs.

    With `gpu_seconds`, a run lasts as many whole epochs as come nearest to that time inside training, whatever
    `epochs` says, and the rate decays with the time spent: runs of dear and cheap losses then cost the same.
    `compile` trains by code that `torch.compile` makes once per process, student and batch size; results differ from
    those without it by rounding, and so does all that rounding leads to.
    """

    epochs: int = Field(default=8, ge=1)
    gpu_seconds: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=8, ge=1)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(default=0.05, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    power: float = Field(default=0.9, ge=0)
    warmup: float = Field(default=0.0, ge=0)
    grad_clip: float | None = Field(default=None, gt=0)
    amp: Literal["auto", "off"] = "auto"
    compile: bool = False
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    seed: int = Field(default=0, ge=0)


class Teacher(Model):
    """The teacher: trained as `train` says and stored by content, or read whole from `checkpoint`.

    With `mode: stored` its logits are computed once per view and read by every trial; `online` runs it at
    every step, which the feature losses need.
    """

    encoder: str = "mobilenetv3_large_100"
    checkpoint: Path | None = None
    mode: Literal["stored", "online"] = "stored"
    train: Optimisation = Optimisation(epochs=14)


class Student(Model):
    """The student."""

    encoder: str = "mobilenetv3_small_050"


class RunConfig(Block):
    """One distillation run, complete: what `bpkd-search train` takes and `export` writes."""

    data: Data = Data()
    teacher: Teacher = Teacher()
    student: Student = Student()
    loss: Loss = Bpkd()
    train: Optimisation = Optimisation()
    provenance: dict[str, Any] | None = None


class FloatRange(Block):
    """A real number from `float: [low, high]`, on a log scale or in steps if asked."""

    bounds: tuple[float, float] = Field(alias="float")
    step: float | None = Field(default=None, gt=0)
    log: bool = False
    when: dict[str, Any] = {}


class IntRange(Block):
    """A whole number from `int: [low, high]`, in steps if asked."""

    bounds: tuple[int, int] = Field(alias="int")
    step: int = Field(default=1, ge=1)
    log: bool = False
    when: dict[str, Any] = {}


class Choice(Block):
    """One of a list of values."""

    options: tuple[StrictBool | StrictInt | StrictFloat | str, ...] = Field(alias="choice", min_length=1)
    when: dict[str, Any] = {}


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

    tensorboard: bool = False
    mlflow: StrictBool | Annotated[str, Field(min_length=1)] = False
    wandb: bool = False
    csv: bool = False


class SearchConfig(RunConfig):
    """A search: a run, the parameters that vary in it, and how they are sampled."""

    name: Name = "search"
    search: Search = Search()
    logging: Logging = Logging()
    space: dict[str, Distribution] = Field(min_length=1)
    enqueue: tuple[dict[str, Any], ...] = ()

    def run(self) -> RunConfig:
        """The run that the search varies, without the search."""
        return RunConfig.model_validate({name: getattr(self, name) for name in RunConfig.model_fields})
