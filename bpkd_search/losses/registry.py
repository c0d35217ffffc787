"""The distillation methods by name: what they need, where they come from, what weights others published.

The same method differs by orders of magnitude between codebases because they reduce differently. Every
published weight stands here with the factor that turns it into ours (per labelled pixel or per class).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from bpkd_search.errors import ConfigError
from bpkd_search.losses.bpkd import bpkd_loss
from bpkd_search.losses.features import CIRKD, FeatureMSE
from bpkd_search.losses.logits import cwd_loss, dist_loss, dkd_loss, kd_loss

Needs = Literal["nothing", "teacher logits", "teacher features"]


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


@dataclass(frozen=True)
class LossMethod:
    """One method: a function of logits and labels, a module of features and labels, or None for neither."""

    name: str
    function: Callable[..., Any] | None
    needs: Needs
    summary: str
    source: str
    published: tuple[PublishedWeight, ...] = ()


_SAME_FORM = "batch mean of the same formulas; the authors published no training code"
_PER_CLASS = "KL summed over space, divided by images and classes, times tau^2: as ours"
_PER_SAMPLE = "mean per sample there, per pixel here"

_ALL = (
    LossMethod("ce", None, "nothing", "No distillation: the cross-entropy alone", ""),
    LossMethod(
        "bpkd",
        bpkd_loss,
        "teacher logits",
        "Edges per pixel over classes, bodies per class over space",
        "arXiv 2306.08075",
        (
            PublishedWeight("independent reimplementations", "edge_weight", 50.0, "1", _SAME_FORM),
            PublishedWeight("independent reimplementations", "body_weight", 20.0, "1", _SAME_FORM),
        ),
    ),
    LossMethod(
        "kd",
        kd_loss,
        "teacher logits",
        "Pixel-wise KL over classes",
        "arXiv 1503.02531",
        (
            PublishedWeight("winycg/CIRKD", "weight", 1.0, "1", "KL per pixel, times tau^2: as ours"),
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
        ),
    ),
    LossMethod(
        "cwd",
        cwd_loss,
        "teacher logits",
        "Channel-wise KL over space",
        "arXiv 2011.13256",
        (
            PublishedWeight("CWD paper (tau 4)", "weight", 3.0, "1", _PER_CLASS),
            PublishedWeight("winycg/CIRKD (tau 4)", "weight", 3.0, "1", _PER_CLASS),
            PublishedWeight("open-mmlab/mmrazor (tau 1)", "weight", 5.0, "1", _PER_CLASS),
        ),
    ),
    LossMethod(
        "dist",
        dist_loss,
        "teacher logits",
        "1 - Pearson correlation over classes and over pixels",
        "arXiv 2205.10536",
        (
            PublishedWeight("hunto/DIST_KD", "inter_weight", 1.0, "1", "mean over pixels: as ours"),
            PublishedWeight("hunto/DIST_KD", "intra_weight", 1.0, "1", "mean over classes: as ours"),
        ),
    ),
    LossMethod(
        "dkd",
        dkd_loss,
        "teacher logits",
        "Target class and the rest, decoupled",
        "arXiv 2203.08679",
        (
            PublishedWeight("megvii-research/mdistiller", "alpha", 1.0, "1", _PER_SAMPLE),
            PublishedWeight("megvii-research/mdistiller", "beta", 8.0, "1", _PER_SAMPLE),
        ),
    ),
    LossMethod(
        "feature_mse",
        FeatureMSE,
        "teacher features",
        "Squared error of projected features",
        "arXiv 1412.6550",
        (PublishedWeight("winycg/CIRKD", "weight", 10.0, "1", "mean over channels and pixels: as ours"),),
    ),
    LossMethod(
        "cirkd",
        CIRKD,
        "teacher features",
        "Pixel similarities across the images of a batch",
        "arXiv 2204.06986",
        (PublishedWeight("winycg/CIRKD", "weight", 1.0, "1", "KL per pixel and pair of images, no tau^2: as ours"),),
    ),
)

METHODS: dict[str, LossMethod] = {method.name: method for method in _ALL}


def loss_method(name: str) -> LossMethod:
    """The method called `name`; ConfigError listing the valid names for another."""
    if name not in METHODS:
        raise ConfigError([f"method: got {name!r}, must be one of {', '.join(METHODS)}"], source="loss")
    return METHODS[name]


def parameters(name: str) -> dict[str, Any]:
    """The method's parameters and their defaults, from its signature; ConfigError for an unknown name."""
    function = loss_method(name).function
    if function is None:
        return {}
    return {
        parameter.name: parameter.default
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is not parameter.empty and parameter.name != "ignore_index"
    }
