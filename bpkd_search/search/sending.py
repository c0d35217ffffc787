"""Sending a request to the driver of a search from any process that sees its folder."""

from __future__ import annotations

from pathlib import Path

from bpkd_search.errors import ExperimentError
from bpkd_search.experiment.folder import read_config
from bpkd_search.experiment.paths import short
from bpkd_search.experiment.requests import ask, holder
from bpkd_search.search.requests import Change, Pause, Request, effect, states_of
from bpkd_search.stores.home import current
from bpkd_search.stores.lease import held_by
from bpkd_search.stores.requests import ask as ask_at
from bpkd_search.stores.store import Store, is_store

# A driver looks every second, but building the networks of another space, on a busy machine, takes some.
WAIT_SECONDS = 30.0


def send(place: Path | str, request: Request, seconds: float = WAIT_SECONDS) -> str:
    """Hand a request to a search in a folder or at a URL, and give a sentence on what becomes of it.

    A driver that runs trials answers within `seconds`. Without one the request waits for the next `resume`. Raises
    `ConfigError` and `ExperimentError` for what cannot be done.
    """
    url = str(place) if is_store(place) else None
    directory = Path(place) if url is None else current(url, lambda line: None)
    config, running = read_config(directory), holder(directory) if url is None else held_by(Store(url))
    if isinstance(request, Pause) and not running:
        raise ExperimentError(f"{directory}: nobody runs this search, so there is nothing to pause")
    if not isinstance(request, Change):
        effect(request, config, states_of(directory))  # what is wrong already need not wait
    plain = request.model_dump(mode="json")
    answer = ask(directory, plain, seconds) if url is None else ask_at(url, directory, plain, seconds)
    if answer is None:
        running = holder(directory)  # it may have ended
        who = f"{running} has not taken it yet" if running else "nobody runs this search now"
        return f"the request waits: {who}; it is taken at the latest by: bpkd-search resume {short(directory)}"
    if "refused" in answer:
        raise ExperimentError(str(answer["refused"]))
    return str(answer["answer"])
