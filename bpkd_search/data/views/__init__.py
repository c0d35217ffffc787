"""Views: augmented crops made once, stored in flat memory-mapped arrays, and read by every trial on a node.

A view is one crop of one training image, determined by (data seed, image, view index). The store also contains the
validation split at its evaluation size and, optionally, the logits of a frozen teacher on the views.
Directories are named by a hash of everything that determines the arrays: a change of data, transform or teacher never
reads stale arrays, and equal settings share one build.

    views/KEY/manifest.json            description of the store
    views/KEY/use                      locked by readers and builders; its modification time is the last use
    views/KEY/{train,val}/             images.npy, labels.npy, and chunks.json with one checksum per chunk
    views/KEY/logits-KEY/              encoded logits of a teacher, and chunks.json
"""

from bpkd_search.data.views.build import (
    build_logits,
    build_views,
    bytes_left,
    cache_dir,
    logits_layout,
    logits_path,
    require_space,
)
from bpkd_search.data.views.chunks import Map, thread_map
from bpkd_search.data.views.recipe import ViewRecipe
from bpkd_search.data.views.store import ViewStore

__all__ = [
    "Map",
    "ViewRecipe",
    "ViewStore",
    "build_logits",
    "build_views",
    "bytes_left",
    "cache_dir",
    "logits_layout",
    "logits_path",
    "require_space",
    "thread_map",
]
