"""Every teacher that the page shows opens, from files of the software that it is about."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from bpkd_search.config.networks import Teacher
from bpkd_search.config.software import software_of
from bpkd_search.models.teachers.open import open_network
from tests.docs.pages import DOCS, blocks
from tests.models.teachers.foreign_networks import images, save_graphs, save_segformer, save_smp, small

NAMES = ("sky", "building", "road", "pavement", "tree", "pole", "sign", "vehicle")
FUNCTION = "import torch\n\n\ndef finished(classes):\n    return torch.nn.Conv2d(3, classes, 3, stride=4, padding=1)\n"
SHOWN = [yaml.safe_load(block) for block in blocks(DOCS / "teachers.md", "yaml")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teachers")
    (path / "my_networks.py").write_text(FUNCTION)
    models = path / "models"
    (models / "logits" / "train").mkdir(parents=True)
    np.save(models / "logits" / "train" / "a.npy", np.zeros((8, 4, 4), "f4"))
    save_graphs(models, small(8))
    for file in models.glob("net.*"):
        file.rename(models / f"network{file.suffix}")
    return path


@pytest.mark.parametrize("given", SHOWN, ids=lambda given: given["teacher"].get("checkpoint", "factory"))
def test_an_example_opens(given: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    teacher = Teacher.model_validate(given["teacher"])
    path = Path(teacher.checkpoint or "none")
    if path.name == "segformer":
        pytest.importorskip("transformers")
        save_segformer(path, NAMES)
    elif path.stem == "unet":
        pytest.importorskip("segmentation_models_pytorch")
        net = save_smp(Path("models/unet"), 8, decoder_channels=(256, 128, 64, 32, 16))
        torch.save(net.state_dict(), "models/unet.pth")
    elif path.suffix == ".onnx":
        pytest.importorskip("onnxruntime")
    if software_of(teacher) == "logits":
        assert given["data"]["scale"] == [1, 1]
        return
    net = open_network(teacher, path, torch.device("cpu"), NAMES)
    with torch.inference_mode():
        assert net(images(32, 48)).shape[:2] == (2, 8)
