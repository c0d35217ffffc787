"""The `loss:` block: one model per distillation method, so that a key of another method is an error.

Defaults equal those of the functions in `bpkd_search.losses`, where formulas, sources and the factors that
convert published weights are documented. This module stays free of torch: a config is read in milliseconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from bpkd_search.blocks import Block, PerClass, Temperature, Weight


class Ce(Block):
    """No distillation: cross-entropy alone."""

    method: Literal["ce"] = "ce"


class Bpkd(Block):
    """Boundary-privileged distillation; the defaults are the paper's setting (arXiv 2306.08075)."""

    method: Literal["bpkd"] = "bpkd"
    edge_width: int = 7
    edge_weight: Weight = 50.0
    body_weight: Weight = 20.0
    alpha: PerClass = 2.0
    edge_temperature: Temperature = 1.0
    body_temperature: Temperature = 1.0
    pre_mask: bool = True
    post_mask: bool = True

    @field_validator("edge_width")
    @classmethod
    def _odd(cls, value: int) -> int:
        if not (3 <= value <= 63 and value % 2):
            raise ValueError("must be an odd integer from 3 to 63")
        return value


class Kd(Block):
    """Pixel-wise distillation of class probabilities."""

    method: Literal["kd"] = "kd"
    weight: Weight = 1.0
    temperature: Temperature = 1.0


class Cwd(Block):
    """Channel-wise distillation."""

    method: Literal["cwd"] = "cwd"
    weight: Weight = 3.0
    temperature: Temperature = 4.0


class Dist(Block):
    """Distillation of relations by correlation."""

    method: Literal["dist"] = "dist"
    weight: Weight = 1.0
    inter_weight: Weight = 1.0
    intra_weight: Weight = 1.0
    temperature: Temperature = 1.0


class Dkd(Block):
    """Decoupled distillation of target and non-target classes, at every pixel."""

    method: Literal["dkd"] = "dkd"
    weight: Weight = 1.0
    alpha: Weight = 1.0
    beta: Weight = 8.0
    temperature: Temperature = 4.0


class FeatureMse(Block):
    """Mean squared error of features after a 1x1 projection; needs the teacher online."""

    method: Literal["feature_mse"] = "feature_mse"
    weight: Weight = 10.0


class Cirkd(Block):
    """Cross-image relations within a mini-batch; needs the teacher online."""

    method: Literal["cirkd"] = "cirkd"
    weight: Weight = 1.0
    temperature: Temperature = 0.1


def _method(value: Any) -> str:
    """The union's tag; a block that lists `terms` and names no method is a mixture."""
    get = value.get if isinstance(value, dict) else lambda key, default=None: getattr(value, key, default)
    return str(get("method") or ("mix" if get("terms") else "bpkd"))


Term = Annotated[
    Annotated[Bpkd, Tag("bpkd")]
    | Annotated[Kd, Tag("kd")]
    | Annotated[Cwd, Tag("cwd")]
    | Annotated[Dist, Tag("dist")]
    | Annotated[Dkd, Tag("dkd")]
    | Annotated[FeatureMse, Tag("feature_mse")]
    | Annotated[Cirkd, Tag("cirkd")],
    Discriminator(_method),
]


class Mix(Block):
    """A sum of methods, each with its own weights."""

    method: Literal["mix"] = "mix"
    terms: tuple[Term, ...] = Field(min_length=1)


Loss = Annotated[
    Annotated[Ce, Tag("ce")]
    | Annotated[Bpkd, Tag("bpkd")]
    | Annotated[Kd, Tag("kd")]
    | Annotated[Cwd, Tag("cwd")]
    | Annotated[Dist, Tag("dist")]
    | Annotated[Dkd, Tag("dkd")]
    | Annotated[FeatureMse, Tag("feature_mse")]
    | Annotated[Cirkd, Tag("cirkd")]
    | Annotated[Mix, Tag("mix")],
    Discriminator(_method),
]

LOSSES: dict[str, type[Block]] = {
    "ce": Ce,
    "bpkd": Bpkd,
    "kd": Kd,
    "cwd": Cwd,
    "dist": Dist,
    "dkd": Dkd,
    "feature_mse": FeatureMse,
    "cirkd": Cirkd,
    "mix": Mix,
}

NEEDS_FEATURES = frozenset({"feature_mse", "cirkd"})


def terms_of(loss: Any) -> tuple[Block, ...]:
    """The single-method blocks a `loss` block sums: none for `ce`, several for `mix`."""
    if loss.method == "ce":
        return ()
    return tuple(loss.terms) if loss.method == "mix" else (loss,)


def label_of(loss: Any) -> str:
    """What a table calls the loss: its method, or the methods of a mixture joined by `+`."""
    return "+".join(t.method for t in loss.terms) if loss.method == "mix" else str(loss.method)
