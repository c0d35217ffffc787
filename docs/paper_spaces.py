"""The settings of the BPKD paper (arXiv 2306.08075) as search spaces: a table, from which each file is written whole.

`python docs/generate.py` writes `search_spaces/paper/`. Networks are those of `bpkd_search.models.paper`. The other
values are those of the authors' published evaluation configurations (github.com/AkideLiu/BPKD, eval/configs) and of
mmsegmentation's, which these extend; its README names the teachers' files. A table keeps each of them once, and a
reader of a search space still finds everything in one flat file.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from bpkd_search.config.networks import Model
from bpkd_search.models.paper import NETWORKS

TEXT = """# {summary}
#
#   {variable}=path/to/{kind} bpkd-search run paper/{name} \\
#     --set teacher.checkpoint={teacher_file} \\
#     --set student.weights={student_file}
#
{about}
name: {name}

data:
  kind: {kind}{resize}
  crop: [{height}, {width}]
  scale: [0.5, 2.0]
  cat_max_ratio: 0.75
  colour: 0.35
  hue: 0.07{evaluation}{sample}{logits}

teacher:
  {teacher}
  mode: {mode}
  train: {{iterations: {iterations}, {optimizer}}}

student:
  {student}

train: {{iterations: {iterations}, validate_every: {every}, {optimizer}}}

loss: {{method: bpkd}}

search:
  metric: miou
  trials: {trials}
  sampler: {{name: tpe, startup: 6}}
  scheduler: {{name: asha, grace: 2, reduction: 3}}

space:
  loss.edge_width: {{int: [3, {widest}], step: 2}}
  loss.edge_weight: {{float: [0.05, 500], log: true}}
  loss.body_weight: {{float: [0.02, 200], log: true}}
  loss.edge_temperature: {{float: [0.5, 8], log: true}}
  loss.body_temperature: {{float: [0.5, 8], log: true}}
"""

FULL = (
    "A batch is the paper's; four GPUs hold it there and one here. Colours change in every crop instead of half of"
    " them, with the same variance. Without a checkpoint, the teacher is trained by the same schedule."
)
NIGHT = (
    "For one GPU and one night: a quarter of the paper's iterations, crops of a quarter of its pixels, fewer trials."
    " Images, batch, learning rate and teacher stay the paper's, so edges are as wide in pixels. Reports during"
    " training are on {sample} validation images, the last one is on all."
)
MAPS = "The teacher's logits are stored on whole images, in int8 to halve their size."
ONLINE = "The teacher runs at every step, as its logits on whole images would take more than 50 GiB."
SAMPLE = 200


@dataclass(frozen=True)
class DataSet:
    """What the paper's settings on a data set share."""

    kind: str
    title: str
    crop: tuple[int, int]
    batch_size: int
    resize: str = ""
    lr: float = 0.01
    weight_decay: float = 5e-4


@dataclass(frozen=True)
class Pair:
    """A teacher and its student, the stride of their logits in pixels, and the files that start them."""

    title: str
    teacher: str
    student: str
    stride: int
    weights: str
    # By data set.
    checkpoints: dict[str, str]
    slides: tuple[str, ...] = ()


DATA = (
    DataSet("cityscapes", "Cityscapes", (512, 1024), 8),
    DataSet("ade20k", "ADE20K", (512, 512), 16, resize="{short: 512, long: 2048}"),
    DataSet("pascal_context", "PASCAL Context", (480, 480), 16, resize="{long: 520}", lr=0.004, weight_decay=1e-4),
)
PAIRS = {
    "pspnet": Pair(
        "PSPNet-R18 from PSPNet-R101",
        "pspnet_r101",
        "pspnet_r18",
        8,
        "resnet18_v1c-b5776b93.pth",
        {
            "cityscapes": "pspnet_r101-d8_512x1024_80k_cityscapes_20200606_112211-e1e1100f.pth",
            "ade20k": "pspnet_r101-d8_512x512_160k_ade20k_20200615_100650-967c316f.pth",
            "pascal_context": "pspnet_r101-d8_480x480_80k_pascal_context_59_20210416_114418-fa6caaa2.pth",
        },
        slides=("pascal_context",),
    ),
    "hrnet": Pair(
        "HRNetV2-W18-Small from HRNetV2-W48",
        "hrnetv2_w48",
        "hrnetv2_w18s",
        4,
        "hrnetv2_w18_small-b5a04e21.pth",
        {
            "cityscapes": "fcn_hr48_512x1024_160k_cityscapes_20200602_190946-59b7973e.pth",
            "ade20k": "fcn_hr48_512x512_160k_ade20k_20200614_214407-a52fc02c.pth",
            "pascal_context": "fcn_hr48_480x480_80k_pascal_context_59_20210411_003240-3ae7081e.pth",
        },
        slides=("pascal_context",),
    ),
    "deeplabv3plus": Pair(
        "DeepLabV3+-MobileNetV2 from DeepLabV3+-R101",
        "deeplabv3plus_r101",
        "deeplabv3plus_mv2",
        4,
        "mobilenetv2_100.safetensors",
        {
            "cityscapes": "deeplabv3plus_r101-d8_512x1024_80k_cityscapes_20200606_114143-068fcfe9.pth",
            "ade20k": "deeplabv3plus_r101-d8_512x512_160k_ade20k_20200615_123232-38ed86bb.pth",
            "pascal_context": "deeplabv3plus_r101-d8_480x480_80k_pascal_context_59_20210416_111127-7ca0331d.pth",
        },
    ),
    "isanet": Pair(
        "ISANet-R18 from ISANet-R101",
        "isanet_r101",
        "isanet_r18",
        8,
        "resnet18_v1c-b5776b93.pth",
        {
            "cityscapes": "isanet_r101-d8_769x769_80k_cityscapes_20210903_111319-24f71dfa.pth",
            "ade20k": "isanet_r101-d8_512x512_160k_ade20k_20210903_211431-a7879dcd.pth",
            "pascal_context": "raw_80k_isanet_r18_pascal_context_59_teacher.pth",
        },
    ),
}


def widest_edge(stride: int) -> int:
    """Return the widest edge that is searched, in pixels: the odd number below four cells of the logits."""
    return 4 * stride - 1


def text(data: DataSet, pair_name: str, *, night: bool) -> str:
    """Return the file of a setting, or with `night` of its form for one GPU and one night."""
    pair = PAIRS[pair_name]
    name = f"{data.kind.replace('_', '-')}-{pair_name}{'-night' if night else ''}"
    height, width = (side // 2 for side in data.crop) if night else data.crop
    iterations = 20_000 if night else 80_000
    # Logits on whole images at seven scales, plain and flipped, at stride 4 or of 150 classes fill a large disk.
    maps = night and pair.stride == 8 and data.kind != "ade20k"
    about = f"{NIGHT.format(sample=SAMPLE)} {MAPS if maps else ONLINE}" if night else FULL
    about += f" What it costs: `bpkd-search validate paper/{name} --cost`."
    how = "in a night" if night else "as in the paper"
    return TEXT.format(
        summary=f"{pair.title} on {data.title} {how}: {iterations:,} iterations, crops of {height}x{width}.",
        variable=f"BPKD_{data.kind.upper()}",
        kind=data.kind,
        name=name,
        teacher_file=pair.checkpoints[data.kind],
        student_file=pair.weights,
        about=textwrap.fill(about, 118, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False),
        resize=f"\n  resize: {data.resize}" if data.resize else "",
        height=height,
        width=width,
        evaluation="\n  eval: {mode: slide}" if data.kind in pair.slides else "",
        sample=f"\n  val_images: {SAMPLE}" if night else "",
        logits="\n  logits: int8" if maps else "",
        teacher=block(NETWORKS[pair.teacher]),
        mode="maps" if maps else "online",
        student=block(NETWORKS[pair.student]),
        optimizer=f"batch_size: {data.batch_size}, lr: {data.lr}, min_lr: 1.0e-4, weight_decay: {data.weight_decay}",
        iterations=iterations,
        every=iterations // 10,
        trials=16 if night else 20,
        widest=widest_edge(pair.stride),
    )


def block(network: Model) -> str:
    """Return the keys of a network that are not the default, a line each."""
    default = Model(encoder=network.encoder)
    keys = ("encoder", "head", "channels", "output_stride", "auxiliary_weight")
    chosen = [key for key in keys if key == "encoder" or getattr(network, key) != getattr(default, key)]
    return "\n  ".join(f"{key}: {getattr(network, key)}" for key in chosen)


def spaces() -> dict[str, str]:
    """Return every file below `search_spaces/` that is written here, by its path in that folder."""
    return {
        f"paper/{data.kind.replace('_', '-')}-{pair}{'-night' if night else ''}.yaml": text(data, pair, night=night)
        for data in DATA
        for pair in PAIRS
        for night in (False, True)
    }
