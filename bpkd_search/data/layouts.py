"""Public data sets in the directory layout and id encoding in which they are distributed.

Openers are called by `open_split`, which has checked the split and that `root` exists: the directory that directly
contains the subdirectories of the layout. Options and defaults are those of the blocks in `bpkd_search.data.kinds`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import get_args

from bpkd_search.data import classes
from bpkd_search.data.base import IGNORE_INDEX, RGB
from bpkd_search.data.folder import IMAGE_SUFFIXES, MASK_SUFFIXES, FolderDataset, Pairs, find_files, pair_files
from bpkd_search.data.kinds import CityscapesLabels, CocoStuffLabels, Encoding, colour_faults
from bpkd_search.data.masks import Table, colour_table, id_table
from bpkd_search.errors import DataError

CAMVID_VOID = 11
# Cityscapes: raw label ids of the 19 evaluated classes, in the order of their train ids
# (github.com/mcordts/cityscapesScripts, helpers/labels.py); every other raw id is ignored.
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
# COCO-Stuff: label ids of 1 to 182 that no image has, classes of COCO without any segmentation
# (github.com/nightrome/cocostuff, labels.txt and README); the other 171 are the classes.
COCO_STUFF_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
COCO_STUFF_IDS = tuple(label for label in range(1, 183) if label not in COCO_STUFF_UNUSED)
TRAIN_IDS = "_labelTrainIds"


def read_names(path: Path, *, layout: str) -> list[str]:
    """Read the sample names of a split, one per line. Raises `DataError` if the list is missing or no text."""
    if not path.is_file():
        raise DataError(f"no such file: {path}; expected layout: {layout}")
    try:
        # With the mark that some editors put before the text, and names that hold spaces.
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not text in UTF-8: {error}") from error
    return [name for line in lines if (name := line.strip())]


def open_folder(
    split: str,
    root: Path,
    *,
    images: str,
    masks: str,
    class_names: Sequence[str],
    ignore_id: int,
    id_map: Mapping[int, int] | None,
    palette: Sequence[RGB] | None,
    encoding: Encoding,
    ignore_colours: Sequence[RGB],
) -> FolderDataset:
    """Open a directory of images and a directory of masks, matched by name without suffix.

    `images` and `masks` are paths below root, with `{split}` where the split's name goes
    ("images/{split}"). `id_map` maps mask ids to class ids or 255 (ignored); without it, mask ids are class ids. With
    `encoding` "colours", masks hold the colours of `palette`, or `ignore_colours`.
    """
    if faults := colour_faults(class_names, id_map, palette, encoding, ignore_colours):
        raise DataError(f"folder {'; '.join(faults)}")
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
    colours = encoding == "colours"
    drawn = palette or classes.colour_map(len(class_names))
    table = id_table(len(class_names), ignore_id=ignore_id, id_map=id_map)
    return FolderDataset(
        pairs, class_names, drawn, colour_table(drawn, ignore_colours) if colours else table, colours=colours
    )


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
    return _with_colours(pairs, classes.ADE20K, _shifted(classes.ADE20K))


def open_coco_stuff(split: str, root: Path, *, labels: CocoStuffLabels) -> FolderDataset:
    """Open COCO-Stuff (164k images, 171 classes): masks of stuffthingmaps, or those that mmsegmentation converts.

    The former hold the label id minus 1, and 255 for unlabelled pixels.
    """
    _check_labels("coco_stuff", labels)
    images, masks = (root / part / f"{split}2017" for part in ("images", "annotations"))
    ending = TRAIN_IDS if labels == "labelTrainIds" else ""
    layout = f"<root>/images/{split}2017/*.jpg and <root>/annotations/{split}2017/*{ending}.png"
    found = find_files(masks, MASK_SUFFIXES, ending=ending, layout=layout)
    if not ending:  # converted masks lie beside the original ones
        found = {name: path for name, path in found.items() if not name.endswith(TRAIN_IDS)}
    pairs = pair_files(find_files(images, IMAGE_SUFFIXES, layout=layout), found, where=str(images))
    original = {label - 1: place for place, label in enumerate(COCO_STUFF_IDS)}
    table = id_table(len(classes.COCO_STUFF), id_map=None if ending else original)
    return _with_colour_map(pairs, classes.COCO_STUFF, table)


def open_coco_stuff10k(split: str, root: Path, *, labels: CocoStuffLabels) -> FolderDataset:
    """Open COCO-Stuff 10k (171 classes), whose `test` list is the validation split: .mat masks, or converted ones.

    Both hold 0 for unlabelled pixels; the former the label id, the latter the class plus 1.
    """
    _check_labels("coco_stuff10k", labels)
    part = {"train": "train", "val": "test"}[split]
    if labels == "labelTrainIds":
        images, masks = (root / folder / f"{part}2014" for folder in ("images", "annotations"))
        layout = f"<root>/images/{part}2014/*.jpg and <root>/annotations/{part}2014/*{TRAIN_IDS}.png"
        pairs = pair_files(
            find_files(images, IMAGE_SUFFIXES, layout=layout),
            find_files(masks, MASK_SUFFIXES, ending=TRAIN_IDS, layout=layout),
            where=str(images),
        )
        return _with_colour_map(pairs, classes.COCO_STUFF, _shifted(classes.COCO_STUFF))
    names = root / "imageLists" / f"{part}.txt"
    layout = f"<root>/images/*.jpg, <root>/annotations/*.mat and <root>/imageLists/{part}.txt"
    pairs = pair_files(
        find_files(root / "images", IMAGE_SUFFIXES, layout=layout),
        find_files(root / "annotations", (".mat",), layout=layout),
        where=str(names),
        names=read_names(names, layout=layout),
    )
    original = {0: IGNORE_INDEX} | {label: place for place, label in enumerate(COCO_STUFF_IDS)}
    return _with_colour_map(pairs, classes.COCO_STUFF, id_table(len(classes.COCO_STUFF), id_map=original))


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


def _listed_pairs(root: Path, names: str, masks: str) -> Pairs:
    """Pair the samples that a list file of the PASCAL layout contains."""
    layout = f"<root>/JPEGImages/*.jpg, <root>/{masks}/*.png and <root>/{names}"
    return pair_files(
        find_files(root / "JPEGImages", IMAGE_SUFFIXES, layout=layout),
        find_files(root / masks, MASK_SUFFIXES, layout=layout),
        where=str(root / names),
        names=read_names(root / names, layout=layout),
    )


def _check_labels(kind: str, labels: str) -> None:
    if labels not in get_args(CocoStuffLabels):
        raise DataError(f"{kind} labels: got '{labels}', must be {' or '.join(get_args(CocoStuffLabels))}")


def _shifted(class_names: Collection[str]) -> Table:
    """Return the table for masks that count classes from 1 and use 0 for ignored pixels."""
    return id_table(len(class_names), id_map={0: IGNORE_INDEX} | {k + 1: k for k in range(len(class_names))})


def _with_colours(pairs: Pairs, colours: Mapping[str, RGB], table: Table) -> FolderDataset:
    return FolderDataset(pairs, tuple(colours), tuple(colours.values()), table)


def _with_colour_map(pairs: Pairs, names: Sequence[str], table: Table) -> FolderDataset:
    return FolderDataset(pairs, names, classes.colour_map(len(names)), table)
