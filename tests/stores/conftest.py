"""A store for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.store_server import StoreServer, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    """A server that runs, with its address and credentials in the environment."""
    with running(tmp_path_factory.mktemp("server")) as server:
        yield server
