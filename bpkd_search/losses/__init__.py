"""Distillation losses for semantic segmentation: pure functions of maps and labels, and one entry per method.

Names load on first use: `bpkd_search.losses.methods`, which a configuration imports, does not import torch.
"""

from typing import TYPE_CHECKING

from bpkd_search.imports import lazy_names

if TYPE_CHECKING:
    from bpkd_search.blocks import Schedule as Schedule
    from bpkd_search.losses.bpkd import BPKDLoss as BPKDLoss
    from bpkd_search.losses.bpkd import BPKDTerms as BPKDTerms
    from bpkd_search.losses.bpkd import bpkd_loss as bpkd_loss
    from bpkd_search.losses.criterion import Criterion as Criterion
    from bpkd_search.losses.edges import edge_band as edge_band
    from bpkd_search.losses.edges import edge_masks as edge_masks
    from bpkd_search.losses.edges import valid_fraction as valid_fraction
    from bpkd_search.losses.entry import LossMethod as LossMethod
    from bpkd_search.losses.entry import PublishedWeight as PublishedWeight
    from bpkd_search.losses.features import FeatureMSE as FeatureMSE
    from bpkd_search.losses.features import cirkd_loss as cirkd_loss
    from bpkd_search.losses.logits import cwd_loss as cwd_loss
    from bpkd_search.losses.logits import dist_loss as dist_loss
    from bpkd_search.losses.logits import dkd_loss as dkd_loss
    from bpkd_search.losses.logits import kd_loss as kd_loss
    from bpkd_search.losses.methods import METHODS as METHODS
    from bpkd_search.losses.methods import loss_method as loss_method
    from bpkd_search.losses.methods import parameters as parameters

_HOMES = {
    "BPKDLoss": "bpkd_search.losses.bpkd",
    "BPKDTerms": "bpkd_search.losses.bpkd",
    "Criterion": "bpkd_search.losses.criterion",
    "FeatureMSE": "bpkd_search.losses.features",
    "LossMethod": "bpkd_search.losses.entry",
    "METHODS": "bpkd_search.losses.methods",
    "PublishedWeight": "bpkd_search.losses.entry",
    "Schedule": "bpkd_search.blocks",
    "bpkd_loss": "bpkd_search.losses.bpkd",
    "cirkd_loss": "bpkd_search.losses.features",
    "cwd_loss": "bpkd_search.losses.logits",
    "dist_loss": "bpkd_search.losses.logits",
    "dkd_loss": "bpkd_search.losses.logits",
    "edge_band": "bpkd_search.losses.edges",
    "edge_masks": "bpkd_search.losses.edges",
    "kd_loss": "bpkd_search.losses.logits",
    "loss_method": "bpkd_search.losses.methods",
    "parameters": "bpkd_search.losses.methods",
    "valid_fraction": "bpkd_search.losses.edges",
}

__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
