"""Public data sets in the directory layout and id encoding in which they are distributed.

Openers are called by `open_split`, which has checked the split and that `root` exists: the directory that directly
contains the subdirectories of the layout. Options and defaults are those of the blocks in `bpkd_search.data.kinds`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from bpkd_search.data import classes
from bpkd_search.data.base import IGNORE_INDEX, RGB
from bpkd_search.data.folder import IMAGE_SUFFIXES, MASK_SUFFIXES, FolderDataset, Pair, find_files, id_table, pair_files
from bpkd_search.data.kinds import CityscapesLabels
from bpkd_search.errors import DataError

Table = NDArray[np.int16]

CAMVID_VOID = 11
# Cityscapes: raw label ids of the 19 evaluated classes, in the order of their train ids
# (github.com/mcordts/cityscapesScripts, helpers/labels.py); every other raw id is ignored.
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def read_names(path: Path, *, layout: str) -> list[str]:
    """Read the sample names of a split, one per line. Raises `DataError` if the list is missing."""
    if not path.is_file():
        raise DataError(f"no such file: {path}; expected layout: {layout}")
    return path.read_text(encoding="utf-8").split()


def open_folder(
    split: str,
    root: Path,
    *,
    images: str,
    masks: str,
    class_names: Sequence[str],
    ignore_id: int,
    id_map: Mapping[int, int] | None,
) -> FolderDataset:
    """Open a directory of images and a directory of masks, matched by name without suffix.

    `images` and `masks` are paths below root, with `{split}` where the split's name goes
    ("images/{split}"). `id_map` maps mask ids to class ids or 255 (ignored); without it, mask ids are class ids.
    """
    for option, text in (("images", images), ("masks", masks)):
        if "{split}" not in text:
            raise DataError(f"folder {option}: got '{text}', must hold {{split}}, where the split's name goes")
    layout = f"images in <root>/{images}, masks in <root>/{masks}"
    image_folder, mask_folder = (root / text.replace("{split}", split) for text in (images, masks))
    pairs = pair_files(
        find_files(image_folder, IMAGE_SUFFIXES, layout=layout),
        find_files(mask_folder, MASK_SUFFIXES, layout=layout),
        where=str(image_folder),
    )
    table = id_table(len(class_names), ignore_id=ignore_id, id_map=id_map)
    return FolderDataset(pairs, class_names, classes.colour_map(len(class_names)), table)


def open_camvid(split: str, root: Path) -> FolderDataset:
    """Open CamVid with 11 classes (SegNet's split, 480x360); id 11 is void."""
    layout = f"<root>/{split}/*.png and <root>/{split}annot/*.png"
    pairs = pair_files(
        find_files(root / split, MASK_SUFFIXES, layout=layout),
        find_files(root / f"{split}annot", MASK_SUFFIXES, layout=layout),
        where=str(root / split),
    )
    return _with_colours(pairs, classes.CAMVID, id_table(len(classes.CAMVID), ignore_id=CAMVID_VOID))


def open_cityscapes(split: str, root: Path, *, labels: str) -> FolderDataset:
    """Open Cityscapes (fine, 19 classes) with its raw `labelIds` masks or with converted `labelTrainIds` masks."""
    if labels not in get_args(CityscapesLabels):
        raise DataError(f"cityscapes labels: got '{labels}', must be {' or '.join(get_args(CityscapesLabels))}")
    image_layout = f"<root>/leftImg8bit/{split}/<city>/*_leftImg8bit.png"
    layout = f"{image_layout} and <root>/gtFine/{split}/<city>/*_gtFine_{labels}.png"
    pairs = pair_files(
        find_files(root / "leftImg8bit" / split, MASK_SUFFIXES, ending="_leftImg8bit", layout=layout),
        find_files(root / "gtFine" / split, MASK_SUFFIXES, ending=f"_gtFine_{labels}", layout=layout),
        where=str(root / "leftImg8bit" / split),
    )
    raw = dict.fromkeys(range(34), IGNORE_INDEX) | {raw: train for train, raw in enumerate(CITYSCAPES_IDS)}
    table = id_table(len(classes.CITYSCAPES), id_map=raw if labels == "labelIds" else None)
    return _with_colours(pairs, classes.CITYSCAPES, table)


def open_ade20k(split: str, root: Path) -> FolderDataset:
    """Open ADE20K (scene parsing challenge, 150 classes); id 0 is ignored, id k is class k-1."""
    folder = {"train": "training", "val": "validation"}[split]
    layout = f"<root>/images/{folder}/*.jpg and <root>/annotations/{folder}/*.png"
    pairs = pair_files(
        find_files(root / "images" / folder, IMAGE_SUFFIXES, layout=layout),
        find_files(root / "annotations" / folder, MASK_SUFFIXES, layout=layout),
        where=str(root / "images" / folder),
    )
    return _with_colour_map(pairs, classes.ADE20K, _shifted(classes.ADE20K))


def open_voc(split: str, root: Path, *, augmented: bool) -> FolderDataset:
    """Open PASCAL VOC 2012 (21 classes, 255 void).

    `augmented` uses the additional masks of SegmentationClassAug, and trainaug.txt as the training list.
    """
    listed = "trainaug" if augmented and split == "train" else split
    masks = "SegmentationClassAug" if augmented else "SegmentationClass"
    pairs = _listed_pairs(root, f"ImageSets/Segmentation/{listed}.txt", masks)
    return _with_colour_map(pairs, classes.VOC, id_table(len(classes.VOC)))


def open_pascal_context(split: str, root: Path, *, background: bool) -> FolderDataset:
    """Open PASCAL Context: 59 classes (id 0 ignored, k is class k-1), or 60 with `background` as class 0."""
    names = f"ImageSets/SegmentationContext/{split}.txt"
    pairs = _listed_pairs(root, names, "SegmentationClassContext")
    class_names = ("background", *classes.PASCAL_CONTEXT) if background else classes.PASCAL_CONTEXT
    table = id_table(len(class_names)) if background else _shifted(class_names)
    return _with_colour_map(pairs, class_names, table)


def _listed_pairs(root: Path, names: str, masks: str) -> list[Pair]:
    """Pair the samples that a list file of the PASCAL layout contains."""
    layout = f"<root>/JPEGImages/*.jpg, <root>/{masks}/*.png and <root>/{names}"
    return pair_files(
        find_files(root / "JPEGImages", IMAGE_SUFFIXES, layout=layout),
        find_files(root / masks, MASK_SUFFIXES, layout=layout),
        where=str(root / names),
        names=read_names(root / names, layout=layout),
    )


def _shifted(class_names: Sequence[str]) -> Table:
    """Return the table for masks that count classes from 1 and use 0 for ignored pixels."""
    return id_table(len(class_names), id_map={0: IGNORE_INDEX} | {k + 1: k for k in range(len(class_names))})


def _with_colours(pairs: list[Pair], colours: Mapping[str, RGB], table: Table) -> FolderDataset:
    return FolderDataset(pairs, tuple(colours), tuple(colours.values()), table)


def _with_colour_map(pairs: list[Pair], names: Sequence[str], table: Table) -> FolderDataset:
    return FolderDataset(pairs, names, classes.colour_map(len(names)), table)
