"""Segmentation networks of Hugging Face transformers: a folder of `save_pretrained`, or one from the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bpkd_search.config.networks import Input, Teacher
from bpkd_search.config.software import HUB, read_json
from bpkd_search.errors import CheckpointError
from bpkd_search.imports import require
from bpkd_search.models.teachers import smp
from bpkd_search.models.teachers.opened import Opened, sentence

WEIGHTS = ("*.json", "*.safetensors")
# Ends of the names of networks that segment; those of the second group give queries, a class and a mask each.
PER_PIXEL, QUERIES = ("ForSemanticSegmentation",), ("ForUniversalSegmentation", "ForInstanceSegmentation")
# Below this, the score of a class in a pixel is none.
LEAST = 1e-6


def folder_of(checkpoint: Path) -> Path:
    """Return the folder of a `hf:OWNER/NAME`, or `hf:OWNER/NAME@REVISION`: cached, or downloaded.

    Only weights without code are downloaded. Raises `CheckpointError` if it cannot be had.
    """
    place, _, revision = str(checkpoint).removeprefix(HUB).partition("@")
    hub = require("huggingface_hub", "huggingface", "teacher.checkpoint")
    fault: Exception | None = None
    for offline in (True, False):
        try:
            folder = Path(
                hub.snapshot_download(
                    place, revision=revision or None, allow_patterns=list(WEIGHTS), local_files_only=offline
                )
            )
        except Exception as e:  # of several libraries
            fault = e
            continue
        if any(folder.glob("*.safetensors")):
            return folder
        fault = CheckpointError("it has no .safetensors files")
    assert fault is not None
    raise CheckpointError(
        f"teacher.checkpoint: {HUB}{place}: is not in the local cache and cannot be downloaded ({sentence(fault)});"
        " download it where there is a network, and give its folder"
    )


def open_folder(teacher: Teacher, path: Path, device: torch.device) -> Opened:
    """Open a folder with `config.json` and `model.safetensors`.

    Raises `CheckpointError` if it is no network that segments, or its weights are not complete.
    """
    config = read_json(path / "config.json")
    if "_model_class" in config:
        return smp.open_smp(teacher, path, device)
    transformers = require("transformers", "huggingface", "teacher.checkpoint")
    name = str((config.get("architectures") or ["nothing"])[0])
    if name.startswith("OneFormer"):
        raise CheckpointError(f"{path}: is a {name}, which needs a task in words with each image: not supported")
    if not name.endswith((*PER_PIXEL, *QUERIES)) or not hasattr(transformers, name):
        known = "" if hasattr(transformers, name) else f" that transformers {transformers.__version__} does not have"
        raise CheckpointError(
            f"{path}: config.json names {name}{known} as its architecture, must be a network for semantic or universal"
            " segmentation, such as SegformerForSemanticSegmentation"
        )
    kind, its = config.get("model_type"), getattr(transformers, name).config_class.model_type
    if kind not in (None, its):
        raise CheckpointError(f"{path}: config.json has model_type {kind!r}, must be {its!r}, that of {name}")
    if not any(path.glob("*.safetensors")):
        raise CheckpointError(
            f"{path}: holds no .safetensors; if you trust its .bin, which could run code, load it with transformers and"
            " save it again with save_pretrained"
        )
    with _quiet(transformers):
        try:
            # Shapes that differ are named below, which its own error does not.
            net, loaded = getattr(transformers, name).from_pretrained(
                path,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        except Exception as e:  # of several libraries
            raise CheckpointError(f"{path}: transformers cannot load it: {sentence(e)}") from e
    if faults := sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in loaded.get(kind, ())):
        raise CheckpointError(
            f"{path}: {len(faults)} weights of {name} are missing or have other shapes: {', '.join(faults[:5])}"
            f"{', ...' if len(faults) > 5 else ''}"
        )
    labels = net.config.id2label
    return Opened(
        PixelScores(net).float().eval().to(device),
        teacher.input or read_input(path),
        teacher.classes or tuple(str(labels[number]) for number in sorted(labels)),
    )


class PixelScores(nn.Module):
    """A network of transformers that returns scores per pixel, whatever its output is.

    Of networks with queries, the score of a class in a pixel is the sum over queries of its probability times that of
    their mask (Cheng et al., arXiv 2107.06278, section 3.4); its logarithm is returned, so that a softmax gives
    the shares of these scores.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Return scores [B, C, h, w]."""
        output: Any = self.net(pixel_values=images)
        classes = getattr(output, "class_queries_logits", None)
        if classes is None:
            logits: Tensor = output.logits
            return logits
        # The last class of a query is that it is none.
        shares, masks = classes.float().softmax(-1)[..., :-1], output.masks_queries_logits.float().sigmoid()
        return torch.einsum("bqc,bqhw->bchw", shares, masks).clamp_min(LEAST).log()


def read_input(path: Path) -> Input:
    """Return what a network reads, as its folder says; ImageNet's mean and deviation if it says nothing.

    Raises `CheckpointError` for numbers that cannot be a mean or a deviation.
    """
    found = read_json(path / "preprocessor_config.json")
    found = found or read_json(path / "processor_config.json").get("image_processor", {})
    # Pixels after rescaling are in 0..1, and in 0..255 without it.
    largest = 255 * float(found.get("rescale_factor", 1 / 255)) if found.get("do_rescale", True) else 255.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if found.get("do_normalize", not found or "image_mean" in found):
        given = Input()
        usual = {"image_mean": given.in_bytes()[0], "image_std": given.in_bytes()[1]}
        mean, std = (_three(found.get(key) or [x / 255 for x in values], key, path) for key, values in usual.items())
    return Input(
        mean=tuple(value / largest for value in mean),
        std=tuple(value / largest for value in std),
        channels="bgr" if found.get("do_flip_channel_order") else "rgb",
    )


def _three(value: Any, key: str, path: Path) -> tuple[float, float, float]:
    """Return the values of three channels; one number is that of each."""
    values = value if isinstance(value, list) else [value] * 3
    least = 0 if key == "image_std" else float("-inf")
    if len(values) != 3 or not all(isinstance(x, int | float) and x > least for x in values):
        raise CheckpointError(
            f"{path}: its preprocessor has {key} {value!r}, must be three numbers, deviations above 0"
        )
    red, green, blue = map(float, values)
    return red, green, blue


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep bars and warnings of loading, which is checked here, off the screen."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
