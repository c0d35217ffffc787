"""The view store: the same key the same bytes, another input another key, whole or not at all."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from bpkd_search.data import EvalTransform, TrainTransform, open_split
from bpkd_search.data import views as views_module
from bpkd_search.data.views import ViewRecipe, build_logits, build_views
from bpkd_search.errors import DataError, ResourceError

SIZE = {"height": 32, "width": 48}


def recipe(seed: int = 0, **changes) -> ViewRecipe:
    options = {"train_images": 5, "val_images": 3, **SIZE}
    base = ViewRecipe(
        open_split("synthetic", "train", **options),
        open_split("synthetic", "val", **options),
        TrainTransform(32, 48, (0.8, 1.2)),
        EvalTransform(32, 48),
        views=3,
        seed=seed,
    )
    return dataclasses.replace(base, **changes)


def test_every_row_is_its_view_computed_directly(tmp_path: Path) -> None:
    plan = recipe()
    store = build_views(plan, tmp_path)
    for view in range(3):
        for index in range(5):
            seed = int(np.random.SeedSequence([0, index, view]).generate_state(1)[0])
            image, label = plan.train_transform(*plan.train[index], seed)
            assert np.array_equal(store.images[view * 5 + index], image)
            assert np.array_equal(store.labels[view * 5 + index], label)
    for index in range(3):
        image, label = plan.eval_transform(*plan.val[index])
        assert np.array_equal(store.val_images[index], image)
        assert np.array_equal(store.val_labels[index], label)


def test_an_epoch_gives_every_image_once_in_its_view_and_the_same_to_all(tmp_path: Path) -> None:
    store = build_views(recipe(), tmp_path)
    for epoch in range(4):
        batches = list(store.epoch(epoch, batch_size=1, seed=7))
        again = list(store.epoch(epoch, batch_size=1, seed=7))
        assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(batches, again, strict=True))
        given = sorted(image.numpy().tobytes() for image, _, _ in batches)
        rows = range((epoch % 3) * 5, (epoch % 3) * 5 + 5)
        assert given == sorted(store.images[row].tobytes() for row in rows)
    orders = [[i.sum().item() for i, _, _ in store.epoch(0, 1, seed)] for seed in range(3)]
    assert len({tuple(order) for order in orders}) > 1


def test_an_incomplete_last_batch_is_left_out_unless_it_is_the_only_one(tmp_path: Path) -> None:
    store = build_views(recipe(), tmp_path)
    assert [len(images) for images, _, _ in store.epoch(0, 2, 0)] == [2, 2]
    assert [len(images) for images, _, _ in store.epoch(0, 64, 0)] == [5]
    assert [len(images) for images, _ in store.val_batches(2)] == [2, 1]


def test_equal_recipes_share_a_build_and_any_change_has_its_own(tmp_path: Path) -> None:
    first = build_views(recipe(), tmp_path)
    stamp = (first.path / "images.npy").stat().st_mtime_ns
    assert build_views(recipe(), tmp_path).path == first.path
    assert (first.path / "images.npy").stat().st_mtime_ns == stamp
    changed = [
        recipe(seed=1),
        recipe(views=4),
        recipe(train_transform=TrainTransform(32, 48, (0.8, 1.3))),
        recipe(eval_transform=EvalTransform(32, 64)),
        recipe(train=open_split("synthetic", "train", train_images=6, **SIZE)),
    ]
    assert len({recipe().key(), *(r.key() for r in changed)}) == len(changed) + 1


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
        expected = net(torch.from_numpy(np.array(store.images)).float() / 255)
    assert np.array_equal(stored.logits, expected.half().numpy())
    assert calls == [4, 4, 4, 3]
    build_logits(store, teacher, "key")
    assert len(calls) == 4
    images, _, logits = next(stored.epoch(1, 2, 0))
    torch.testing.assert_close(logits.float(), net(images.float() / 255), rtol=2e-3, atol=1e-3)


def test_a_build_that_breaks_leaves_nothing_behind(tmp_path: Path) -> None:
    class Broken:
        def __init__(self) -> None:
            self.whole = open_split("synthetic", "train", train_images=5, **SIZE)
            self.class_names, self.palette, self.names = self.whole.class_names, self.whole.palette, self.whole.names
            self.ignore_index, self.identity = 255, self.whole.identity

        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int):
            if index == 3:
                raise DataError("frame 3 is damaged")
            return self.whole[index]

    with pytest.raises(DataError, match="frame 3"):
        build_views(recipe(train=Broken()), tmp_path)
    assert list((tmp_path / "views").iterdir()) == []
    assert len(build_views(recipe(), tmp_path).images) == 15


def test_a_full_disk_is_refused_up_front_with_both_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = views_module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(views_module.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(ResourceError, match=r"need 0 MiB and the disk has 0 MiB free.*data\.views"):
        build_views(recipe(), tmp_path)


def test_a_truncated_array_is_named(tmp_path: Path) -> None:
    store = build_views(recipe(), tmp_path)
    path = store.path / "images.npy"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"images\.npy: is no readable array.*delete"):
        build_views(recipe(), tmp_path)
