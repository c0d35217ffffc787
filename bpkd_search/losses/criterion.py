"""A sum of distillation terms, as a search states them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bpkd_search.errors import ConfigError
from bpkd_search.losses.bpkd import BPKDTerms
from bpkd_search.losses.features import FeatureMSE
from bpkd_search.losses.registry import LossMethod, loss_method, parameters
from bpkd_search.losses.schedule import scheduled


@dataclass(frozen=True)
class _Term:
    name: str
    method: LossMethod
    settings: dict[str, Any]

    def at(self, progress: float) -> dict[str, Any]:
        """The settings with every schedule resolved."""
        return {
            key: scheduled(value, progress) if isinstance(value, Mapping) else value
            for key, value in self.settings.items()
        }


class Criterion(nn.Module):
    """The distillation terms of a training loss, without the cross-entropy.

    Each of `terms` is `{"method": name, parameter: value, ...}` with a name of `METHODS` and its parameters;
    a parameter with a float default may be a schedule (see `scheduled`). The channel numbers are needed by
    "feature_mse" only; its projection is a parameter of this module, to be trained along. Raises
    ConfigError with all faults of all terms at once.
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
        self._terms = _checked(terms)
        self._modules_by_term = nn.ModuleDict()
        for term in self._terms:
            if term.method.needs != "teacher features" or term.method.function is None:
                continue
            channels: dict[str, int] = {}
            if term.method.function is FeatureMSE:
                if student_channels is None or teacher_channels is None:
                    raise ConfigError([f"{term.name}: needs student_channels and teacher_channels"], source="loss")
                channels = {"student_channels": student_channels, "teacher_channels": teacher_channels}
            self._modules_by_term[term.name] = term.method.function(**channels)

    @property
    def needs_teacher(self) -> bool:
        """Whether any term looks at the teacher."""
        return any(term.method.needs != "nothing" for term in self._terms)

    @property
    def needs_features(self) -> bool:
        """Whether any term looks at feature maps, which stored teacher logits cannot give."""
        return any(term.method.needs == "teacher features" for term in self._terms)

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
        """The weighted terms by name, scalars whose sum is the distillation loss; none for "ce".

        BPKD gives "bpkd.edge" and "bpkd.body"; the second term of a method is called "kd_2" and so on.
        `progress` is the fraction of the run that is done. Raises ValueError where a needed map is None.
        """
        results: dict[str, Tensor] = {}
        for term in self._terms:
            if term.method.function is None:
                continue
            settings = term.at(progress)
            if term.method.needs == "teacher features":
                student, teacher = _given(term.name, student_features, teacher_features, "features")
                module = self._modules_by_term[term.name]
                for key, value in settings.items():
                    setattr(module, key, value)
                results[term.name] = module(student, teacher, labels, self.ignore_index)
                continue
            student, teacher = _given(term.name, student_logits, teacher_logits, "logits")
            loss = term.method.function(student, teacher, labels, ignore_index=self.ignore_index, **settings)
            if isinstance(loss, BPKDTerms):
                results[f"{term.name}.edge"] = settings["edge_weight"] * loss.edge
                results[f"{term.name}.body"] = settings["body_weight"] * loss.body
            else:
                results[term.name] = loss
        return results

    def extra_repr(self) -> str:
        """The terms and their settings, for `repr`."""
        return "\n".join(f"{term.name}: {term.settings}" for term in self._terms)


def _given(name: str, student: Tensor | None, teacher: Tensor | None, what: str) -> tuple[Tensor, Tensor]:
    if student is None or teacher is None:
        missing = "student" if student is None else "teacher"
        raise ValueError(f"{name}: needs the {missing}'s {what}, got None")
    return student, teacher


def _checked(terms: Sequence[Mapping[str, Any]]) -> list[_Term]:
    checked: list[_Term] = []
    faults: list[str] = []
    counts: dict[str, int] = {}
    for position, term in enumerate(terms):
        try:
            method = loss_method(term.get("method", ""))
        except ConfigError as error:
            faults += [f"terms.{position}.{fault}" for fault in error.faults]
            continue
        counts[method.name] = counts.get(method.name, 0) + 1
        name = method.name if counts[method.name] == 1 else f"{method.name}_{counts[method.name]}"
        settings = {key: value for key, value in term.items() if key != "method"}
        faults += [f"terms.{position}.{fault}" for fault in _faults(settings, parameters(method.name))]
        checked.append(_Term(name, method, {**parameters(method.name), **settings}))
    if faults:
        raise ConfigError(faults, source="loss")
    return checked


def _faults(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    faults = []
    for key, value in settings.items():
        if key not in defaults:
            faults.append(f"{key}: unknown, must be one of {', '.join(defaults) or '(none)'}")
        elif isinstance(value, Mapping):
            if not isinstance(defaults[key], float):
                faults.append(f"{key}: cannot follow a schedule, must be a plain value")
                continue
            try:
                scheduled(value, 0.0)
            except ConfigError as error:
                faults += [f"{key}.{fault}" for fault in error.faults]
    return faults
