"""Small networks of other software, saved as that software saves them, and what the tests compare them on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def images(height: int = 64, width: int = 96, count: int = 2) -> Tensor:
    """Images uint8 [count, 3, height, width]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def normalised(batch: Tensor, mean: Sequence[float] | Tensor = MEAN, std: Sequence[float] | Tensor = STD) -> Tensor:
    """The images as most networks read them, computed here once more."""
    mean, std = torch.as_tensor(mean), torch.as_tensor(std)
    return (batch.float() / 255 - mean[:, None, None]) / std[:, None, None]


class Small(nn.Module):
    """A network of stride 4 whose classes' logits differ."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, classes, 3, stride=4, padding=1)
        self.norm = nn.BatchNorm2d(classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


def small(classes: int = 5, seed: int = 0) -> nn.Module:
    """A seeded `Small`, with statistics that are not those of a new one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Small(classes)
        net.norm.running_mean.normal_()
        net.norm.running_var.uniform_(0.5, 2)
    return net.eval()


def not_finite() -> nn.Module:
    """A `small` of eight classes with a weight that is NaN."""
    net: Any = small(8)
    net.norm.bias.data[0] = float("nan")
    return net  # type: ignore[no-any-return]


def soft() -> nn.Module:
    """A `small` of eight classes that ends in a softmax."""
    return nn.Sequential(small(8), nn.Softmax(1))


def one_grid() -> nn.Module:
    """A `small` of eight classes whose logits are 8x12 whatever it reads."""
    return nn.Sequential(small(8), nn.AdaptiveAvgPool2d((8, 12)))


def save_segformer(folder: Path, names: Sequence[str], *, seed: int = 0, bgr: bool = False) -> nn.Module:
    """A tiny SegFormer with these classes, saved with its image processor, whose mean and deviation are 0.5."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        num_encoder_blocks=4,
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = SegformerForSemanticSegmentation(config).eval()
    net.save_pretrained(folder)
    processor = {"do_normalize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_flip_channel_order": bgr}
    processor |= {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7], "size": {"height": 512, "width": 512}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return net


def save_mask2former(folder: Path, names: Sequence[str]) -> nn.Module:
    """A tiny Mask2Former with these classes."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    backbone = SwinConfig(
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=16,
        num_queries=6,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    torch.manual_seed(0)
    net = Mask2FormerForUniversalSegmentation(config).eval()
    net.save_pretrained(folder)
    return net


def save_smp(folder: Path, classes: int = 5, **options: Any) -> nn.Module:
    """A U-Net of segmentation_models_pytorch."""
    import segmentation_models_pytorch as smp

    torch.manual_seed(0)
    options = {"decoder_channels": (32, 16, 16, 8, 8), **options}
    net = smp.Unet("resnet18", encoder_weights=None, classes=classes, **options)
    net.eval().save_pretrained(folder)
    return net


def save_graphs(folder: Path, net: nn.Module, height: int = 64, width: int = 96, *, fixed: bool = False) -> None:
    """A network as `net.pt` (TorchScript), `net.pt2` (torch.export) and `net.onnx`; of any size unless `fixed`."""
    example = torch.rand(1 if fixed else 2, 3, height, width)
    auto = torch.export.Dim.AUTO
    dynamic = None if fixed else ({0: auto, 2: auto, 3: auto},)
    torch.export.save(torch.export.export(net, (example,), dynamic_shapes=dynamic), folder / "net.pt2")
    torch.jit.script(net).save(folder / "net.pt")
    axes = None if fixed else {"images": {0: "batch", 2: "height", 3: "width"}}
    torch.onnx.export(net, (example,), folder / "net.onnx", dynamo=False, input_names=["images"], dynamic_axes=axes)
