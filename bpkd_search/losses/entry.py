"""Base class of the entries of `bpkd_search.losses.methods`: a configuration block, and facts about the method.

This module does not import torch, so that a configuration is read in milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from bpkd_search.blocks import Block, Schedule


@dataclass(frozen=True)
class PublishedWeight:
    """A published weight; multiplied by `factor` it is a weight of this package.

    `parameter` is the name here; `factor` is "1", "B" (images per GPU) or "1 / C" (classes).
    """

    codebase: str
    parameter: str
    weight: float
    factor: Literal["1", "B", "1 / C"]
    why: str

    def converted(self, batch_size: int, num_classes: int) -> float:
        """Return the weight in this package's definition, for `batch_size` images per GPU and `num_classes` classes."""
        return self.weight * {"1": 1.0, "B": float(batch_size), "1 / C": 1.0 / num_classes}[self.factor]


class LossMethod(Block):
    """Base of the entries: fields are parameters, with the function's defaults; class variables are facts.

    The function is called as `function(student, teacher, labels, *, ignore_index, **parameters)` with the maps that
    the method needs, and returns a weighted scalar. With `parts`, it returns a named tuple of unweighted scalars and
    each part is a separate loss term. A default that is a schedule starts at the function's default.
    """

    method: str
    name: ClassVar[str]  # the default of `method`
    summary: ClassVar[str]  # the docstring's first line
    # Without values here, so that an entry may let the user choose them; the default is given to subclasses.
    needs: ClassVar[Literal["nothing", "teacher logits", "teacher features"]]  # "teacher logits"
    function: ClassVar[str]  # "module:name"; empty if nothing is computed
    learned: ClassVar[bool] = False  # the function is a module class, built from both numbers of feature channels
    parts: ClassVar[Mapping[str, str]] = {}  # part -> the parameter that weighs it
    # Parameter, or a key of one such as "weight.start" -> where `search.methods` searches it, as `space` has it. Equal
    # names have equal ranges, as they share a column.
    ranges: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    source: ClassVar[str] = ""
    published: ClassVar[tuple[PublishedWeight, ...]] = ()

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        cls.name = cls.model_fields["method"].default
        for name, value in (("needs", "teacher logits"), ("function", "")):
            if name not in cls.model_fields and not hasattr(cls, name):
                setattr(cls, name, value)
        cls.summary = (cls.__doc__ or "").partition("\n")[0].removesuffix(".")

    def at(self, progress: float) -> dict[str, Any]:
        """Return the parameters at `progress`, the completed fraction of the run: schedules become numbers."""
        values = {name: value for name, value in self if name != "method"}
        return {name: value.at(progress) if isinstance(value, Schedule) else value for name, value in values.items()}

    def class_faults(self, num_classes: int) -> list[str]:
        """Return the faults of parameters given per class (all tuples) for this number of classes."""
        return [
            f"{name}: got {len(value)} numbers, must be one, or one for each of {num_classes} classes"
            for name, value in self
            if isinstance(value, tuple) and len(value) not in (1, num_classes)
        ]
