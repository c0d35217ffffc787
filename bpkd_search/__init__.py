"""bpkd-search: finds the loss hyperparameters of boundary-privileged knowledge distillation.

The commands of the command line are functions of the same names here:

    from bpkd_search import load_search, run_search     # a search from Python
    from bpkd_search import Leaderboard                 # its results as pandas frames
    from bpkd_search import export, predict, train      # from its best setting to a student at work
    from bpkd_search.losses import bpkd_loss            # the loss in your own training loop

Names load on first use: reading a leaderboard imports neither torch nor Ray.
"""

from typing import TYPE_CHECKING, Any

from bpkd_search.imports import lazy_names

if TYPE_CHECKING:
    from bpkd_search.cluster.confirm import confirm
    from bpkd_search.cluster.driver import resume_search, run_search
    from bpkd_search.config import RunConfig, SearchConfig, load_run, load_search
    from bpkd_search.errors import UserError
    from bpkd_search.export.write import export
    from bpkd_search.predict import load_student, predict
    from bpkd_search.report import report
    from bpkd_search.results.leaderboard import Leaderboard
    from bpkd_search.search.simulate import simulate
    from bpkd_search.training.train import train

    __version__: str

__all__ = [
    "Leaderboard",
    "RunConfig",
    "SearchConfig",
    "UserError",
    "__version__",
    "confirm",
    "export",
    "load_run",
    "load_search",
    "load_student",
    "predict",
    "report",
    "resume_search",
    "run_search",
    "simulate",
    "train",
]

_lazy_name, __dir__ = lazy_names(
    __name__,
    {
        "Leaderboard": "bpkd_search.results.leaderboard",
        "RunConfig": "bpkd_search.config",
        "SearchConfig": "bpkd_search.config",
        "UserError": "bpkd_search.errors",
        "confirm": "bpkd_search.cluster.confirm",
        # These three are submodules as well, which can be called: see `callable_module`.
        "export": "bpkd_search.export",
        "predict": "bpkd_search.predict",
        "report": "bpkd_search.report",
        "load_run": "bpkd_search.config",
        "load_search": "bpkd_search.config",
        "load_student": "bpkd_search.predict",
        "resume_search": "bpkd_search.cluster.driver",
        "run_search": "bpkd_search.cluster.driver",
        "simulate": "bpkd_search.search.simulate",
        "train": "bpkd_search.training.train",
    },
)


def __getattr__(name: str) -> Any:
    return _version() if name == "__version__" else _lazy_name(name)


def _version() -> str:
    """Version of the installed distribution; of a source tree that is not installed, that of its `pyproject.toml`."""
    import re
    from importlib.metadata import PackageNotFoundError, version
    from pathlib import Path

    try:
        return version("bpkd-search")
    except PackageNotFoundError:
        project = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
        return str(re.findall(r'^version = "(.+)"$', project, re.MULTILINE)[0])
