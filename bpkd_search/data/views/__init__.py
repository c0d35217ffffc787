"""Views: augmented crops made once, kept in flat memory-mapped arrays, and read by every trial of a node.

A view is one crop of one training image, fixed by (data seed, image, view index). The store also keeps the
validation split at its evaluation size, and beside the views the logits that a frozen teacher gives on them.
Folders are named by a hash of everything that went in, so that a change of data, transform or teacher can
never meet stale arrays, and equal settings share one build.

    views/KEY/manifest.json            what the store is
    views/KEY/use                      locked by readers and builders; its time is the last use
    views/KEY/{train,val}/             images.npy, labels.npy, and chunks.json with a checksum a chunk
    views/KEY/logits-KEY/              a teacher's logits as their codec keeps them, and chunks.json
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
