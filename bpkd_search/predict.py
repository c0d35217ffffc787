"""Prediction with a student that is loaded from its file alone: masks and overlays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from bpkd_search.config.data import Data
from bpkd_search.config.networks import Student
from bpkd_search.data.base import MAX_CLASSES, listed
from bpkd_search.data.folder import IMAGE_SUFFIXES, find_files
from bpkd_search.data.geometry import base_size
from bpkd_search.data.masks import read_image
from bpkd_search.errors import CheckpointError, ConfigError, DataError
from bpkd_search.files import replacing
from bpkd_search.imports import callable_module
from bpkd_search.models import Network, read_about
from bpkd_search.models.build import build_model, pick_device
from bpkd_search.models.checkpoint import plain_name, read_weights
from bpkd_search.models.inference import predict_classes

OVERLAY = 0.5


def load_student(path: Path | str) -> tuple[Network, dict[str, Any]]:
    """Return a student in evaluation mode on the CPU, and the description in its file.

    `path` is a safetensors file of `bpkd-search train` or `export`; nothing else is needed, but
    the module of a network by `student.factory`. The description
    contains `config`, `class_names`, `palette` and `size`, (height, width) of the training crops. Raises
    `CheckpointError` if it does not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file")
    about = read_about(path)
    missing = [key for key in ("config", "class_names", "palette") if key not in about]
    if missing:
        raise CheckpointError(
            f"{path}: is not a student of `bpkd-search train` or `export`: its header lacks {', '.join(missing)}"
        )
    try:
        spec = Student.model_validate(about["config"]["student"])
        data = Data.model_validate(about["config"]["data"])
        names = [str(name) for name in about["class_names"]]
        colours = np.array(about["palette"], dtype=np.uint8)
    except (ValidationError, ValueError, TypeError, KeyError, OverflowError) as e:
        raise CheckpointError(f"{path}: its header cannot be used: {' '.join(str(e).split())}") from e
    if not 1 <= len(names) <= MAX_CLASSES or colours.shape != (len(names), 3):
        raise CheckpointError(f"{path}: its header names {len(names)} classes and {len(colours)} colours")
    try:
        model = build_model(spec.model_copy(update={"weights": None, "auxiliary_weight": 0}), len(names), 0)
    except ConfigError as e:
        raise CheckpointError(f"{path}: its network cannot be built: {'; '.join(e.faults)}") from e
    ours = {comparable(name): name for name in model.state_dict()}
    weights = {ours.get(comparable(name), name): tensor for name, tensor in read_weights(path).items()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as e:
        raise CheckpointError(f"{path}: does not fit {spec.described}: {' '.join(str(e).split())}") from e
    return model.eval().requires_grad_(False), {**about, "size": list(data.crop)}


def comparable(name: str) -> str:
    """Normalise a weight's name, so that timm's whole network and its feature pyramid agree.

    The pyramid joins nested names with `_`, or puts the network under `model`.
    """
    if not name.startswith("encoder."):
        return name
    return "encoder." + plain_name(name.removeprefix("encoder."))


def classify(model: Network, image: NDArray[np.uint8], data: Data) -> NDArray[np.uint8]:
    """Return class ids uint8 [H, W] of an image uint8 [H, W, 3], resized and segmented as in validation on `data`."""
    ids = predict_classes(model, network_input(image, data)[None], image.shape[:2], data.evaluation)[0]
    classes: NDArray[np.uint8] = ids.to(torch.uint8).cpu().numpy()
    return classes


def network_input(image: NDArray[np.uint8], data: Data) -> Tensor:
    """Return an image uint8 [H, W, 3] as uint8 [3, h, w] at the size that it has in validation on `data`."""
    height, width = base_size((image.shape[0], image.shape[1]), data.resize)
    resized: Tensor = F.resize(torch.from_numpy(image).permute(2, 0, 1), [height, width], antialias=True)
    return resized


def predict(
    student: Path | str, images: Path | str, out: Path | str, on_file: Callable[[Path], None] | None = None
) -> list[Path]:
    """Segment an image file, or each image below a directory, and return the files written.

    `on_file` is called with each written file.
    `NAME_mask.png` holds class ids with the class colours as its palette, `NAME_overlay.png` the image under
    those colours, both at the size of the image. Raises `CheckpointError`, and `DataError` if there are no images or
    a file exists. An unreadable image is skipped, and a `DataError` at the end names all of them.
    """
    images, out = Path(images), Path(out)
    model, about = load_student(student)
    if images.is_file():
        found = {images.stem: images}
    else:
        found = find_files(images, IMAGE_SUFFIXES, layout="an image file, or a directory of images")
    if not found:
        raise DataError(f"{images}: holds no images ({', '.join(IMAGE_SUFFIXES)})")
    targets = {name: (out / f"{name}_mask.png", out / f"{name}_overlay.png") for name in found}
    for path in (path for pair in targets.values() for path in pair):
        if path.exists():
            raise DataError(f"{path}: exists already; choose another --out")
    model.to(pick_device("auto"))
    data = Data.model_validate(about["config"]["data"])
    colours = np.array(about["palette"], dtype=np.uint8)
    written: list[Path] = []
    faults = []
    for name, path in found.items():
        try:
            image = read_image(path)
        except DataError as e:
            faults.append(str(e))
            continue
        ids = classify(model, image, data)
        mask = Image.fromarray(ids)
        mask.putpalette(colours.tobytes())
        overlay = Image.fromarray(np.rint((1 - OVERLAY) * image + OVERLAY * colours[ids]).astype(np.uint8))
        for target, picture in zip(targets[name], (mask, overlay), strict=True):
            try:
                with replacing(target) as partial:
                    picture.save(partial, format="PNG")
            except OSError as e:
                raise DataError(f"{target}: cannot be written: {e.strerror or e}") from e
            written.append(target)
            if on_file is not None:
                on_file(target)
    if faults:
        raise DataError(f"{len(faults)} of {len(found)} images cannot be read:\n{listed(faults)}")
    return written


callable_module(__name__, "predict")
