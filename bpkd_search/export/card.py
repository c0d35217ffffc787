"""Model cards: a student's architecture, its scores and their limits, and how to load it."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from bpkd_search.config.data import Data
from bpkd_search.config.networks import Student
from bpkd_search.config.optimisation import Optimisation
from bpkd_search.config.software import teacher_title
from bpkd_search.data.geometry import Sides
from bpkd_search.export.claimed_score import confirmed_words


def model_card(
    name: str,
    config: Mapping[str, Any],
    metrics: Mapping[str, float],
    baselines: Mapping[str, float],
    class_iou: Mapping[str, float],
    estimate: str = "",
) -> str:
    """Return the card as Markdown.

    `baselines` are other full-budget trials of the same search, `estimate` is a sentence on the mean over seeds.
    """
    data, student, teacher, train = (config[key] for key in ("data", "student", "teacher", "train"))
    provenance = config.get("provenance") or {}
    loss = {key: value for key, value in config["loss"].items() if value is not None}
    blocks = [
        f"# {_text(name)}",
        "A semantic segmentation student, distilled with settings that `bpkd-search` found or was given.",
        "## Model",
        _table(
            ("part", "what"),
            {
                **_network(Student.model_validate(student)),
                "teacher": teacher_title(teacher),
                "input": "RGB, 0 to 255, [B, 3, H, W]; the model normalises it itself",
                "output": "class logits at the head's stride",
            },
        ),
        "## Data and training",
        _table(
            ("setting", "value"),
            {
                "data": data["kind"],
                "images": _sizes(Data.model_validate(data)),
                "evaluation": ", ".join(f"{key} {value}" for key, value in data.get("eval", {}).items() if value),
                "length": Optimisation.model_validate(train).length,
                "batch size": train["batch_size"],
                "optimiser": f"{train['optimizer']}, learning rate {train['lr']}",
                "seed": train["seed"],
            },
        ),
        "## Distillation loss",
        _table(("parameter", "value"), loss),
        "## Metrics",
        _table(("measure", "value"), {key: f"{value:.4f}" for key, value in metrics.items()}),
        "Measured on the validation split, by one training with one seed. The setting was chosen"
        " on the same split, so the figures are optimistic, and leads of a point or two may be seed noise."
        " Where validation images come from the same sequences as training images, they are more optimistic still.",
    ]
    if estimate:
        blocks.append(_text(estimate))
    if words := confirmed_words(provenance, name):
        blocks.append(_text(words))
    if class_iou:
        blocks.append(_table(("class", "IoU"), {key: f"{value:.4f}" for key, value in class_iou.items()}))
    if baselines:
        blocks += [
            "Baselines of the same search, same budget, one seed each:",
            _table(("baseline", "value"), {key: f"{value:.4f}" for key, value in baselines.items()}),
        ]
    blocks += [
        "## How to use",
        "The weights are a `.safetensors` file: that of `bpkd-search export --format safetensors`, or of"
        " `bpkd-search train` with the setting's YAML file.",
        "```sh\nbpkd-search predict student.safetensors images/ --out masks/\n```",
        "```python\nfrom bpkd_search.predict import load_student\n\n"
        'model, about = load_student("student.safetensors")\n'
        'logits = model(images)  # uint8 [B, 3, H, W]; classes are named in about["class_names"]\n```',
    ]
    if provenance:
        shown = {key: value for key, value in provenance.items() if key != "confirmed"}
        blocks += ["## Provenance", _table(("key", "value"), shown)]
    return "\n\n".join(blocks) + "\n"


def _network(student: Student) -> dict[str, str]:
    """Return the rows about the student's network."""
    if student.factory is not None:
        return {"network": f"{student.described}; its module must be importable to load the weights"}
    return {
        "encoder": f"{student.encoder} (timm)",
        "head": f"{student.head}, {student.channels} channels, output stride {student.output_stride}",
    }


def _sizes(data: Data) -> str:
    """Return the size of images at scale 1, and of the crops that were trained on, in words."""
    if isinstance(data.resize, Sides):
        sides = " and ".join(f"{name} side {pixels}" for name, pixels in data.resize if pixels is not None)
        size = f"resized to {sides}"
    else:
        size = "{}x{}".format(*data.resize) if data.resize else "their own resolution"
    return "{}, training crops {}x{} (height x width)".format(size, *data.crop)


def _table(header: tuple[str, str], rows: Mapping[str, Any]) -> str:
    lines = [f"| {header[0]} | {header[1]} |", "|---|---|"]
    return "\n".join([*lines, *(f"| {_text(key)} | {_text(value)} |" for key, value in rows.items())])


def _text(value: Any) -> str:
    """Escape a value so that it cannot close its table cell or open markup."""
    words = html.escape(" ".join(str(value).split()), quote=False)
    for sign in "\\|[]`*":
        words = words.replace(sign, f"\\{sign}")
    return words
