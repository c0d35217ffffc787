"""The distillation methods: one entry each, without torch. An entry is the configuration block of the method.

To add a method, write its function in a module of this package and its entry here; nothing else lists methods. Weights
of the same method differ by orders of magnitude between codebases because they use different reductions, so an entry
lists every published weight with the factor that converts it (to per labelled pixel or per class).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, JsonValue, StrictBool, Tag, field_validator

from bpkd_search.blocks import PerClass, Schedule, Temperature, Weight
from bpkd_search.errors import ConfigError
from bpkd_search.losses.entry import LossMethod, PublishedWeight

_WEIGHT = "Weight of the loss."
_TEMPERATURE = "Divides the logits before the softmax."

_SAME_FORM = "batch mean of the same formulas; the authors published no training code"
_PER_CLASS = "KL summed over space, divided by images and classes, times tau^2: identical"
_PER_SAMPLE = "mean per sample there, per pixel here"

# Published weights belong to long runs on large crops and are too large for short ones (docs/measured.md), so ranges
# begin near them and reach decades below.
_WEIGHTS = {"float": [0.05, 50], "log": True}
_TEMPERATURES = {"float": [0.5, 8], "log": True}
_BALANCE = {"float": [0.1, 10], "log": True}


class Ce(LossMethod):
    """No distillation: the cross-entropy alone."""

    method: Literal["ce"] = "ce"
    needs = "nothing"


class Bpkd(LossMethod):
    """Edges per pixel over classes, bodies per class over space.

    The defaults are the paper's setting.
    """

    method: Literal["bpkd"] = "bpkd"
    edge_width: int = Field(default=7, description="Side of the edge window in label pixels, odd, from 3 to 63.")
    edge_weight: Weight = Field(default=50.0, description="Weight of the edge term.")
    body_weight: Weight = Field(default=20.0, description="Weight of the body term.")
    alpha: PerClass = Field(default=2.0, description="Scales the edge term: one number, or one for each class.")
    edge_temperature: Temperature = Field(default=1.0, description="Temperature of the edge term.")
    body_temperature: Temperature = Field(default=1.0, description="Temperature of the body term.")
    pre_mask: StrictBool = Field(default=True, description="Multiply logits by the edge mask before the softmax.")
    post_mask: StrictBool = Field(default=True, description="Multiply the edge term's divergences by the edge mask.")

    function = "bpkd_search.losses.bpkd:bpkd_loss"
    parts = {"edge": "edge_weight", "body": "body_weight"}
    ranges = {
        "edge_width": {"int": [3, 11], "step": 2},
        "edge_weight": _WEIGHTS,
        "body_weight": {"float": [0.02, 20], "log": True},
        "edge_temperature": _TEMPERATURES,
        "body_temperature": _TEMPERATURES,
    }
    source = "arXiv 2306.08075"
    published = (
        PublishedWeight("independent reimplementations", "edge_weight", 50.0, "1", _SAME_FORM),
        PublishedWeight("independent reimplementations", "body_weight", 20.0, "1", _SAME_FORM),
    )

    @field_validator("edge_width")
    @classmethod
    def _odd(cls, value: int) -> int:
        if not (3 <= value <= 63 and value % 2):
            raise ValueError("must be an odd integer from 3 to 63")
        return value


class Kd(LossMethod):
    """Pixel-wise KL over classes."""

    method: Literal["kd"] = "kd"
    weight: Weight = Field(default=1.0, description=_WEIGHT)
    temperature: Temperature = Field(default=1.0, description=_TEMPERATURE)
    standardise: StrictBool = Field(default=False, description="Z-score each pixel's logits first (arXiv 2403.01427).")

    function = "bpkd_search.losses.logits:kd_loss"
    ranges = {"weight": _WEIGHTS, "temperature": _TEMPERATURES}
    source = "arXiv 1503.02531"
    published = (
        PublishedWeight("winycg/CIRKD", "weight", 1.0, "1", "KL per pixel, times tau^2: identical"),
        PublishedWeight(
            "irfanICMLL/structure_knowledge_distillation",
            "weight",
            10.0,
            "B",
            "cross-entropy (same gradient) per pixel, but summed over the images of a GPU",
        ),
        PublishedWeight(
            "irfanICMLL/TorchDistiller",
            "weight",
            10.0,
            "1 / C",
            "KL averaged over classes too, without tau^2 (tau is 1)",
        ),
    )


class Cwd(LossMethod):
    """Channel-wise KL over space."""

    method: Literal["cwd"] = "cwd"
    weight: Weight = Field(default=3.0, description=_WEIGHT)
    temperature: Temperature = Field(default=4.0, description=_TEMPERATURE)

    function = "bpkd_search.losses.logits:cwd_loss"
    ranges = {"weight": _WEIGHTS, "temperature": _TEMPERATURES}
    source = "arXiv 2011.13256"
    published = (
        PublishedWeight("CWD paper (tau 4)", "weight", 3.0, "1", _PER_CLASS),
        PublishedWeight("winycg/CIRKD (tau 4)", "weight", 3.0, "1", _PER_CLASS),
        PublishedWeight("open-mmlab/mmrazor (tau 1)", "weight", 5.0, "1", _PER_CLASS),
    )


class Dist(LossMethod):
    """1 - Pearson correlation over classes and over pixels."""

    method: Literal["dist"] = "dist"
    weight: Weight = Field(default=1.0, description=_WEIGHT)
    inter_weight: Weight = Field(default=1.0, description="Weight of the correlation over classes.")
    intra_weight: Weight = Field(default=1.0, description="Weight of the correlation over pixels.")
    temperature: Temperature = Field(default=1.0, description=_TEMPERATURE)

    function = "bpkd_search.losses.logits:dist_loss"
    # `inter_weight` stays: the two weights' ratio and `weight` are all that there is to it.
    ranges = {"weight": _WEIGHTS, "intra_weight": _BALANCE, "temperature": _TEMPERATURES}
    source = "arXiv 2205.10536"
    published = (
        PublishedWeight("hunto/DIST_KD", "inter_weight", 1.0, "1", "mean over pixels: identical"),
        PublishedWeight("hunto/DIST_KD", "intra_weight", 1.0, "1", "mean over classes: identical"),
    )


class Dkd(LossMethod):
    """Target class and other classes, decoupled."""

    method: Literal["dkd"] = "dkd"
    weight: Weight = Field(default=1.0, description=_WEIGHT)
    alpha: Weight = Field(default=1.0, description="Weight of the target class against the rest.")
    beta: Weight = Field(default=8.0, description="Weight of the other classes among themselves.")
    temperature: Temperature = Field(default=4.0, description=_TEMPERATURE)

    function = "bpkd_search.losses.logits:dkd_loss"
    # `alpha` stays: the ratio of both and `weight` are all that there is to it.
    ranges = {"weight": _WEIGHTS, "beta": {"float": [0.5, 16], "log": True}, "temperature": _TEMPERATURES}
    source = "arXiv 2203.08679"
    published = (
        PublishedWeight("megvii-research/mdistiller", "alpha", 1.0, "1", _PER_SAMPLE),
        PublishedWeight("megvii-research/mdistiller", "beta", 8.0, "1", _PER_SAMPLE),
    )


class Aicsd(LossMethod):
    """Similarities between the classes' spatial distributions, plus pixel-wise KL; both fade.

    The paper raises the weight of the cross-entropy as both terms fade; here it stays 1. No published weight is
    converted: the formulas are the paper's, and its public code computes other losses.
    """

    method: Literal["aicsd"] = "aicsd"
    ics_weight: Weight = Field(default=Schedule(start=1.0, end=0.0), description="Weight of the similarity term.")
    pixel_weight: Weight = Field(default=Schedule(start=1.0, end=0.0), description="Weight of the pixel-wise term.")
    temperature: Temperature = Field(default=1.0, description=_TEMPERATURE)

    function = "bpkd_search.losses.aicsd:aicsd_loss"
    parts = {"ics": "ics_weight", "pixel": "pixel_weight"}
    ranges = {
        "ics_weight.start": {"float": [0.005, 5], "log": True},
        "pixel_weight.start": _WEIGHTS,
        "temperature": _TEMPERATURES,
    }
    source = "arXiv 2308.04243"


class FeatureMse(LossMethod):
    """Squared error of projected features."""

    method: Literal["feature_mse"] = "feature_mse"
    weight: Weight = Field(default=10.0, description=_WEIGHT)

    needs = "teacher features"
    function = "bpkd_search.losses.features:FeatureMSE"
    ranges = {"weight": _WEIGHTS}
    learned = True
    source = "arXiv 1412.6550"
    published = (PublishedWeight("winycg/CIRKD", "weight", 10.0, "1", "mean over channels and pixels: identical"),)


class Cirkd(LossMethod):
    """Pixel similarities across the images of a batch."""

    method: Literal["cirkd"] = "cirkd"
    weight: Weight = Field(default=1.0, description=_WEIGHT)
    temperature: Temperature = Field(default=0.1, description="Divides the similarities before the softmax.")

    needs = "teacher features"
    function = "bpkd_search.losses.features:cirkd_loss"
    # `temperature` stays: it divides cosines, for which the range of other methods' temperatures is too high.
    ranges = {"weight": _WEIGHTS}
    source = "arXiv 2204.06986"
    published = (
        PublishedWeight("winycg/CIRKD", "weight", 1.0, "1", "KL per pixel and pair of images, no tau^2: identical"),
    )


METHODS: dict[str, type[LossMethod]] = {entry.name: entry for entry in LossMethod.__subclasses__()}


def _value_or_schedule(value: Any) -> str:
    return "schedule" if isinstance(value, Schedule) or (isinstance(value, dict) and "start" in value) else "value"


Argument = Annotated[
    Annotated[JsonValue, Tag("value")] | Annotated[Schedule, Tag("schedule")], Discriminator(_value_or_schedule)
]


class Custom(LossMethod):
    """A function of yours, called as `function(student, teacher, labels, ignore_index=..., **arguments)`.

    The maps are logits [B, C, h, w], or features if it needs the teacher's; without a need the teacher's is None. An
    argument may be a schedule of numbers; the function then gets its present value.
    """

    method: Literal["custom"] = "custom"
    function: str = Field(description="Import path, `package.module:function`.")  # type: ignore[misc]
    needs: Literal["teacher logits", "teacher features", "nothing"] = Field(  # type: ignore[misc]
        default="teacher logits", description="What of teacher and student the function gets."
    )
    weight: Weight = Field(default=1.0, description=_WEIGHT)
    arguments: dict[str, Argument] = Field(default={}, description="Further arguments, by name.")

    def at(self, progress: float) -> dict[str, Any]:
        """Return the weight and the function's arguments at `progress`: schedules become numbers."""
        given = {"weight": self.weight, **self.arguments}
        return {name: value.at(progress) if isinstance(value, Schedule) else value for name, value in given.items()}


def loss_method(name: str) -> type[LossMethod]:
    """Return the entry called `name`. Raises `ConfigError` with the valid names if it is unknown."""
    entries: dict[str, type[LossMethod]] = {**METHODS, Custom.name: Custom}
    if name not in entries:
        raise ConfigError([f"method: got {name!r}, must be one of {', '.join(entries)}"], source="loss")
    return entries[name]


def parameters(name: str) -> dict[str, Any]:
    """Return the method's parameters and their defaults as plain values. Raises `ConfigError` if it is unknown."""
    return loss_method(name)(method=name).model_dump(exclude={"method"})
