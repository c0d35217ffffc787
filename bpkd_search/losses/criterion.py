"""A weighted sum of distillation terms, as configured in a search."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn

from bpkd_search.blocks import Schedule, in_words
from bpkd_search.errors import ConfigError
from bpkd_search.losses.custom import custom_loss
from bpkd_search.losses.entry import LossMethod
from bpkd_search.losses.methods import Custom, loss_method


class Criterion(nn.Module):
    """The distillation terms of a training loss, without the cross-entropy.

    Each of `terms` is `{"method": name, parameter: value, ...}`, parsed as the entry of that name in `METHODS`. The
    channel numbers are those of the feature maps; only methods with learned parameters, such as the projection of
    "feature_mse", need them. Those are parameters of this module, to be trained with the student. Raises `ConfigError`
    with all faults of all terms.
    """

    def __init__(
        self,
        terms: Sequence[Mapping[str, Any]],
        *,
        ignore_index: int = 255,
        student_channels: int | None = None,
        teacher_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        channels = (student_channels, teacher_channels)
        self._terms = _checked(terms, channels)
        self._modules_by_term = nn.ModuleDict()
        self._functions: dict[str, Callable[..., Any]] = {}
        for name, term in self._terms.items():
            if isinstance(term, Custom):
                self._functions[name] = custom_loss(term.function)
                continue
            function = pkgutil.resolve_name(term.function)
            if term.learned:
                self._modules_by_term[name] = function = function(*channels)
            self._functions[name] = function

    @property
    def needs_teacher(self) -> bool:
        """Whether any term uses the teacher."""
        return any(term.needs != "nothing" for term in self._terms.values())

    @property
    def changes(self) -> bool:
        """Whether a parameter of any term changes during a run."""
        values = [value for term in self._terms.values() for _, value in term]
        return any(isinstance(value, Schedule) and value.start != value.end for value in values)

    @property
    def is_own(self) -> bool:
        """Whether any term is a function of the user's."""
        return any(isinstance(term, Custom) for term in self._terms.values())

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor | None,
        labels: Tensor,
        *,
        progress: float = 0.0,
        student_features: Tensor | None = None,
        teacher_features: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the weighted terms by name, scalars whose sum is the distillation loss; empty for "ce".

        Logits and features are [B, C, h, w], labels [B, H, W]. A method with parts gives one term per part, such as
        "bpkd.edge"; the second term of a method is "kd_2" and so on. `progress` is the completed fraction of the run.
        Raises `ValueError` if a map that a term needs is None.
        """
        maps = {
            "nothing": (student_logits, None),
            "teacher logits": (student_logits, teacher_logits),
            "teacher features": (student_features, teacher_features),
        }
        results: dict[str, Tensor] = {}
        for name, term in self._terms.items():
            student, teacher = maps[term.needs]
            if student is None or (teacher is None and term.needs != "nothing"):
                whose, what = "student" if student is None else "teacher", term.needs.removeprefix("teacher ")
                raise ValueError(f"{name}: needs the {whose}'s {what}, got None")
            settings = term.at(progress)
            loss = self._functions[name](student, teacher, labels, ignore_index=self.ignore_index, **settings)
            if term.parts:
                weighted = {part: settings[weight] * getattr(loss, part) for part, weight in term.parts.items()}
                results |= {f"{name}.{part}": value for part, value in weighted.items()}
            else:
                results[name] = loss
        return results

    def extra_repr(self) -> str:
        """Return the terms and their settings, for `repr`."""
        return "\n".join(f"{name}: {term}" for name, term in self._terms.items())


def _checked(terms: Sequence[Mapping[str, Any]], channels: tuple[int | None, int | None]) -> dict[str, LossMethod]:
    """Return the terms that compute something, by their names in reports."""
    checked: dict[str, LossMethod] = {}
    faults: list[str] = []
    counts: dict[str, int] = {}
    for position, given in enumerate(terms):
        try:
            entry = loss_method(given.get("method", ""))
            term = entry.model_validate(dict(given))
        except ConfigError as e:
            faults += [f"terms.{position}.{fault}" for fault in e.faults]
            continue
        except ValidationError as e:
            faults += [f"terms.{position}.{in_words(entry, error)}" for error in e.errors()]
            continue
        counts[entry.name] = counts.get(entry.name, 0) + 1
        name = entry.name if counts[entry.name] == 1 else f"{entry.name}_{counts[entry.name]}"
        if entry.learned and None in channels:
            faults.append(f"{name}: needs student_channels and teacher_channels")
        if term.function:
            checked[name] = term
    if faults:
        raise ConfigError(faults, source="loss")
    return checked
