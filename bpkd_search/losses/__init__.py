"""Distillation losses for semantic segmentation: pure functions, thin modules, one registry."""

from bpkd_search.losses.bpkd import BPKDLoss, BPKDTerms, bpkd_loss
from bpkd_search.losses.criterion import Criterion
from bpkd_search.losses.edges import edge_band, edge_masks, valid_fraction
from bpkd_search.losses.features import CIRKD, FeatureMSE
from bpkd_search.losses.logits import cwd_loss, dist_loss, dkd_loss, kd_loss
from bpkd_search.losses.registry import METHODS, LossMethod, PublishedWeight, loss_method, parameters
from bpkd_search.losses.schedule import scheduled

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
