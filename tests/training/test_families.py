"""Every family of students learns: one epoch on real images from scratch is better than none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bpkd_search.config.data import Data
from bpkd_search.config.networks import Model
from bpkd_search.config.optimisation import Optimisation
from bpkd_search.losses.methods import Ce
from bpkd_search.models.paper import NETWORKS
from bpkd_search.training.distill import Distillation
from bpkd_search.training.evaluation import evaluate_run
from bpkd_search.training.forms import Form
from bpkd_search.training.inputs import prepare_views

TRANSFORMERS = {
    name: Model(encoder=encoder, head="segformer", channels=64)
    for name, encoder in (("swin", "swin_tiny_patch4_window7_224"), ("vit", "vit_tiny_patch16_224"))
}
LARGE = ("pspnet_r18", "deeplabv3plus_mv2", "isanet_r18", "swin", "vit")


@pytest.fixture
def data(shared: Path, tmp_path: Path) -> Data:
    """CamVid with every fifth image, at a size that no transformer was made for."""
    for split in ("train", "val"):
        for folder in (split, f"{split}annot"):
            (tmp_path / "camvid" / folder).mkdir(parents=True)
            for path in sorted((shared / "data" / "camvid" / folder).iterdir())[::5]:
                (tmp_path / "camvid" / folder / path.name).symlink_to(path)
    return Data(
        kind="camvid", root=tmp_path / "camvid", crop=(60, 88), resize=(60, 88), views=1, views_dir=tmp_path / "views"
    )


@pytest.mark.parametrize("name", ["hrnetv2_w18s", *(pytest.param(name, marks=pytest.mark.long) for name in LARGE)])
def test_one_epoch_is_better_than_none(name: str, data: Data) -> None:
    spec = {**NETWORKS, **TRANSFORMERS}[name]
    store = prepare_views(data, Form(1, "stored"), lambda line: None)
    settings = Optimisation(epochs=1, batch_size=4, lr=0.001, optimizer="adamw", device="cpu")
    run = Distillation(spec, Ce(), settings, store, device=torch.device("cpu"))
    before = evaluate_run(run, data).as_dict()["miou"]
    run.train_epoch()
    after = evaluate_run(run, data).as_dict()["miou"]
    print(f"{name}: mIoU {before:.3f} -> {after:.3f}")
    assert after > 2 * before and after > 0.08
