"""mmsegmentation's own networks with seeded weights, and their recorded logits.

BPKD_SEARCH_MMSEG=build/mmseg python -m tests.models.mmsegmentation    # records them again
"""

from __future__ import annotations

import json
import os
import sys
import types
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FIXTURES = Path(__file__).parents[1] / "fixtures" / "mmsegmentation"
# The paper's networks: a configuration of mmsegmentation and what is changed in it.
CONFIGS: dict[str, tuple[str, dict[str, dict[str, int]]]] = {
    "pspnet_r18": ("pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py", {}),
    "pspnet_r101": ("pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py", {}),
    "hrnetv2_w18s": ("hrnet/fcn_hr18s_4xb2-80k_cityscapes-512x1024.py", {}),
    "hrnetv2_w48": ("hrnet/fcn_hr48_4xb2-80k_cityscapes-512x1024.py", {}),
    "deeplabv3plus_mv2": ("mobilenet_v2/mobilenet-v2-d8_deeplabv3plus_4xb2-80k_cityscapes-512x1024.py", {}),
    "deeplabv3plus_r101": ("deeplabv3plus/deeplabv3plus_r101-d8_4xb2-80k_cityscapes-512x1024.py", {}),
    "isanet_r18": (
        "isanet/isanet_r101-d8_4xb2-80k_cityscapes-512x1024.py",
        {
            "backbone": {"depth": 18},
            "decode_head": {"in_channels": 512, "channels": 128},
            "auxiliary_head": {"in_channels": 256, "channels": 64},
        },
    ),
    "isanet_r101": ("isanet/isanet_r101-d8_4xb2-80k_cityscapes-512x1024.py", {}),
}
MEAN, STD = (torch.tensor(x).view(1, 3, 1, 1) for x in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))


def images() -> Tensor:
    """One image of noise, float [1, 3, 64, 128] in 0..255, red first."""
    return torch.from_numpy(np.random.RandomState(0).randint(0, 256, (1, 3, 64, 128)).astype(np.float32))


def seeded(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """Weights that follow from their names: variances above 0, and maps that neither vanish nor explode."""
    weights = {}
    for name, shape in shapes.items():
        draw = np.random.RandomState(zlib.crc32(name.encode()))
        if not shape:
            weights[name] = torch.tensor(0)
        elif len(shape) > 1:
            weights[name] = torch.from_numpy(draw.standard_normal(shape) * (1 / np.prod(shape[1:])) ** 0.5).float()
        elif name.endswith(("running_var", "weight")):
            weights[name] = torch.from_numpy(draw.uniform(0.5, 1.2, shape)).float()
        else:
            weights[name] = torch.from_numpy(draw.standard_normal(shape) * 0.1).float()
    return weights


def recorded(name: str) -> tuple[dict[str, list[int]], Tensor, Tensor | None]:
    """Names with shapes of all weights, logits, and auxiliary logits of mmsegmentation's network for `images`."""
    with np.load(FIXTURES / f"{name}.npz") as file:
        logits, auxiliary = (torch.from_numpy(file[key]) for key in ("logits", "auxiliary"))
        return json.loads(bytes(file["shapes"])), logits, auxiliary if auxiliary.numel() else None


def original(name: str) -> Any:
    """mmsegmentation's network with seeded weights, in evaluation mode; needs BPKD_SEARCH_MMSEG."""
    config = package().Config.fromfile(_configs() / CONFIGS[name][0]).model
    for part, changes in CONFIGS[name][1].items():
        config[part].update(changes)
    for part in ("data_preprocessor", "pretrained"):
        config.pop(part)
    _one_process(config)
    model = package().MODELS.build(config)
    model.load_state_dict(seeded({key: list(x.shape) for key, x in model.state_dict().items()}))
    return model.eval()


def outputs_of(model: Any) -> tuple[Tensor, Tensor | None]:
    """Logits and auxiliary logits of mmsegmentation's network for `images`."""
    with torch.inference_mode():
        features = model.backbone((images() - MEAN) / STD)
        auxiliary = model.auxiliary_head(features) if model.with_auxiliary_head else None
        return model.decode_head(features), auxiliary


@cache
def package() -> Any:
    """What is used of mmsegmentation and mmengine."""
    # Behind all other paths: the folder has its own copies of common packages.
    sys.path.append(os.environ["BPKD_SEARCH_MMSEG"])
    operators = types.ModuleType("mmcv._ext")
    operators.__getattr__ = lambda name: None  # type: ignore[method-assign]
    sys.modules["mmcv._ext"] = operators
    import mmseg.models  # noqa: F401
    from mmengine import Config
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    init_default_scope("mmseg")
    return types.SimpleNamespace(Config=Config, MODELS=MODELS)


def _configs() -> Path:
    import mmseg

    return Path(mmseg.__file__).parent / ".mim" / "configs"


def _one_process(config: Any) -> None:
    for key, value in config.items():
        if key == "type" and value == "SyncBN":
            config[key] = "BN"
        elif isinstance(value, dict):
            _one_process(value)


if __name__ == "__main__":
    FIXTURES.mkdir(exist_ok=True)
    for network in CONFIGS:
        ours = original(network)
        logits, auxiliary = outputs_of(ours)
        shapes = json.dumps({key: list(x.shape) for key, x in ours.state_dict().items()})
        np.savez_compressed(
            FIXTURES / f"{network}.npz",
            shapes=np.frombuffer(shapes.encode(), np.uint8),
            logits=logits.numpy(),
            auxiliary=np.zeros(0, np.float32) if auxiliary is None else auxiliary.numpy(),
        )
        print(network, float(logits.abs().max()), float(logits.std()))
