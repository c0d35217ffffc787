"""A memory of searches on an object store."""

from __future__ import annotations

import pytest

from bpkd_search.errors import ExperimentError
from bpkd_search.experiment.memory import Memory
from bpkd_search.stores.store import Store
from tests.experiment.test_memory import ABOUT, table
from tests.store_server import StoreServer


def test_a_memory_on_a_store_keeps_whole_tables_and_says_what_is_damaged(server: StoreServer) -> None:
    url = server.url()
    memory = Memory(url)
    assert memory.searches() == ([], [])
    memory.make()
    memory.put("one", table(3), ABOUT)
    place = memory.put("one", table(5), ABOUT)  # the search has gone on
    memory.put("two", table(2), ABOUT)
    assert place == f"{memory.name}/one.parquet"
    found, faults = Memory(url).searches()
    assert [(past.file, past.table.num_rows) for past in found] == [("one", 5), ("two", 2)] and not faults
    Store(url).put("torn.parquet", b"torn")
    found, (fault,) = Memory(url).searches()
    assert len(found) == 2 and fault.startswith(f"{memory.name}/torn.parquet: cannot be read: ")


def test_a_store_that_is_away_is_one_sentence(server: StoreServer) -> None:
    memory = Memory("s3://no-such-bucket-here/memory")
    with pytest.raises(ExperimentError, match="s3://no-such-bucket-here/memory: cannot be written to") as caught:
        memory.make()
    assert len(str(caught.value).splitlines()) == 1
