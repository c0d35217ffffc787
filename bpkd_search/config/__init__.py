"""What a run and a search are: checked YAML in, frozen models out. Knows neither torch nor Ray."""

from bpkd_search.config.load import dump, load_run, load_search
from bpkd_search.config.loss import label_of, terms_of
from bpkd_search.config.models import RunConfig, SearchConfig
from bpkd_search.config.points import BASELINES
from bpkd_search.config.search import METRICS

__all__ = [
    "BASELINES",
    "METRICS",
    "RunConfig",
    "SearchConfig",
    "dump",
    "label_of",
    "load_run",
    "load_search",
    "terms_of",
]
