"""Distillation losses for semantic segmentation: pure functions, thin modules, one registry."""

from .bpkd import BPKDLoss, BPKDTerms, bpkd_loss
from .criterion import Criterion
from .edges import edge_band, edge_masks, valid_fraction
from .features import CIRKD, FeatureMSE
from .logits import cwd_loss, dist_loss, dkd_loss, kd_loss
from .registry import METHODS, LossMethod, PublishedWeight, loss_method, parameters
from .schedule import scheduled

__all__ = [
    "CIRKD",
    "METHODS",
    "BPKDLoss",
    "BPKDTerms",
    "Criterion",
    "FeatureMSE",
    "LossMethod",
    "PublishedWeight",
    "bpkd_loss",
    "cwd_loss",
    "dist_loss",
    "dkd_loss",
    "edge_band",
    "edge_masks",
    "kd_loss",
    "loss_method",
    "parameters",
    "scheduled",
    "valid_fraction",
]
