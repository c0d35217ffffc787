"""The store: training crops or whole images, validation images and a teacher's logits, read by every trial on a node.

A view is one crop of one training image, determined by (data seed, image, view index). A store holds views, or whole
images of which every epoch takes new crops; the validation split at its evaluation size; and, optionally, the logits of
a frozen teacher, on the views or on the whole images (maps). All in flat memory-mapped arrays.
Directories are named by a hash of everything that determines the arrays: a change of data, transform or teacher never
reads stale arrays, and equal settings share one build.

    views/KEY/manifest.json            description of the store
    views/KEY/use                      locked by readers and builders; its modification time is the last use
    views/KEY/train/                   views: images.npy, labels.npy, and chunks.json with one checksum per chunk
    views/KEY/whole/                   whole images and labels: records.npy, chunks.json
    views/KEY/validation/              validation images and labels, likewise
    views/KEY/logits-KEY/              encoded logits of a teacher on views, or its maps, and chunks.json
"""

from bpkd_search.data.views.build import (
    build_logits,
    build_maps,
    build_views,
    bytes_left,
    cache_dir,
    describe,
    has_space,
    logits_layout,
    logits_path,
    require_space,
    store_layouts,
)
from bpkd_search.data.views.chunks import Map, thread_map
from bpkd_search.data.views.given import GivenLogits
from bpkd_search.data.views.maps import MapPlan
from bpkd_search.data.views.recipe import ViewRecipe
from bpkd_search.data.views.store import ViewStore

__all__ = [
    "GivenLogits",
    "Map",
    "MapPlan",
    "ViewRecipe",
    "ViewStore",
    "build_logits",
    "build_maps",
    "build_views",
    "bytes_left",
    "cache_dir",
    "describe",
    "has_space",
    "logits_layout",
    "logits_path",
    "require_space",
    "store_layouts",
    "thread_map",
]
