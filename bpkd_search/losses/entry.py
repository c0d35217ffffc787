"""What an entry of `bpkd_search.losses.methods` is: a block of the configuration, and facts about the method.

Free of torch, so that a configuration is read in milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from bpkd_search.blocks import Block, Schedule


@dataclass(frozen=True)
class PublishedWeight:
    """A weight as a codebase states it; times `factor` it is ours.

    `parameter` is our name for it; `factor` is "1", "B" (images per GPU) or "1 / C" (classes).
    """

    codebase: str
    parameter: str
    weight: float
    factor: Literal["1", "B", "1 / C"]
    why: str

    def converted(self, batch_size: int, num_classes: int) -> float:
        """The weight in our definition, for `batch_size` images per GPU and `num_classes` classes."""
        return self.weight * {"1": 1.0, "B": float(batch_size), "1 / C": 1.0 / num_classes}[self.factor]


class LossMethod(Block):
    """Base of the entries: fields are parameters, with the function's defaults; class variables are facts.

    The function is called as `function(student, teacher, labels, *, ignore_index, **parameters)` with the maps that
    the method needs, and gives a weighted scalar. With `parts`, it gives a named tuple of unweighted scalars and
    each part is a loss term of its own. A default that is a schedule starts at the function's default.
    """

    method: str
    name: ClassVar[str]  # the default of `method`
    summary: ClassVar[str]  # the docstring's first line
    needs: ClassVar[Literal["nothing", "teacher logits", "teacher features"]] = "teacher logits"
    function: ClassVar[str] = ""  # "module:name"; none where nothing is needed
    learned: ClassVar[bool] = False  # the function is a module class, built from both numbers of feature channels
    parts: ClassVar[Mapping[str, str]] = {}  # part -> the parameter that weighs it
    source: ClassVar[str] = ""
    published: ClassVar[tuple[PublishedWeight, ...]] = ()

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        cls.name = cls.model_fields["method"].default
        cls.summary = (cls.__doc__ or "").partition("\n")[0].removesuffix(".")

    def at(self, progress: float) -> dict[str, Any]:
        """The parameters at `progress`, the fraction of the run that is done: schedules become numbers."""
        values = {name: value for name, value in self if name != "method"}
        return {name: value.at(progress) if isinstance(value, Schedule) else value for name, value in values.items()}

    def class_faults(self, num_classes: int) -> list[str]:
        """What is wrong with parameters given per class (all that are tuples), for this number of classes."""
        return [
            f"{name}: got {len(value)} numbers, must be one, or one for each of {num_classes} classes"
            for name, value in self
            if isinstance(value, tuple) and len(value) not in (1, num_classes)
        ]
