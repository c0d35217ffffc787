"""What a data set, its crops and its evaluation are in a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    StrictBool,
    Tag,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from bpkd_search.blocks import Arguments, Block, Matching
from bpkd_search.data.geometry import Sides
from bpkd_search.data.kinds import OPTION_BLOCKS, KindName, with_option_blocks

Side = Annotated[int, Field(ge=32, le=4096)]
Name = Annotated[
    str,
    Matching(
        r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}",
        "1 to 80 characters of a to z, A to Z, 0 to 9, dot, underscore and hyphen, the first a letter or digit",
    ),
]


def _size_or_sides(value: Any) -> str:
    return "sides" if isinstance(value, dict | Sides) else "size"


def _word_or_number(value: Any) -> str:
    return "word" if value == "auto" else "number"


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be auto or a whole number from 1 to 1000")
    return value


def _two_sides(value: Any) -> Any:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError("must be [height, width] in pixels, such as [96, 128]")
    return value


def _two_sides_or_a_rule(value: Any) -> Any:
    if not isinstance(value, list | tuple | dict | Sides | None) or (isinstance(value, list) and len(value) != 2):
        raise ValueError("must be [height, width] in pixels, or a length that keeps the aspect ratio: {short: N}")
    return value


class Metric(Block):
    """A metric of yours, called as `factory(num_classes, ignore_index=255, **arguments)`.

    It returns an object with `update(predictions, labels)` and `compute()`, as torchmetrics has them. Its score, the
    higher the better, is `custom_score` in every table.
    """

    factory: str = Field(description="Import path, `package.module:name`, of a class or function.")
    arguments: Arguments = Field(default={}, description="Further arguments, by name.", validate_default=True)


class Eval(Block):
    """How a network segments a whole image: in validation, for the held-out split and in `predict`.

    `slide` averages the logits of overlapping windows; the last window of a row or column ends at the image's border.
    Each of `scales`, and `flip` at each of them, is a pass of its own; the probabilities of several passes are
    averaged. Scores are of labels in their own resolution.
    """

    mode: Literal["whole", "slide"] = Field(
        default="whole", description="The whole image at once, or a sliding window over it."
    )
    crop: tuple[Side, Side] | None = Field(
        default=None, description="[height, width] of the windows in pixels; default: the training crop."
    )
    stride: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = Field(
        default=None, description="Pixels from one window to the next, [down, right]; default: two thirds of the crop."
    )
    flip: StrictBool = Field(default=False, description="Also segment the image flipped horizontally.")
    scales: tuple[Annotated[float, Field(gt=0, le=4)], ...] = Field(
        default=(1.0,), description="Factors by which the image is resized, a pass each."
    )
    labels: Literal["original", "resized"] = Field(
        default="original",
        description="Labels at their own resolution, or resized to the network's input as early versions did.",
    )

    metric: Metric | None = Field(default=None, description="A metric of your own beside those measured.")

    @model_serializer(mode="wrap")
    def _without_metric(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        tree: dict[str, Any] = handler(self)
        return {key: value for key, value in tree.items() if key != "metric" or value is not None}

    @field_validator("crop", "stride")
    @classmethod
    def _slides(cls, value: tuple[int, int] | None, info: ValidationInfo) -> tuple[int, int] | None:
        if value is not None and info.data.get("mode") == "whole":
            raise ValueError("must be left out unless mode is slide")
        if value is not None and info.field_name == "stride" and info.data.get("crop"):
            require_overlap(value, info.data["crop"])
        return value

    @field_validator("scales")
    @classmethod
    def _some(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value:
            raise ValueError("must hold at least one factor, such as 1.0")
        return value

    def windows(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return size and stride of the windows in pixels, (height, width) each.

        A stride that is not given is two thirds of the crop. Raises `ValueError` if `crop` is not given.
        """
        if self.crop is None:
            raise ValueError("crop: a sliding window needs its size")
        height, width = self.crop
        return self.crop, self.stride or (round(2 * height / 3), round(2 * width / 3))


def require_overlap(stride: tuple[int, int], crop: tuple[int, int]) -> None:
    """Check that windows leave no pixel out. Raises `ValueError`."""
    if stride[0] > crop[0] or stride[1] > crop[1]:
        raise ValueError(f"must not exceed the crop {list(crop)}: pixels between the windows would be left out")


@with_option_blocks
class Data(Block):
    """Images and masks, the training crop in pixels, and the augmentation.

    An image is resized as `resize` says (without it, it keeps its own resolution) and by a random factor of `scale`;
    a crop of it is trained on, padded where the image is smaller; padding is ignored. `views` are how many crops of an
    image are made once and kept; with `auto` that is one an epoch or none: then whole images are kept, and every epoch
    takes new crops (see `teacher.mode`). `images: computed` keeps no views on the disk: each is computed when it is
    read, bit for bit the same.
    `local_dir` is a folder of each node's own, `~` and `$VARIABLES` as that node has them, into which a search
    copies the views before its trials; without it every node reads `views_dir`. `logits` is how a stored teacher's
    outputs are kept: float16, int8 or topk:K. `test_split` names a held-out split that nothing reads but
    `bpkd-search confirm --test`, once for each confirmed student.
    """

    kind: KindName = Field(default="synthetic", description="Which data set; its options are in a block of this name.")
    root: Path | None = Field(
        default=None, description="Folder of the data set; without it, the variable BPKD_KIND, such as BPKD_CAMVID."
    )
    crop: Annotated[
        tuple[Side, Side],
        BeforeValidator(_two_sides),
        Field(description="[height, width] of training crops, in pixels."),
    ] = (96, 128)
    resize: Annotated[
        Annotated[
            Annotated[tuple[Side, Side], Tag("size")] | Annotated[Sides, Tag("sides")], Discriminator(_size_or_sides)
        ]
        | None,
        BeforeValidator(_two_sides_or_a_rule),
    ] = Field(
        default=None,
        description="Size of an image at scale 1: {short: N}, {long: N} or both keep its aspect ratio, [height, width]"
        " does not; without it, its own.",
    )
    scale: tuple[float, float] = Field(default=(0.75, 1.5), description="Range of the random scale of the image.")
    scale_steps: int = Field(
        default=7, ge=1, le=100, description="Scales of that range of which a teacher's maps are stored."
    )
    cat_max_ratio: float = Field(
        default=1.0, gt=0, le=1, description="Crops are drawn again, ten times at most, of which a class has more."
    )
    flip: float = Field(default=0.5, ge=0, le=1, description="Probability of a horizontal flip.")
    colour: float = Field(default=0.2, ge=0, le=1, description="Strength of the colour jitter.")
    hue: float = Field(default=0.0, ge=0, le=0.5, description="Largest random turn of the hue, in circles.")
    eval: Eval = Eval()
    val_images: int | None = Field(
        default=None,
        ge=1,
        description="Validation images of reports during training, a fixed sample; the last report has all.",
    )
    views: Annotated[
        Annotated[Literal["auto"], Tag("word")] | Annotated[int, Field(ge=1, le=1000), Tag("number")],
        Discriminator(_word_or_number),
        BeforeValidator(_no_boolean),
    ] = Field(
        default="auto", description="Augmented crops kept per image; `auto`: one an epoch, or new ones of whole images."
    )
    views_dir: Path | None = Field(
        default=None, description="Folder of views and teachers; default: BPKD_SEARCH_CACHE or the user's cache."
    )
    views_store: str | None = Field(
        default=None,
        description="URL of an object store that keeps built views and logits for other machines: s3://bucket/views.",
    )
    local_dir: Path | None = Field(default=None, description="Folder of each node's own copy of the views.")
    disk: float = Field(default=50.0, gt=0, description="GiB that `views: auto` may fill with views of one data set.")
    images: Literal["stored", "computed"] = Field(
        default="stored", description="Views kept on the disk, or made when read."
    )
    logits: Annotated[
        str, Matching(r"float16|int8|topk:[1-9][0-9]{0,2}", "float16, int8, or topk:K with K from 1 to 999")
    ] = Field(default="float16", description="Format of stored teacher logits: float16, int8 or topk:K.")
    seed: int = Field(default=0, ge=0, description="Seed of the crops.")
    test_split: Name | None = Field(default=None, description="Held-out split, read by `confirm --test` alone.")

    @model_validator(mode="before")
    @classmethod
    def _squeezed(cls, value: Any) -> Any:
        """Read `height` and `width`, to which images and labels were squeezed before there was `crop`."""
        if not isinstance(value, dict) or not {"height", "width"} & set(value):
            return value
        tree = dict(value)
        size = (tree.pop("height", 96), tree.pop("width", 128))
        for key, side in zip(("height", "width"), size, strict=True):
            if isinstance(side, bool) or not isinstance(side, int) or not 32 <= side <= 4096:
                raise ValueError(f"data.{key}: got {side!r}, must be a whole number from 32 to 4096")
        if given := [key for key in ("crop", "resize") if key in tree]:
            raise ValueError(
                f"got height and width beside {' and '.join(given)}: use data.crop and data.resize; height and width"
                " are both of them in older files"
            )
        if isinstance(given := tree.get("eval", {}), dict):
            tree["eval"] = {"labels": "resized", **given}
        return {"crop": size, "resize": size, "views": 8, **tree}

    @field_validator("scale")
    @classmethod
    def _range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 8:
            raise ValueError("must be [low, high] with 0 < low <= high <= 8")
        return value

    @field_validator("eval")
    @classmethod
    def _overlapping(cls, value: Eval, info: ValidationInfo) -> Eval:
        if value.stride is not None and value.crop is None and "crop" in info.data:
            try:
                require_overlap(value.stride, info.data["crop"])
            except ValueError as e:
                raise ValueError(f"stride {e}") from e
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
    def evaluation(self) -> Eval:
        """`eval`, with windows of the training crop if it slides and gives no other."""
        if self.eval.mode == "whole" or self.eval.crop is not None:
            return self.eval
        return self.eval.model_copy(update={"crop": self.crop})

    @property
    def options(self) -> Block | None:
        """The block of options of the chosen kind, or None if the kind has none or it is not given."""
        block: Block | None = getattr(self, self.kind, None)
        return block


# Where the options of data sets are in a configuration.
DATA_OPTIONS = tuple(f"data.{kind}" for kind in OPTION_BLOCKS)
