"""What a teacher gives for an image of a size, known before anything is built; one of other software is opened once."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from bpkd_search.config.networks import Teacher
from bpkd_search.config.software import HUB, LOGIT_SUFFIXES, software_of
from bpkd_search.models.build import logits_shape
from bpkd_search.models.teachers.huggingface import folder_of
from bpkd_search.models.teachers.open import Probe

# Keys of a `teacher` block that only teachers of other software have.
FOREIGN_KEYS = ("arguments", "smp", "input", "classes", "missing_classes", "stride")


def is_foreign(teacher: Teacher) -> bool:
    """Return whether a teacher is a network of other software. Raises `CheckpointError`."""
    return software_of(teacher) not in ("own", "logits")


def source_of(teacher: Teacher) -> Path | None:
    """Return the file or folder of a finished teacher, None if it has none. Raises `CheckpointError`."""
    if teacher.checkpoint is None:
        return None
    if str(teacher.checkpoint).startswith(HUB):
        return folder_of(teacher.checkpoint)
    # Processes of Ray may have another working directory.
    return teacher.checkpoint.expanduser().absolute()


def probe(teacher: Teacher) -> Probe:
    """Open a teacher of other software to ask it; it stays open until `forget`.

    Raises `CheckpointError` or `ConfigError` if it cannot be opened.
    """
    path = source_of(teacher) or Path()
    return _opened(teacher.model_dump_json(), path, _stamps(path))


def teacher_files(folder: Path) -> list[str]:
    """Return the files of a folder that a teacher is made of, below it: configurations, weights and logits."""
    wanted = {".json", ".safetensors", *LOGIT_SUFFIXES}
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.suffix in wanted)


def teacher_shape(teacher: Teacher, num_classes: int, height: int, width: int) -> tuple[int, ...]:
    """Return (C, h, w) of a teacher's logits for an image size. Raises `ConfigError` for a size it cannot read."""
    if is_foreign(teacher):
        return num_classes, *probe(teacher).shape(height, width)[1:]
    return logits_shape(teacher, num_classes, height, width)


def _stamps(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Return name, size and modification time of the file, or of each file of the folder, that a teacher is made of."""
    names = teacher_files(path) if path.is_dir() else [""]
    found = [(name, (path / name).stat()) for name in names if (path / name).exists()]
    return tuple((name, status.st_size, status.st_mtime_ns) for name, status in found)


@lru_cache(1)
def _opened(tree: str, path: Path, stamps: tuple[tuple[str, int, int], ...]) -> Probe:
    return Probe(Teacher.model_validate_json(tree), path)


def forget() -> None:
    """Close the teacher that is open."""
    _opened.cache_clear()
