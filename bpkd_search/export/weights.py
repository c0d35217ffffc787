"""Students for other software: weights under timm's names, ONNX and torch.export, verified after export."""

from __future__ import annotations

import importlib
import json
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from torch.export import Dim, ExportedProgram

from bpkd_search.errors import ExperimentError, UserError
from bpkd_search.export.settings import Setting, Writer
from bpkd_search.imports import require
from bpkd_search.models import Network
from bpkd_search.models.encoders import create_classifier
from bpkd_search.predict import comparable, load_student

# Largest difference between the logits of an export and of the model, relative to the largest logit.
TOLERANCE = 1e-4
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

Run = Callable[[Tensor], Tensor]


def require_packages(formats: Sequence[str]) -> None:
    """Check that the packages of `onnx` are installed. Raises `MissingPackageError`."""
    if "onnx" in formats:
        for name in ONNX_PACKAGES:
            require(name, "export", "--format onnx")


def require_student(setting: Setting) -> None:
    """Check that a setting's student was kept. Raises `ExperimentError` that explains how to get one."""
    if not setting.student.is_file():
        raise ExperimentError(
            f"{setting.student}: was not kept (a search keeps those of its baselines and of few other trials);"
            f" export the setting as yaml, `bpkd-search train {setting.name}.yaml --out RUN`, and export RUN"
        )


def write_safetensors(setting: Setting, path: Path) -> None:
    """Write the student's weights: keys `encoder.*` with timm's names of the whole network, `head.*`, `classifier.*`.

    The header holds everything needed to rebuild it (`load_student`). Raises `CheckpointError`.
    """
    model, _ = load_student(setting.student)
    encoder = setting.config["student"].get("encoder")
    theirs = timm_names(encoder) if encoder else {}
    weights = {theirs.get(comparable(k), k): v.contiguous() for k, v in model.state_dict().items()}
    # Not `save_file`: its files are readable by their owner only.
    path.write_bytes(save(weights, metadata={"bpkd_search": json.dumps(describe(setting))}))


def timm_names(encoder: str) -> dict[str, str]:
    """Return timm's names of the whole network, by their normalised names in the feature pyramid."""
    names = (f"encoder.{name}" for name in create_classifier(encoder).state_dict())
    return {comparable(name): name for name in names}


def describe(setting: Setting) -> dict[str, Any]:
    """Return the description stored with the weights: config, classes, colours, size, scores, provenance."""
    _, about = load_student(setting.student)
    return {
        "config": {key: value for key, value in setting.config.items() if key != "provenance"},
        "class_names": about["class_names"],
        "palette": about["palette"],
        "size": about["size"],
        "miou": setting.metrics.get("miou"),
        "metrics": setting.metrics,
        "provenance": setting.config.get("provenance"),
    }


def write_torch(setting: Setting, path: Path) -> None:
    """Write the student as a `torch.export` program, input float [B, 3, H, W] in 0..255, verified after loading.

    The extra file `bpkd_search.json` describes it. Raises `UserError` if its logits differ from the model's.
    """

    def write(program: ExportedProgram, what: dict[str, Any]) -> Run:
        torch.export.save(program, path, extra_files={"bpkd_search.json": json.dumps(what)})
        module = torch.export.load(path).module()
        return lambda images: module(images)

    _checked(setting, write)


def write_onnx(setting: Setting, path: Path) -> None:
    """Write the student as ONNX, input float32 `images` [B, 3, H, W] in 0..255, output `logits` [B, C, h, w].

    ONNX Runtime verifies it on the CPU. The metadata property `bpkd_search` describes it. Raises
    `UserError` if its logits differ from the model's.
    """
    # By name, because type checkers need not have the packages either.
    onnx, onnxruntime = (importlib.import_module(name) for name in ("onnx", "onnxruntime"))

    def write(program: ExportedProgram, what: dict[str, Any]) -> Run:
        torch.onnx.export(
            program,
            (),
            path,
            input_names=["images"],
            output_names=["logits"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        graph = onnx.load(path)
        name_axes(graph.graph)
        onnx.helper.set_model_props(graph, {"bpkd_search": json.dumps(what)})
        onnx.save(graph, path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors here are caught, and another shape is tried
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    _checked(setting, write)


def name_axes(graph: Any) -> None:
    """Name the free axes of an ONNX graph's input batch, height and width; other axes are named after these.

    The exporter uses its own symbols: `s5`, or `32*s5` if only such sizes fit, so that s5 is
    `(height//32)`. Source: `dim_param` in ONNX's `TensorShapeProto`.
    """
    names: dict[str, str] = {}
    for name, dim in zip(("batch", "", "height", "width"), graph.input[0].type.tensor_type.shape.dim, strict=True):
        step, times, symbol = dim.dim_param.rpartition("*")
        if symbol:
            names |= {symbol: f"({name}//{step})" if times else name, dim.dim_param: name}
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if said := dim.dim_param:
                dim.dim_param = names.get(said) or re.sub(r"\w+", lambda word: names.get(word[0], word[0]), said)


def _checked(setting: Setting, write: Callable[[ExportedProgram, dict[str, Any]], Run]) -> None:
    """Export with batch and size as dynamic as the network allows, and compare with the model."""
    model, about = load_student(setting.student)
    height, width = about["size"]
    images = 255 * torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    failures = []
    for size, shapes, others in _freedoms(model, height, width):
        batches = [images, *others]
        try:
            with torch.inference_mode():
                expected = [model(batch) for batch in batches]  # now: the program shares the model's weights
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.export.export(model, (images,), dynamic_shapes=(shapes,))
                run = write(program, {**describe(setting), "batch": "any", "sizes": size})
            with torch.inference_mode():
                worst = max(_difference(run(batch), logits) for batch, logits in zip(batches, expected, strict=True))
        # The exporters raise exceptions of every kind for shapes that they cannot trace.
        except Exception as e:
            failures.append(f"{size}: {type(e).__name__}: {str(e).strip().splitlines()[0] if str(e) else ''}")
            continue
        if worst <= TOLERANCE:
            return
        failures.append(f"{size}: logits differ by {worst:.1e} of the largest, may by {TOLERANCE:.0e}")
    raise UserError(f"{setting.name}: cannot be exported; tried\n" + "\n".join(f"  {line}" for line in failures))


def _freedoms(model: Network, height: int, width: int) -> list[tuple[str, dict[int, Any], list[Tensor]]]:
    """Return the attempts, most dynamic first: description of sizes, dynamic axes, batches for the check."""
    batch = Dim("batch")

    def sample(count: int, rows: int, columns: int) -> Tensor:
        return 255 * torch.rand(count, 3, rows, columns, generator=torch.Generator().manual_seed(count))

    fixed = (f"{height}x{width}", {0: batch}, [sample(1, height, width)])
    # Padding computed from the size ("same" as in TensorFlow) costs the exporter's solver minutes.
    if any(type(module).__name__.endswith("Same") for module in model.modules()):
        return [fixed]
    free = {0: batch, 2: Dim("height", min=64), 3: Dim("width", min=64)}
    tried = [("any from 64", free, [sample(1, 68, 98), sample(3, 128, 96)])]
    if height % 32 == width % 32 == 0 and min(height, width) >= 64:
        steps = {0: batch, 2: 32 * Dim("rows", min=2), 3: 32 * Dim("columns", min=2)}
        tried.append(("multiples of 32 from 64", steps, [sample(1, 64, 96), sample(3, 128, 96)]))
    return [*(tried if min(height, width) >= 64 else []), fixed]


def _difference(got: Tensor, expected: Tensor) -> float:
    """Return the largest difference of logits, relative to the model's largest; infinite if one is not finite."""
    if expected.shape != got.shape or not torch.isfinite(got).all():
        return float("inf")
    return float((got - expected).abs().max() / expected.abs().max().clamp(min=1e-6))


# Format -> (suffix, writer).
WRITERS: dict[str, tuple[str, Writer]] = {
    "safetensors": (".safetensors", write_safetensors),
    "onnx": (".onnx", write_onnx),
    "torch": (".pt2", write_torch),
}
