"""bpkd-search: finds the loss hyperparameters of boundary-privileged knowledge distillation.

    from bpkd_search import Leaderboard                 # results as pandas frames
    from bpkd_search import load_search, run_search     # a search from Python
    from bpkd_search.losses import bpkd_loss            # the loss in your own training loop

Names load on first use: reading a leaderboard imports neither torch nor Ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bpkd_search.cluster.driver import resume_search, run_search
    from bpkd_search.config import RunConfig, SearchConfig, load_run, load_search
    from bpkd_search.errors import UserError
    from bpkd_search.results.leaderboard import Leaderboard

_HOMES = {
    "Leaderboard": "bpkd_search.results.leaderboard",
    "RunConfig": "bpkd_search.config",
    "SearchConfig": "bpkd_search.config",
    "UserError": "bpkd_search.errors",
    "load_run": "bpkd_search.config",
    "load_search": "bpkd_search.config",
    "resume_search": "bpkd_search.cluster.driver",
    "run_search": "bpkd_search.cluster.driver",
}

__all__ = [
    "Leaderboard",
    "RunConfig",
    "SearchConfig",
    "UserError",
    "load_run",
    "load_search",
    "resume_search",
    "run_search",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bpkd_search' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
