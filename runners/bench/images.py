"""Images for both sides of `search.py`, as files in CamVid's layout."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from bpkd_search.data import IGNORE_INDEX, open_split
from bpkd_search.data.layouts import CAMVID_VOID


def draw(folder: Path, images: int, height: int, width: int) -> Path:
    """Scenes in CamVid's layout: three times as many to train on as to validate."""
    counts = {"train_images": images, "val_images": max(1, images // 3)}
    for split in ("train", "val"):
        for name in (split, f"{split}annot"):
            (folder / name).mkdir(parents=True)
        scenes = open_split("synthetic", split, height=height, width=width, **counts)
        for name, (image, label) in zip(scenes.names, (scenes[i] for i in range(len(scenes))), strict=True):
            label[label == IGNORE_INDEX] = CAMVID_VOID
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / split / f"{name}.png")
            Image.fromarray(label.numpy()).save(folder / f"{split}annot" / f"{name}.png")
    return folder


def first(root: Path, folder: Path, images: int) -> Path:
    """Links to the first images of a CamVid folder, and to as large a share of those for validation."""
    share = images / len(list((root / "train").glob("*.png")))
    for split in ("train", "val"):
        files = sorted((root / split).glob("*.png"))
        for name in (split, f"{split}annot"):
            (folder / name).mkdir(parents=True)
            for file in files[: max(1, round(share * len(files)))]:
                (folder / name / file.name).symlink_to((root / name / file.name).resolve())
    return folder
