"""The kinds of data sets: one entry per kind, with its splits, its options and the function that opens a split.

To add a kind, write its opener and its entry here. An opener is called as `opener(split, root, **options)`, with every
option of its block by name. This module does not import torch, so that a configuration is read in milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

from pydantic import Field, StrictBool, create_model, model_validator

from bpkd_search.blocks import Arguments, Block

B = TypeVar("B", bound=Block)
CityscapesLabels = Literal["labelIds", "labelTrainIds"]
CocoStuffLabels = Literal["original", "labelTrainIds"]
Encoding = Literal["ids", "colours"]
Channel = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Channel, Channel, Channel]


class CityscapesData(Block):
    """Which Cityscapes masks are read."""

    labels: CityscapesLabels = Field(
        default="labelIds", description="Raw ids as downloaded, or masks converted to the 19 train ids."
    )


class CocoStuffData(Block):
    """Which COCO-Stuff masks are read."""

    labels: CocoStuffLabels = Field(
        default="original",
        description="Masks as downloaded, or mmsegmentation's conversion to 171 ids (*_labelTrainIds.png).",
    )


class CustomData(Block):
    """A function of yours that opens a split, called as `factory(root, split, **arguments)`."""

    factory: str = Field(description="Import path, `package.module:function`.")
    arguments: Arguments = Field(default={}, description="Further arguments, by name.", validate_default=True)


class FolderData(Block):
    """Where a data set of the user keeps images and masks, and how ids or colours of masks map to classes."""

    images: str = Field(default="images/{split}", description="Images below `data.root`; `{split}` is the split.")
    masks: str = Field(default="masks/{split}", description="Masks below `data.root`, likewise.")
    class_names: tuple[str, ...] = Field(
        min_length=1, max_length=200, description="One name per class, in the order of class ids."
    )
    ignore_id: int = Field(default=255, description="Mask id of pixels that are ignored.")
    id_map: dict[int, int] | None = Field(
        default=None, description="Mask id to class id, or to 255 (ignored); without it, mask ids are class ids."
    )
    palette: tuple[Colour, ...] | None = Field(
        default=None, description="[red, green, blue] of each class, for pictures; default: those of PASCAL VOC."
    )
    encoding: Encoding = Field(default="ids", description="What pixels of masks are: ids, or the colours of `palette`.")
    ignore_colours: tuple[Colour, ...] = Field(
        default=(), description="Colours of pixels that are ignored, with `encoding: colours`."
    )

    @model_validator(mode="after")
    def _colours(self) -> FolderData:
        if faults := colour_faults(self.class_names, self.id_map, self.palette, self.encoding, self.ignore_colours):
            raise ValueError("; ".join(faults))
        return self


def colour_faults(
    class_names: Sequence[str],
    id_map: Mapping[int, int] | None,
    palette: Sequence[Colour] | None,
    encoding: str,
    ignore_colours: Sequence[Colour],
) -> list[str]:
    """Return what is wrong with the colours of a `folder` block."""
    if encoding not in get_args(Encoding):
        return [f"encoding: got '{encoding}', must be {' or '.join(get_args(Encoding))}"]
    faults = []
    if palette is not None and len(palette) != len(class_names):
        faults.append(f"palette: got {len(palette)} colours, must be one for each of the {len(class_names)} classes")
    if encoding == "ids":
        return [*faults, *(["ignore_colours: needs encoding: colours"] if ignore_colours else [])]
    if palette is None:
        faults.append("palette: is required with encoding: colours")
    if id_map is not None:
        faults.append("id_map: must be left out with encoding: colours, which has no ids")
    colours = [tuple(colour) for colour in (*(palette or ()), *ignore_colours)]
    if twice := sorted({colour for colour in colours if colours.count(colour) > 1}):
        faults.append(f"palette: got {list(twice[0])} more than once (ignore_colours included), must be distinct")
    return faults


def repeated(names: Sequence[str]) -> list[str]:
    """Return the names that are there more than once."""
    return sorted({name for name in names if names.count(name) > 1})


class HuggingFaceData(Block):
    """Which columns and splits of a data set saved by Hugging Face `datasets` are read, and how its mask ids map."""

    class_names: tuple[str, ...] = Field(
        min_length=1, max_length=200, description="One name per class, in the order of class ids."
    )
    image: str = Field(default="image", description="Column of the images.")
    mask: str = Field(default="label", description="Column of the masks: images or arrays of ids.")
    train: str = Field(default="train", description="Folder of the training split below `data.root`.")
    val: str = Field(default="validation", description="Folder of the validation split.")
    ignore_id: int = Field(default=255, description="Mask id of pixels that are ignored.")
    id_map: dict[int, int] | None = Field(
        default=None, description="Mask id to class id, or to 255 (ignored); without it, mask ids are class ids."
    )


class PascalContextData(Block):
    """Which classes of PASCAL Context are used."""

    background: StrictBool = Field(default=False, description="60 classes with background as class 0, instead of 59.")


class SyntheticData(Block):
    """Number, size and seed of the synthetic scenes."""

    train_images: int = Field(default=96, ge=1, description="Scenes of the training split.")
    val_images: int = Field(default=32, ge=1, description="Scenes of the validation split.")
    height: int = Field(default=96, ge=32, description="Height of a scene in pixels.")
    width: int = Field(default=128, ge=32, description="Width of a scene in pixels.")
    seed: int = Field(default=0, ge=0, description="Seed of the scenes.")


class VocData(Block):
    """Which PASCAL VOC 2012 masks are read."""

    augmented: StrictBool = Field(
        default=False, description="Masks of SegmentationClassAug, and trainaug.txt as the training list."
    )


@dataclass(frozen=True)
class Kind:
    """A kind of data set.

    `opener` is "module:function". `splits` is None if the directories of the user decide. `required` lists the options
    that a caller of `open_split` must give; `default` is the block used if a configuration has none.
    """

    opener: str
    splits: tuple[str, ...] | None = ("train", "val")
    needs_root: bool = True
    options: type[Block] | None = None
    default: Block | None = None
    required: tuple[str, ...] = ()

    def load_opener(self) -> Callable[..., Any]:
        """Import the opener."""
        module, _, function = self.opener.partition(":")
        opener: Callable[..., Any] = getattr(import_module(module), function)
        return opener


KINDS: dict[str, Kind] = {
    "ade20k": Kind("bpkd_search.data.layouts:open_ade20k"),
    "camvid": Kind("bpkd_search.data.layouts:open_camvid", splits=("train", "val", "test")),
    "cityscapes": Kind("bpkd_search.data.layouts:open_cityscapes", options=CityscapesData),
    "coco_stuff": Kind("bpkd_search.data.layouts:open_coco_stuff", options=CocoStuffData),
    "coco_stuff10k": Kind("bpkd_search.data.layouts:open_coco_stuff10k", options=CocoStuffData),
    "custom": Kind(
        "bpkd_search.data.custom:open_custom",
        splits=None,
        needs_root=False,
        options=CustomData,
        required=("factory",),
    ),
    "folder": Kind(
        "bpkd_search.data.layouts:open_folder",
        splits=None,
        options=FolderData,
        required=("images", "masks", "class_names"),
    ),
    "huggingface": Kind(
        "bpkd_search.data.huggingface:open_huggingface",
        splits=None,
        options=HuggingFaceData,
        required=("class_names",),
    ),
    "pascal_context": Kind("bpkd_search.data.layouts:open_pascal_context", options=PascalContextData),
    "synthetic": Kind(
        "bpkd_search.data.synthetic:open_synthetic", needs_root=False, options=SyntheticData, default=SyntheticData()
    ),
    "voc": Kind("bpkd_search.data.layouts:open_voc", options=VocData),
}

OPTION_BLOCKS = tuple(name for name, kind in KINDS.items() if kind.options is not None)

if TYPE_CHECKING:
    KindName = str
else:
    KindName = Literal[tuple(KINDS)]


def with_option_blocks(model: type[B]) -> type[B]:
    """Class decorator: add one field per kind that has options, named after the kind.

    The field is optional, unless the kind has a default block.
    """
    fields: dict[str, Any] = {
        name: (kind.options | None if kind.default is None else kind.options, kind.default)
        for name, kind in KINDS.items()
        if kind.options is not None
    }
    return create_model(model.__name__, __base__=model, __module__=model.__module__, __doc__=model.__doc__, **fields)
