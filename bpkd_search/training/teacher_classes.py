"""Whether a finished teacher's classes are those of the data: by the names in its file, and by its scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bpkd_search.config.networks import Teacher
from bpkd_search.errors import CheckpointError
from bpkd_search.models.checkpoint import classes_in
from bpkd_search.models.teachers.classes import ClassMap, match_classes, match_stated


def own_classes(spec: Teacher, path: Path, class_names: Sequence[str]) -> ClassMap | None:
    """Match the classes of a checkpoint of this package or mmsegmentation with the data's; None if it names none.

    Raises `CheckpointError` if they do not match.
    """
    count, stated = classes_in(path)
    try:
        if count is None or spec.classes is None:
            return None if count is None else match_stated(stated, count, class_names)
        return match_classes(spec.classes, count, class_names)
    except CheckpointError as e:
        raise CheckpointError(f"{path}: {e}") from e


def class_rows(spec: Teacher, path: Path, class_names: Sequence[str]) -> list[int] | None:
    """Return the rows of such a checkpoint's last layer that are the data's classes, None if they are all in order."""
    matched = own_classes(spec, path, class_names)
    if matched is None or matched.line is None:
        return None
    return [index for index in matched.indices if index is not None]


def below_constant(scores: Mapping[str, float], counts: Sequence[Sequence[int]]) -> str | None:
    """Return a warning if a teacher is right on no more pixels than one that gives them all the same class.

    `counts` are the pixels of each class in each validation image. A class order or an input other than the data's is
    no error of any file, and does this.
    """
    pixels = [sum(column) for column in zip(*counts, strict=True)]
    constant = max(pixels) / max(1, sum(pixels))
    if scores.get("accuracy", 1.0) > constant:
        return None
    return (
        f"warning: the teacher is right on {100 * scores['accuracy']:.1f} % of the pixels of the validation images; one"
        f" class for every pixel would be right on {100 * constant:.1f} %: check that its classes are in the order of"
        " the data, and what it reads (teacher.classes, teacher.input)"
    )
