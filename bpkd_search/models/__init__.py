"""Segmentation networks and their weights."""

from bpkd_search.models.checkpoint import load_encoder, load_segmentor, read_about, save_weights
from bpkd_search.models.network import Network
from bpkd_search.models.segmentor import Segmentor, count_parameters

__all__ = ["Network", "Segmentor", "count_parameters", "load_encoder", "load_segmentor", "read_about", "save_weights"]
