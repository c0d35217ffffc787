"""Pictures for the report: images on which the best searched student and the best baseline differ most.

Reads only existing data, students and teacher, and reports what is missing; nothing is built or trained.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bpkd_search.config.data import Eval
from bpkd_search.config.load import parse
from bpkd_search.config.models import RunConfig
from bpkd_search.config.software import software_of
from bpkd_search.data import IGNORE_INDEX, Dataset, EvalTransform
from bpkd_search.errors import CheckpointError, ExperimentError, UserError
from bpkd_search.experiment.paths import STUDENTS, student_file
from bpkd_search.experiment.schema import BASELINE, COMPLETE
from bpkd_search.metrics.regions import change_band
from bpkd_search.models import Network
from bpkd_search.models.build import pick_device
from bpkd_search.models.inference import predict_classes
from bpkd_search.pictures.panels import Panels, Picture
from bpkd_search.predict import load_student
from bpkd_search.results.leaderboard import Leaderboard
from bpkd_search.training.forms import teacher_form
from bpkd_search.training.inputs import view_recipe
from bpkd_search.training.source import open_data
from bpkd_search.training.teacher import open_teacher, teacher_file

BAND = 3  # pixels to either side of a class change, as in edge mIoU
EXAMINED = 96
LARGEST = 400  # pixels of a picture's longer side in the page
SMALL = 200  # narrower pictures are enlarged, and show their pixels
VOID, RIGHT, WRONG = (38, 40, 46), (70, 120, 190), (235, 90, 30)


@dataclass(frozen=True)
class Student:
    """A trial's network with its display name, and the trial's run."""

    title: str
    model: Network
    run: RunConfig


def make_panels(board: Leaderboard, count: int = 4) -> Panels:
    """Return `count` rows of pictures of an experiment on this machine, or the reason why there are none.

    The validation split is cut into `count` runs of consecutive images. From each, the image is shown on which
    the two students disagree in most labelled pixels; of a large split, evenly spaced images are examined.
    """
    if count < 1:
        return Panels(remarks=["Pictures were not requested."])
    try:
        return _panels(board, count)
    except UserError as e:
        return Panels(remarks=[f"There are no pictures: {e}"])


def _panels(board: Leaderboard, count: int) -> Panels:
    mine, base = (_student(board, searched) for searched in (True, False))
    run = mine.run
    dataset = open_data(run.data, "val")
    size, how = EvalTransform(run.data.resize, "resized"), run.data.evaluation
    device = pick_device("auto")
    for student in (mine, base):
        student.model.to(device)
    indices = sorted({i * len(dataset) // EXAMINED for i in range(EXAMINED)})
    differences = []
    for index in indices:
        image, labels = size(*dataset[index])
        differs = classes(mine.model, image, labels.shape, how) != classes(base.model, image, labels.shape, how)
        differences.append(int((differs & (labels != IGNORE_INDEX)).sum()))
    remarks = [
        f"Chosen from {len(indices)} of {len(dataset)} validation images for how much the two students differ, one from"
        f" each of {min(count, len(indices))} sections of the split: these are extremes, not typical images.",
        f"Errors in the edge band: within {BAND} pixels of a class change, blue where right, orange where wrong.",
    ]
    teacher = None
    try:
        crops = view_recipe(run.data, teacher_form(run.data)).crops_key()
        path, _ = teacher_file(run, crops, dataset.class_names)
        if not path.exists():
            raise CheckpointError(f"its weights {path.name} no longer exist")
        if software_of(run.teacher) == "logits":
            raise CheckpointError("it is a folder of logits, and no network")
        teacher = open_teacher(run, dataset.class_names, path, device)
    except UserError as e:
        remarks.append(f"The teacher is not shown: {e}")
    rows = []
    for index in most_different(indices, differences, count):
        image, labels = size(*dataset[index])
        rows.append((f"Validation image {index}", _row(image, labels, mine, base, teacher, dataset)))
    names = dataset.class_names
    colours = [(name, "#{:02x}{:02x}{:02x}".format(*rgb)) for name, rgb in zip(names, dataset.palette, strict=True)]
    return Panels(
        rows, [*colours, ("unlabelled", "#{:02x}{:02x}{:02x}".format(*VOID))], remarks, run.data.crop[1] < SMALL
    )


def most_different(indices: Sequence[int], differences: Sequence[int], count: int) -> list[int]:
    """Return, for each of `count` equal sections of `indices`, the one with the largest difference."""
    parts = np.array_split(np.arange(len(indices)), min(count, len(indices)))
    return [indices[max(part, key=lambda place: differences[place])] for part in parts]


def classes(model: Network, image: Tensor, size: Sequence[int], evaluation: Eval) -> Tensor:
    """Return the class ids uint8 [*size] that a network predicts for an image uint8 [3, h, w], as in validation."""
    return predict_classes(model, image[None], size, evaluation)[0].to(torch.uint8).cpu()


def edge_errors(image: Tensor, labels: Tensor, guess: Tensor) -> NDArray[np.uint8]:
    """Return the image faded, uint8 [H, W, 3], with the band around class changes blue where `guess` is right."""
    codes = torch.where(labels == IGNORE_INDEX, 0, labels.to(torch.int16) + 1)
    band = change_band(codes[None], BAND)[0].numpy()
    grey = image.float().mean(0).numpy()
    canvas = np.repeat((160 + 0.35 * grey)[..., None], 3, axis=2)
    right = (guess == labels).numpy()
    canvas[band & right], canvas[band & ~right] = RIGHT, WRONG
    return canvas.clip(0, 255).astype(np.uint8)


def _student(board: Leaderboard, searched: bool) -> Student:
    """Return the best full-budget student whose weights were kept: of the search, or of the baselines."""
    trials = board.trials()
    full = trials[(trials["state"] == COMPLETE) & ((trials["origin"] != BASELINE) == searched)]
    for _, row in full.iterrows():
        path = student_file(board.directory, int(row["number"]))
        if path.is_file():
            title = f"{row['method']}, trial {row['number']} ({board.metric} {row[board.metric]:.4f})"
            run = parse(RunConfig, json.loads(row["config"]), f"trial {row['number']}")
            return Student(title, load_student(path)[0], run)
    which = "searched trial" if searched else "baseline"
    raise ExperimentError(
        f"the weights of no {which} that ran its full budget are kept in {board.directory / STUDENTS}"
    )


def _row(
    image: Tensor,
    labels: Tensor,
    mine: Student,
    base: Student,
    teacher: Network | None,
    dataset: Dataset,
) -> list[Picture]:
    """Return the pictures of one image."""
    colours = np.full((256, 3), VOID, dtype=np.uint8)
    colours[: len(dataset.palette)] = np.array(dataset.palette, dtype=np.uint8)

    def seen(model: Network) -> Tensor:
        return classes(model, image, labels.shape, mine.run.data.evaluation)

    guesses = {student.title: seen(student.model) for student in (base, mine)}
    pictures = [
        Picture("image", _address(image.permute(1, 2, 0).numpy(), "JPEG")),
        Picture("ground truth", _address(colours[labels.numpy()])),
    ]
    if teacher is not None:
        pictures.append(Picture("teacher", _address(colours[seen(teacher).numpy()])))
    pictures += [Picture(title, _address(colours[guess.numpy()])) for title, guess in guesses.items()]
    for title, guess in guesses.items():
        pictures.append(Picture(f"edge band: {title.partition(' (')[0]}", _address(edge_errors(image, labels, guess))))
    return pictures


def _address(pixels: NDArray[np.uint8], kind: str = "PNG") -> str:
    """Return a picture as a `data:` address, no larger than the page needs."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    # No smoothing of class colours: colours between classes have no meaning.
    resample = Image.Resampling.NEAREST if kind == "PNG" else Image.Resampling.LANCZOS
    if (largest := max(picture.size)) > LARGEST:
        size = tuple(max(1, round(side * LARGEST / largest)) for side in picture.size)
        picture = picture.resize((size[0], size[1]), resample)
    if kind == "PNG":
        picture = picture.quantize(256, dither=Image.Dither.NONE)
    file = io.BytesIO()
    picture.save(file, kind, **({"optimize": True} if kind == "PNG" else {"quality": 85}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
