"""The `search:` block: what is maximised, who samples, who stops trials early, and when the search ends."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, StrictBool, Tag, field_validator, model_validator

from bpkd_search.blocks import Block
from bpkd_search.losses.methods import METHODS, Custom
from bpkd_search.metrics.table import COSTS, SCORES, Direction


class RandomSampler(Block):
    """Independent draws from the space."""

    name: Literal["random"] = "random"


class QmcSampler(Block):
    """A scrambled Sobol sequence, which covers the space more evenly than random draws."""

    name: Literal["qmc"] = "qmc"


class TpeSampler(Block):
    """Optuna's multivariate TPE after `startup` random points; a `sampler` block without a name is one of these."""

    name: Literal["tpe"] = "tpe"
    startup: int = Field(default=10, ge=1, description="Random points before the model is used.")
    candidates: int = Field(default=24, ge=1, description="Candidates compared for each new point.")


class GpSampler(Block):
    """Gaussian process with expected improvement after `startup` random points; slow beyond some 500 trials."""

    name: Literal["gp"] = "gp"
    startup: int = Field(default=10, ge=1, description="Random points before the model is used.")


class ModelSampler(Block):
    """The search's own Gaussian process over the space, which also learns from early reports; the default."""

    name: Literal["model"] = "model"
    startup: int | None = Field(
        default=None, ge=1, description="Points of a Sobol sequence before the model is used; by default 4 to 10."
    )

    def points_before(self, parameters: int) -> int:
        """How many points precede the model's: one more than there are parameters, 4 to 10.

        Not by the number of trials, so that a search that is made longer is the one that was longer from the start.
        """
        return self.startup if self.startup is not None else max(4, min(10, parameters + 1))


class CmaEsSampler(Block):
    """CMA-ES; samples choices and conditional parameters at random, and takes one objective."""

    name: Literal["cmaes"] = "cmaes"
    startup: int = Field(default=1, ge=1, description="Random points before the first generation.")


class Nsga2Sampler(Block):
    """NSGA-II, an evolutionary sampler for several objectives."""

    name: Literal["nsga2"] = "nsga2"
    population: int = Field(default=20, ge=2, description="Points per generation.")


def _sampler(value: Any) -> str:
    return str(value.get("name", "tpe") if isinstance(value, dict) else getattr(value, "name", "tpe"))


Sampler = Annotated[
    Annotated[RandomSampler, Tag("random")]
    | Annotated[QmcSampler, Tag("qmc")]
    | Annotated[TpeSampler, Tag("tpe")]
    | Annotated[GpSampler, Tag("gp")]
    | Annotated[ModelSampler, Tag("model")]
    | Annotated[CmaEsSampler, Tag("cmaes")]
    | Annotated[Nsga2Sampler, Tag("nsga2")],
    Discriminator(_sampler),
]


class Scheduler(Block):
    """The rule that stops trials early, judged on epochs or on GPU-seconds spent in training.

    `asha` keeps one in `reduction` at rungs of grace, grace * reduction, ...; `hyperband` runs several such
    brackets that begin later and later; `median` stops what is below the median of the others' averages; `model`
    stops a trial whose chance to be better than the leading one is small and whose remaining budget promises less than
    that of a new trial, once its predictions of other trials hold. `model` is the default; a `scheduler` block without
    a name is one of `asha`.
    """

    name: Literal["asha", "hyperband", "median", "model", "none"] = Field(
        default="asha", description="The rule; none runs every trial in full."
    )
    axis: Literal["epochs", "gpu_seconds"] = Field(default="epochs", description="What reports are compared at.")
    grace: float = Field(default=2, gt=0, description="Nothing is stopped before this much, in units of `axis`.")
    reduction: int = Field(default=3, ge=2, description="One in this many continues after each rung.")
    chance: float = Field(default=0.05, gt=0, le=1, description="`model` stops a trial whose chance is below this.")


class Budget(Block):
    """When a search ends before its last trial: no new trial is started once one of these is used up."""

    hours: float | None = Field(default=None, gt=0, description="Wall-clock hours of the driver.")
    gpu_hours: float | None = Field(default=None, gt=0, description="Hours of training, summed over all trials.")
    patience: int | None = Field(default=None, ge=1, description="Trials in a row without a better one.")


def _form(value: Any) -> str:
    """Which form a value takes that may be `auto`, so that a fault is reported for that form alone."""
    return "word" if isinstance(value, str) else "figure"


def _form_if_any(value: Any) -> str:
    return "nothing" if value is None else _form(value)


def _only_auto(value: Any) -> Any:
    if value != "auto":
        raise ValueError("must be auto, or figures")
    return value


_Auto = Annotated[Literal["auto"], BeforeValidator(_only_auto), Tag("word")]


class Resources(Block):
    """What one trial gets."""

    cpus: Annotated[_Auto | Annotated[float, Field(gt=0), Tag("figure")], Discriminator(_form)] = Field(
        default="auto", description="CPUs of a trial; auto is an even share beside a GPU, else one."
    )
    gpus: Annotated[_Auto | Annotated[float, Field(ge=0), Tag("figure")], Discriminator(_form)] = Field(
        default="auto", description="GPUs of a trial; fractions share one GPU; auto is one where there is one."
    )

    @field_validator("gpus")
    @classmethod
    def _countable(cls, value: float | str) -> float | str:
        if isinstance(value, float) and value > 1 and value != int(value):
            raise ValueError("must be at most 1 or a whole number: a trial shares one GPU or has several to itself")
        return value


_CONSTRAINT = re.compile(r"^\s*(\w+)\s*(<=|>=)\s*(baseline|[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*$")


# With `replicates: auto`: after so many trials, such a share of those that follow are replicates, by the rule that
# gives more: few while settings are still to be found, half once a winner is to be told. Neither depends on the number
# of trials, so that a search that is made longer is the one that was longer from the start.
REPLICATES = ((8, 0.25), (20, 0.5))
# A further seed of a leader and of its nearest rival.
FEWEST_REPLICATES = 2


class Search(Block):
    """How many trials beside the baselines, what they optimise, and who samples and stops them.

    `resources: auto` measures how many trials together train fastest, on a GPU or on CPUs. By default that is
    done on GPUs only, and without a GPU a trial gets one CPU.

    In a constraint, `baseline` is the value of the best plain baseline.

    With `methods`, `space` needs no entry: each method is searched in the ranges of its own ([Losses](losses.md)), by a
    sampler and a scheduler that know its trials alone, and gets as many trials as the others; where `budget.gpu_hours`
    is set, as many GPU-seconds.
    """

    metric: Literal[SCORES] = Field(default="miou", description="What is maximised, and what leaderboards rank by.")  # type: ignore[valid-type]
    objectives: dict[str, Direction] = Field(
        default={},
        description="Two or more metrics or costs, each `max` or `min`, instead of `metric`; the first ranks.",
    )
    constraints: tuple[str, ...] = Field(
        default=(),
        description="Such as `latency_ms <= 30` or `miou >= baseline`; a trial that violates one ranks after those that"
        " meet all.",
    )
    methods: tuple[Literal[(*METHODS, Custom.name)], ...] = Field(  # type: ignore[valid-type]
        default=(), description="Loss methods that are tuned alike, such as [bpkd, kd, cwd, dist]."
    )
    trials: int = Field(default=16, ge=1, description="Trials beside the baselines, replicates among them.")
    replicates: Literal["auto"] | None = Field(
        default=None,
        description="`auto` runs promising settings and the baselines again with further training seeds, where that"
        " decides most, and ends with a verdict.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of the sampler.")
    # The default where there is no block at all. Blocks without a name were written for the defaults before it.
    sampler: Sampler = ModelSampler()
    scheduler: Scheduler = Scheduler(name="model")
    budget: Budget = Budget()
    feature_baseline: StrictBool | None = Field(
        default=None,
        description="Whether plain feature KD (`feature_mse`) is a baseline too; by default where the teacher runs"
        " online.",
    )
    warm_start: tuple[Path, ...] = Field(
        default=(),
        description="Experiments from whose trials the sampler learns, if they agree with the first own ones.",
    )
    memory: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="A folder or URL that every finished search leaves its table in, and whose best points a new one"
        " tries first; it learns from those searches that agree with its own first trials.",
    )
    resources: Annotated[
        _Auto | Annotated[Resources, Tag("figure")] | Annotated[None, Tag("nothing")], Discriminator(_form_if_any)
    ] = Field(default=None, description="What one trial gets; `auto` measures how many train fastest together.")
    concurrent: Annotated[_Auto | Annotated[int, Field(ge=1), Tag("figure")], Discriminator(_form)] = Field(
        default="auto", description="Trials at once; auto fills the machine."
    )
    on_end: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="A shell command that is run when the search ends, is stopped or fails, with BPKD_SEARCH_DIRECTORY,"
        " BPKD_SEARCH_OUTCOME and BPKD_SEARCH_MESSAGE in its environment.",
    )

    @field_validator("objectives")
    @classmethod
    def _known(cls, value: dict[str, Direction]) -> dict[str, Direction]:
        unknown = [name for name in value if name not in (*SCORES, *COSTS)]
        if unknown:
            raise ValueError(f"no such metric: {', '.join(unknown)}; valid: {', '.join((*SCORES, *COSTS))}")
        if len(value) == 1:
            raise ValueError("must name at least two; for one, set search.metric")
        return value

    @field_validator("methods")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if twice := [name for position, name in enumerate(value) if name in value[:position]]:
            raise ValueError(f"names {', '.join(dict.fromkeys(twice))} more than once")
        return value

    @field_validator("constraints")
    @classmethod
    def _readable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            found = _CONSTRAINT.match(text)
            if not found or found[1] not in (*SCORES, *COSTS):
                raise ValueError(
                    f"{text!r} must be METRIC <= NUMBER, METRIC >= NUMBER or METRIC >= baseline, with a metric of"
                    f" {', '.join((*SCORES, *COSTS))}"
                )
        return value

    @model_validator(mode="after")
    def _possible(self) -> Search:
        several = bool(self.objectives)
        if self.sampler.name == "cmaes" and (several or self.constraints):
            raise ValueError("sampler cmaes takes one objective and no constraints; valid: tpe, gp, nsga2")
        if several and self.scheduler.name == "median":
            raise ValueError("scheduler median takes one objective; valid: asha, hyperband, model, none")
        if several and next(iter(self.objectives)) not in SCORES:
            raise ValueError(f"the first objective ranks and must be one of {', '.join(SCORES)}")
        return self

    @property
    def fewest_trials(self) -> int:
        """How many trials it takes until a setting of a race can have its second seed."""
        return min(first + math.ceil(FEWEST_REPLICATES / share) for first, share in REPLICATES)

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
