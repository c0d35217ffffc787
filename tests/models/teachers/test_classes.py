"""Classes of a teacher and of the data, matched by name."""

from __future__ import annotations

import pytest
import torch

from bpkd_search.errors import CheckpointError
from bpkd_search.models.teachers.classes import match_classes

LOGITS = torch.arange(4.0).view(1, 4, 1, 1) * torch.tensor([1.0, -1.0]).view(1, 1, 1, 2)


def test_the_same_classes_in_the_same_order_need_no_word() -> None:
    found = match_classes(["road", "sky", "car", "tree"], 4, ["road", "sky", "car", "tree"])
    assert found.line is None and found(LOGITS) is LOGITS
    assert match_classes(None, 4, ["a", "b", "c", "d"])(LOGITS) is LOGITS
    assert match_classes(["LABEL_0", "LABEL_1"], 2, ["a", "b"]).indices == (0, 1)


def test_other_orders_and_more_classes_are_brought_into_order() -> None:
    found = match_classes(["Traffic light", "sky", "car ", "tree"], 4, ["car", "TrafficLight", "sky"])
    assert found(LOGITS)[0, :, 0].tolist() == [[2.0, -2.0], [0.0, 0.0], [1.0, -1.0]]
    assert found.line == "its classes are matched by name; 1 that the data lacks are left out (tree)"


def test_a_class_that_the_teacher_lacks_has_the_lowest_logit_if_asked_for() -> None:
    with pytest.raises(CheckpointError, match=r"lacks pole of the data's classes; it has a, road, sky, b: .*lowest"):
        match_classes(["a", "road", "sky", "b"], 4, ["sky", "pole", "road"])
    found = match_classes(["a", "road", "sky", "b"], 4, ["sky", "pole", "road"], lowest=True)
    assert found(LOGITS)[0, :, 0].tolist() == [[2.0, -2.0], [1.0, -2.0], [1.0, -1.0]]
    assert found.line is not None and found.line.endswith("it lacks pole, which get the lowest logit of each pixel")
    with pytest.raises(CheckpointError, match="lacks x, y"):
        match_classes(["a", "b", "c", "d"], 4, ["x", "y"], lowest=True)


@pytest.mark.parametrize(
    ("theirs", "count", "ours", "said"),
    [
        (None, 5, ["a", "b"], "has 5 classes without names, the data 2"),
        (["a", "b"], 3, ["a", "b"], "has 3 classes, 2 names are given"),
        (["wall", "Wall"], 2, ["wall"], "has several classes named wall"),
        (["car", "road"], 2, ["Car", "car"], "cannot be matched with Car, car of the data's classes, whose names are"),
    ],
)
def test_what_cannot_be_matched_is_said(theirs: list[str] | None, count: int, ours: list[str], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        match_classes(theirs, count, ours)
