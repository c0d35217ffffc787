"""Views on the disk: every row is its view, the same key the same bytes, another input another key."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from bpkd_search.data import EvalTransform, TrainTransform, open_split
from bpkd_search.data.views import ViewRecipe, ViewStore, build_logits, build_views
from bpkd_search.errors import DataError

SIZE = {"height": 32, "width": 48}


def recipe(seed: int = 0, **changes) -> ViewRecipe:
    options = {"train_images": 5, "val_images": 3, **SIZE}
    base = ViewRecipe(
        open_split("synthetic", "train", **options),
        open_split("synthetic", "val", **options),
        TrainTransform(32, 48, (0.8, 1.2)),
        EvalTransform((32, 48), "resized"),
        views=3,
        seed=seed,
    )
    return dataclasses.replace(base, **changes)


def view(plan: ViewRecipe, row: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A row of the store, from the data set and the transform alone."""
    index, number = row % 5, row // 5
    seed = int(np.random.SeedSequence([plan.seed, index, number]).generate_state(1)[0])
    return plan.train_transform(*plan.train[index], seed)


def test_every_row_is_its_view_computed_directly(tmp_path: Path) -> None:
    plan = recipe()
    store = build_views(plan, tmp_path)
    for row in range(15):
        image, label = view(plan, row)
        assert np.array_equal(store.crops.images[row], image)
        assert np.array_equal(store.crops.labels[row], label)
    for index, (found, truth) in enumerate(store.val_samples()):
        image, label = plan.eval_transform(*plan.val[index])
        assert torch.equal(found, image)
        assert torch.equal(truth, label)
    assert index == store.num_val_images - 1 == 2


def test_batches_are_the_views_of_the_permuted_rows(tmp_path: Path) -> None:
    plan = recipe()
    store = build_views(plan, tmp_path)
    for epoch in range(4):
        # What an order has always been: a generator seeded by (seed, epoch), and whole batches of it.
        order = np.random.default_rng([7, epoch]).permutation(5) + (epoch % 3) * 5
        batches = list(store.epoch(epoch, 2, 7))
        assert [len(images) for images, _, _ in batches] == [2, 2]
        for step, (images, labels, logits) in enumerate(batches):
            assert logits is None
            for place, row in enumerate(order[2 * step : 2 * step + 2]):
                image, label = view(plan, int(row))
                assert torch.equal(images[place], image) and torch.equal(labels[place], label)


def test_views_that_are_not_stored_are_the_same_bytes(tmp_path: Path) -> None:
    computed = build_views(recipe(), tmp_path / "a", stored=False)
    assert not (computed.path / "train").exists()
    stored = build_views(recipe(), tmp_path / "b")
    assert computed.path.name == stored.path.name
    for epoch in range(3):
        for a, b in zip(computed.epoch(epoch, 2, 1), stored.epoch(epoch, 2, 1), strict=True):
            assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    with pytest.raises(DataError, match=r"train: has no table of chunks; `bpkd-search views"):
        ViewStore(computed.path)
    # Where they are on the disk after all, they are read from there.
    build_views(recipe(), tmp_path / "a")
    assert ViewStore(computed.path, recipe=recipe()).crops.images is not None


def test_an_incomplete_last_batch_is_left_out_unless_it_is_the_only_one(tmp_path: Path) -> None:
    store = build_views(recipe(), tmp_path)
    assert [len(images) for images, _, _ in store.epoch(0, 2, 0)] == [2, 2]
    assert [len(images) for images, _, _ in store.epoch(0, 64, 0)] == [5]


def test_a_reader_that_stops_early_leaves_no_thread_behind(tmp_path: Path) -> None:
    import threading

    store = build_views(recipe(), tmp_path)
    before = threading.active_count()
    for _ in range(5):
        next(store.epoch(0, 1, 0))
    assert threading.active_count() == before


def test_an_error_while_reading_reaches_the_reader(tmp_path: Path) -> None:
    computed = build_views(recipe(), tmp_path, stored=False)
    computed.crops.recipe = recipe(train=Broken(3))
    with pytest.raises(DataError, match="frame 3"):
        list(computed.epoch(0, 1, 0))


def test_equal_recipes_share_a_build_and_any_change_has_its_own(tmp_path: Path) -> None:
    first = build_views(recipe(), tmp_path)
    stamp = (first.path / "train" / "images.npy").stat().st_mtime_ns
    assert build_views(recipe(), tmp_path).path == first.path
    assert (first.path / "train" / "images.npy").stat().st_mtime_ns == stamp
    changed = [
        recipe(seed=1),
        recipe(views=4),
        recipe(train_transform=TrainTransform(32, 48, (0.8, 1.3))),
        recipe(eval_transform=EvalTransform((32, 64), "resized")),
        recipe(train=open_split("synthetic", "train", train_images=6, **SIZE)),
    ]
    assert len({recipe().key(), *(r.key() for r in changed)}) == len(changed) + 1
    assert recipe(about={"kind": "anything"}).key() == recipe().key()


def test_the_same_key_gives_the_same_bytes(tmp_path: Path) -> None:
    a, b = build_views(recipe(), tmp_path / "a"), build_views(recipe(), tmp_path / "b", map=map)
    for name in ("train/images.npy", "train/labels.npy", "validation/records.npy"):
        assert (a.path / name).read_bytes() == (b.path / name).read_bytes()


def test_logits_are_the_teachers_to_float16(tmp_path: Path) -> None:
    store = build_views(recipe(), tmp_path)
    torch.manual_seed(0)
    net = torch.nn.Conv2d(3, 4, 4, stride=4)
    calls = []

    def teacher(images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        return net(images.float() / 255)

    stored = build_logits(store, teacher, "key", batch_size=4)
    with torch.no_grad():
        expected = net(torch.from_numpy(store.crops.images).float() / 255)
    assert np.array_equal(stored.logits.arrays["values"], expected.half().numpy())
    assert calls == [1, 4, 4, 4, 3]  # the first asks for the shape
    build_logits(store, teacher, "key")
    assert len(calls) == 5
    images, _, logits = next(stored.epoch(1, 2, 0))
    torch.testing.assert_close(logits.float(), net(images.float() / 255), rtol=2e-3, atol=1e-3)
    assert next(stored.epoch(1, 2, 0, logits=False))[2] is None


class Broken:
    """A data set of five scenes with one that cannot be read."""

    def __init__(self, bad: int) -> None:
        self.bad, self.read = bad, []
        self.whole = open_split("synthetic", "train", train_images=5, **SIZE)
        self.class_names, self.palette, self.names = self.whole.class_names, self.whole.palette, self.whole.names
        self.ignore_index, self.identity = 255, self.whole.identity

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int):
        self.read.append(index)
        if index == self.bad:
            raise DataError(f"frame {index} is damaged")
        return self.whole[index]
