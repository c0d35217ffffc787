"""The `search:` block: what is maximised, who samples, who stops trials early, and when the search ends."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from bpkd_search.blocks import Block

# Measures of a student: better when higher.
METRICS = ("miou", "edge_miou", "body_miou", "boundary_iou", "boundary_f", "accuracy")
# What a student costs: better when lower.
COSTS = ("gpu_seconds", "parameters", "latency_ms", "peak_memory_mb")

Direction = Literal["max", "min"]


class RandomSampler(Block):
    """Independent draws from the space."""

    name: Literal["random"] = "random"


class QmcSampler(Block):
    """A scrambled Sobol sequence, which covers the space more evenly than random draws."""

    name: Literal["qmc"] = "qmc"


class TpeSampler(Block):
    """Optuna's multivariate TPE after `startup` random points."""

    name: Literal["tpe"] = "tpe"
    startup: int = Field(default=10, ge=1)
    candidates: int = Field(default=24, ge=1)


class GpSampler(Block):
    """Gaussian process with expected improvement after `startup` random points; slow beyond some 500 trials."""

    name: Literal["gp"] = "gp"
    startup: int = Field(default=10, ge=1)


class CmaEsSampler(Block):
    """CMA-ES; samples choices and conditional parameters at random, and takes one objective."""

    name: Literal["cmaes"] = "cmaes"
    startup: int = Field(default=1, ge=1)


class Nsga2Sampler(Block):
    """NSGA-II, an evolutionary sampler for several objectives."""

    name: Literal["nsga2"] = "nsga2"
    population: int = Field(default=20, ge=2)


def _sampler(value: Any) -> str:
    return str(value.get("name", "tpe") if isinstance(value, dict) else getattr(value, "name", "tpe"))


Sampler = Annotated[
    Annotated[RandomSampler, Tag("random")]
    | Annotated[QmcSampler, Tag("qmc")]
    | Annotated[TpeSampler, Tag("tpe")]
    | Annotated[GpSampler, Tag("gp")]
    | Annotated[CmaEsSampler, Tag("cmaes")]
    | Annotated[Nsga2Sampler, Tag("nsga2")],
    Discriminator(_sampler),
]


class Scheduler(Block):
    """Who stops trials early, judged on epochs or on GPU-seconds spent in training.

    `asha` keeps one in `reduction` at rungs of grace, grace * reduction, ...; `hyperband` runs several such
    brackets that begin later and later; `median` stops what lies below the median of the others' averages.
    `grace` is in units of `axis`.
    """

    name: Literal["asha", "hyperband", "median", "none"] = "asha"
    axis: Literal["epochs", "gpu_seconds"] = "epochs"
    grace: float = Field(default=2, gt=0)
    reduction: int = Field(default=3, ge=2)


class Budget(Block):
    """When a search ends before its last trial: no new trial is started once one of these is used up.

    `hours` of the driver's time, `gpu_hours` of training over all trials, `patience` trials without a better one.
    """

    hours: float | None = Field(default=None, gt=0)
    gpu_hours: float | None = Field(default=None, gt=0)
    patience: int | None = Field(default=None, ge=1)


def _form(value: Any) -> str:
    """Which form a value takes that may be `auto`, so that a fault is told of that form alone."""
    return "word" if isinstance(value, str) else "figure"


def _form_if_any(value: Any) -> str:
    return "nothing" if value is None else _form(value)


def _only_auto(value: Any) -> Any:
    if value != "auto":
        raise ValueError("must be auto, or figures")
    return value


_Auto = Annotated[Literal["auto"], BeforeValidator(_only_auto), Tag("word")]


class Resources(Block):
    """What one trial gets. `auto` is a GPU where there is one and its share of the CPUs, or else one CPU.

    GPUs may be fractions: trials then share one.
    """

    cpus: Annotated[_Auto | Annotated[float, Field(gt=0), Tag("figure")], Discriminator(_form)] = "auto"
    gpus: Annotated[_Auto | Annotated[float, Field(ge=0), Tag("figure")], Discriminator(_form)] = "auto"


_CONSTRAINT = re.compile(r"^\s*(\w+)\s*(<=|>=)\s*(baseline|[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*$")


class Search(Block):
    """How many trials beside the baselines, what they optimise, and who samples and stops them.

    `resources: auto` measures how many trials together train fastest, on a GPU or on CPUs; where nothing is said
    it does so on GPUs, and gives a trial one CPU where there are none.

    `metric` is what the leaderboard ranks by. `objectives` names several with their directions instead, the
    first of which ranks. `constraints` are like `latency_ms <= 30` or `miou >= baseline`, the best plain
    baseline's value.
    """

    metric: Literal[METRICS] = "miou"  # type: ignore[valid-type]
    objectives: dict[str, Direction] = {}
    constraints: tuple[str, ...] = ()
    trials: int = Field(default=16, ge=1)
    seed: int = Field(default=0, ge=0)
    sampler: Sampler = TpeSampler()
    scheduler: Scheduler = Scheduler()
    budget: Budget = Budget()
    warm_start: tuple[Path, ...] = ()
    resources: Annotated[
        _Auto | Annotated[Resources, Tag("figure")] | Annotated[None, Tag("nothing")], Discriminator(_form_if_any)
    ] = None
    concurrent: Annotated[_Auto | Annotated[int, Field(ge=1), Tag("figure")], Discriminator(_form)] = "auto"

    @field_validator("objectives")
    @classmethod
    def _known(cls, value: dict[str, Direction]) -> dict[str, Direction]:
        unknown = [name for name in value if name not in (*METRICS, *COSTS)]
        if unknown:
            raise ValueError(f"no such metric: {', '.join(unknown)}; valid: {', '.join((*METRICS, *COSTS))}")
        if len(value) == 1:
            raise ValueError("must name at least two; for one, set search.metric")
        return value

    @field_validator("constraints")
    @classmethod
    def _readable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            found = _CONSTRAINT.match(text)
            if not found or found[1] not in (*METRICS, *COSTS):
                raise ValueError(
                    f"{text!r} must be METRIC <= NUMBER, METRIC >= NUMBER or METRIC >= baseline, with a metric of"
                    f" {', '.join((*METRICS, *COSTS))}"
                )
        return value

    @model_validator(mode="after")
    def _possible(self) -> Search:
        several = bool(self.objectives)
        if self.sampler.name == "cmaes" and (several or self.constraints):
            raise ValueError("sampler cmaes takes one objective and no constraints; valid: tpe, gp, nsga2")
        if several and self.scheduler.name == "median":
            raise ValueError("scheduler median takes one objective; valid: asha, hyperband, none")
        if several and next(iter(self.objectives)) not in METRICS:
            raise ValueError(f"the first objective ranks and must be one of {', '.join(METRICS)}")
        return self

    @property
    def goals(self) -> dict[str, Direction]:
        """What is optimised, in order, with directions; one entry unless `objectives` names several."""
        return self.objectives or {self.metric: "max"}

    @property
    def ranked_by(self) -> str:
        """The metric that leaderboards rank by."""
        return next(iter(self.goals))

    def limits(self) -> list[tuple[str, str, str]]:
        """The constraints as (metric, `<=` or `>=`, number or `baseline`)."""
        found = [_CONSTRAINT.match(text) for text in self.constraints]
        return [(m[1], m[2], m[3]) for m in found if m]
