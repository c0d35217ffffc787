"""What a run and a search are: checked YAML in, frozen models out. Knows neither torch nor Ray.

Names load on first use: results read dotted paths without the models, whose import takes longer than their reading.
"""

from typing import TYPE_CHECKING

from bpkd_search.imports import lazy_names

if TYPE_CHECKING:
    from bpkd_search.config.load import dump, load_run, load_search
    from bpkd_search.config.loss import label_of, terms_of
    from bpkd_search.config.models import RunConfig, SearchConfig
    from bpkd_search.config.points import BASELINES

__all__ = [
    "BASELINES",
    "RunConfig",
    "SearchConfig",
    "dump",
    "label_of",
    "load_run",
    "load_search",
    "terms_of",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "BASELINES": "bpkd_search.config.points",
        "RunConfig": "bpkd_search.config.models",
        "SearchConfig": "bpkd_search.config.models",
        "dump": "bpkd_search.config.load",
        "label_of": "bpkd_search.config.loss",
        "load_run": "bpkd_search.config.load",
        "load_search": "bpkd_search.config.load",
        "terms_of": "bpkd_search.config.loss",
    },
)
