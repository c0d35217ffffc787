"""Classes of a teacher and of the data, matched by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bpkd_search.errors import CheckpointError

# Names that transformers makes up where a network has none.
_MADE_UP = re.compile(r"LABEL_\d+")


@dataclass(frozen=True)
class ClassMap:
    """For each class of the data, the number of the teacher's, None for one that it lacks; `line` says so in words."""

    indices: tuple[int | None, ...]
    line: str | None = None

    def __call__(self, logits: Tensor, dim: int = 1) -> Tensor:
        """Return logits of the data's classes along `dim`; a missing class has the lowest of each pixel."""
        if self.indices == tuple(range(logits.shape[dim])):
            return logits
        kept = [index for index in self.indices if index is not None]
        chosen = logits.index_select(dim, torch.tensor(kept, device=logits.device))
        if len(kept) == len(self.indices):
            return chosen
        lowest, places = chosen.amin(dim, keepdim=True), iter(range(len(kept)))
        parts = [lowest if index is None else chosen.narrow(dim, next(places), 1) for index in self.indices]
        return torch.cat(parts, dim)


def match_classes(theirs: Sequence[str] | None, count: int, ours: Sequence[str], *, lowest: bool = False) -> ClassMap:
    """Match a teacher's `count` classes with the data's by name; case, spaces and punctuation do not count.

    Without names they must be as many as the data's, and are taken to be in its order. A class that the teacher lacks
    is allowed if `lowest`. Raises `CheckpointError` that names the classes.
    """
    if theirs is not None and all(_MADE_UP.fullmatch(name) for name in theirs):
        theirs = None
    if theirs is None:
        if count != len(ours):
            raise CheckpointError(
                f"has {count} classes without names, the data {len(ours)}: name the teacher's in its order in"
                " teacher.classes"
            )
        return ClassMap(tuple(range(count)))
    if len(theirs) != count:
        raise CheckpointError(f"has {count} classes, {len(theirs)} names are given for them in teacher.classes")
    places: dict[str, list[int]] = {}
    for place, name in enumerate(theirs):
        places.setdefault(_plain(name), []).append(place)
    indices = [places.get(_plain(name), []) for name in ours]
    if alike := [name for name, found in zip(ours, indices, strict=True) if found and indices.count(found) > 1]:
        raise CheckpointError(f"cannot be matched with {_listed(alike)} of the data's classes, whose names are alike")
    if doubtful := [name for name, found in zip(ours, indices, strict=True) if len(found) > 1]:
        raise CheckpointError(f"has several classes named {_listed(doubtful)}: tell them apart in teacher.classes")
    missing = [name for name, found in zip(ours, indices, strict=True) if not found]
    if missing and (not lowest or len(missing) == len(ours)):
        raise CheckpointError(
            f"lacks {_listed(missing)} of the data's classes; it has {_listed(list(theirs))}: name its classes as the"
            " data does, in its order, in teacher.classes, or set teacher.missing_classes to lowest"
        )
    chosen = tuple(found[0] if found else None for found in indices)
    if chosen == tuple(range(count)):
        return ClassMap(chosen)
    left_out = [name for place, name in enumerate(theirs) if place not in chosen]
    said = ["its classes are matched by name"]
    said += [f"{len(left_out)} that the data lacks are left out ({_listed(left_out)})"] if left_out else []
    said += [f"it lacks {_listed(missing)}, which get the lowest logit of each pixel"] if missing else []
    return ClassMap(chosen, "; ".join(said))


def match_stated(theirs: Sequence[str], count: int, ours: Sequence[str]) -> ClassMap | None:
    """Match the names that a file states beside its weights with the data's; None if they are not comparable.

    Data sets spell the same class differently, so names that only one side has prove nothing. Raises `CheckpointError`
    if some are the same and have other places.
    """
    a, b = ([_plain(name) for name in names] for names in (theirs, ours))
    if len(theirs) != count or not set(a) & set(b):
        return None
    if all(a.count(name) == b.count(name) == 1 for name in b):
        return match_classes(theirs, count, ours)
    moved = [place for place, name in enumerate(b) if a.count(name) == b.count(name) == 1 and a.index(name) != place]
    if not moved:
        return None
    place = moved[0]
    raise CheckpointError(
        f"has its classes in another order than the data: {ours[place]} is number {a.index(b[place])} there and {place}"
        f" in the data, and not all have the same names: name its classes as the data does, in its order, in"
        f" teacher.classes; it has {_listed(theirs)}"
    )


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(name.strip() for name in names[:most]) + (f", ... ({len(names)})" if len(names) > most else "")
