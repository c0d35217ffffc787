"""Chunks that another machine has made are fetched from an object store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bpkd_search.config.data import Data
from bpkd_search.data.views.chunks import Table
from bpkd_search.training.forms import Form
from bpkd_search.training.inputs import prepare_views, view_recipe
from tests.store_server import StoreServer, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    with running(tmp_path_factory.mktemp("server")) as server:
        yield server


def data(url: str | None, folder: Path) -> Data:
    synthetic = {"train_images": 20, "val_images": 5, "height": 40, "width": 56}
    settings = {"crop": [32, 48], "views_dir": folder, "views_store": url, "synthetic": synthetic}
    return Data.model_validate(settings)


@pytest.mark.parametrize("form", [Form(2, "stored"), Form(0, "maps")])
def test_a_second_machine_makes_nothing_and_has_the_same(
    server: StoreServer, form: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.url()
    plain = prepare_views(data(None, tmp_path / "plain"), form, lambda line: None).path
    first = prepare_views(data(url, tmp_path / "first"), form, lambda line: None).path
    chunks = {name for name in server.objects(url) if name.endswith(".npz")}
    assert len(chunks) == sum(len(Table.read(part).done) for part in first.iterdir() if part.is_dir())

    def refuse(*span: int) -> None:
        raise AssertionError(span)

    # A damaged chunk is made again, and is whole there from then on.
    damaged = min(chunks)
    (server.folder / url.removeprefix("s3://") / damaged).write_bytes(b"damaged")
    second = prepare_views(data(url, tmp_path / "second"), form, lambda line: None).path
    monkeypatch.setattr(type(view_recipe(data(url, tmp_path), form)), "val_rows", refuse)
    monkeypatch.setattr(type(view_recipe(data(url, tmp_path), form)), "train_rows", refuse)
    monkeypatch.setattr(type(view_recipe(data(url, tmp_path), form)), "whole_rows", refuse)
    third = prepare_views(data(url, tmp_path / "third"), form, lambda line: None).path
    for other in (first, second, third):
        for array in plain.rglob("*.npy"):
            np.testing.assert_array_equal(np.load(array), np.load(other / array.relative_to(plain)))


def test_a_store_that_is_away_is_done_without(server: StoreServer, tmp_path: Path) -> None:
    form, url = Form(2, "stored"), "s3://nowhere/views"
    plain = prepare_views(data(None, tmp_path / "plain"), form, lambda line: None).path
    other = prepare_views(data(url, tmp_path / "other"), form, lambda line: None).path
    assert (plain / "train/images.npy").read_bytes() == (other / "train/images.npy").read_bytes()
