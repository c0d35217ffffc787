"""Waiting for the first nodes: what lacks, what is said, and what is refused instead."""

from __future__ import annotations

from typing import Any

import pytest

from bpkd_search.cluster.nodes import Node
from bpkd_search.cluster.waiting import lacking, wait_for_nodes
from bpkd_search.config.search import Search
from tests.machines import nodes_of


@pytest.mark.parametrize(
    ("resources", "device", "machines", "what"),
    [
        (None, "auto", [(4, 0)], None),
        (None, "auto", [(0, 0)], "a CPU for trials"),
        (None, "auto", [], "a CPU for trials"),
        (None, "cuda", [(4, 0)], "a GPU, which train.device: cuda needs"),
        (None, "cuda", [(4, 0), (8, 1)], None),
        (None, "cuda", [(4, 0), (0, 1)], "a GPU, which train.device: cuda needs"),  # that one is to run nothing
        ({"gpus": 0.5}, "auto", [(4, 0)], "a GPU, which search.resources.gpus asks for"),
        ({"gpus": 0.5}, "cpu", [(4, 0)], None),
        ({"gpus": 0}, "cuda", [(4, 0)], None),  # refused: more nodes change nothing
        ({"gpus": 2}, "auto", [(8, 1)], None),  # refused: the GPUs there are too few
        ("auto", "auto", [(4, 0)], None),
    ],
)
def test_what_trials_need_and_no_node_has(
    resources: Any, device: str, machines: list[tuple[float, float]], what: str | None
) -> None:
    assert lacking(Search(resources=resources), device, nodes_of(*machines)) == what


def test_a_head_alone_is_told_of_at_once_and_every_ten_minutes_until_a_node_joins() -> None:
    said, passed = list[str](), [0.0]
    head, worker = nodes_of((4, 0), (8, 2))

    def sleep(seconds: float) -> None:
        passed[0] += seconds

    def look() -> list[Node]:
        return [head, worker] if passed[0] >= 1250 else [head]

    assert wait_for_nodes(Search(), "cuda", said.append, look, sleep) == [head, worker]
    first = "waiting for a node with a GPU, which train.device: cuda needs"
    there = "there are a: 4 CPU, 0 GPU. Ctrl-C ends the waiting"
    assert said == [
        f"{first}; {there}",
        f"{first} (10 minutes so far); {there}",
        f"{first} (20 minutes so far); {there}",
        "a node has joined after 1250 s; the search begins",
    ]


def test_nothing_is_said_where_there_is_nothing_to_wait_for() -> None:
    said = list[str]()
    nodes = nodes_of((4, 0))
    assert wait_for_nodes(Search(), "auto", said.append, lambda: nodes) is nodes and said == []
