"""The table of data kinds: what it promises of the openers, and that a configuration can say every option."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from bpkd_search.blocks import Block
from bpkd_search.config import RunConfig, dump
from bpkd_search.config.load import parse
from bpkd_search.data import KINDS, open_split
from bpkd_search.data.kinds import Kind, VocData, with_option_blocks
from bpkd_search.data.synthetic import SyntheticDataset
from bpkd_search.errors import ConfigError, DataError
from bpkd_search.training.forms import Form
from bpkd_search.training.inputs import view_recipe
from bpkd_search.training.source import open_data

FORM = Form(2, "stored")


def run(data: dict[str, Any], *overrides: str) -> RunConfig:
    return parse(RunConfig, {"data": data}, "test", overrides)


@pytest.fixture
def pascal(tmp_path: Path) -> Path:
    for folder in ("SegmentationClass", "SegmentationClassAug", "SegmentationClassContext"):
        (tmp_path / folder).mkdir()
        for name in "abc":
            Image.fromarray(np.array([[0, 1, 20, 255]], dtype=np.uint8)).save(tmp_path / folder / f"{name}.png")
    (tmp_path / "JPEGImages").mkdir()
    for name in "abc":
        Image.new("RGB", (4, 1)).save(tmp_path / "JPEGImages" / f"{name}.jpg")
    for task, split in [(t, s) for t in ("Segmentation", "SegmentationContext") for s in ("train", "val")]:
        (tmp_path / "ImageSets" / task).mkdir(parents=True, exist_ok=True)
        (tmp_path / "ImageSets" / task / f"{split}.txt").write_text("b\na\n")
    (tmp_path / "ImageSets/Segmentation/trainaug.txt").write_text("a\nb\nc\n")
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_an_opener_takes_the_options_of_its_block_and_keeps_no_defaults_of_them(kind: str) -> None:
    parameters = inspect.signature(KINDS[kind].load_opener()).parameters
    assert list(parameters)[:2] == ["split", "root"]
    fields = KINDS[kind].options.model_fields if KINDS[kind].options else {}
    options = [p for p in list(parameters.values())[2:] if p.kind is p.KEYWORD_ONLY]
    if kind != "synthetic":  # which hands all of them to its block
        assert [p.name for p in options] == list(fields)
    assert all(p.default is p.empty for p in options)
    assert all(field.description for field in fields.values())


def test_options_of_voc_and_pascal_context_in_yaml(pascal: Path) -> None:
    plain = run({"kind": "voc", "root": str(pascal)})
    assert open_data(plain.data, "train").names == ["b", "a"]
    augmented = run(yaml.safe_load(f"{{kind: voc, root: {pascal}, voc: {{augmented: true}}}}"))
    assert open_data(augmented.data, "train").names == ["a", "b", "c"]
    assert run({"kind": "voc", "root": str(pascal)}, "data.voc.augmented=true") == augmented
    assert view_recipe(plain.data, FORM).key() != view_recipe(augmented.data, FORM).key()
    # A block that only says the default changes nothing that is stored.
    same = run({"kind": "voc", "root": str(pascal), "voc": {"augmented": False}})
    assert view_recipe(same.data, FORM).key() == view_recipe(plain.data, FORM).key()
    context = run({"kind": "pascal_context", "root": str(pascal)}, "data.pascal_context.background=true")
    dataset = open_data(context.data, "val")
    assert (dataset.class_names[0], len(dataset.class_names)) == ("background", 60)
    assert dataset[0][1].tolist() == [[0, 1, 20, 255]]


def test_labels_of_cityscapes_in_yaml(shared: Path) -> None:
    root = shared / "data/cityscapes_sample"
    for labels in ("labelIds", "labelTrainIds"):
        config = run({"kind": "cityscapes", "root": str(root), "cityscapes": {"labels": labels}})
        expected = open_split("cityscapes", "val", root=root, labels=labels)
        assert open_data(config.data, "val").identity() == expected.identity()
    with pytest.raises(DataError, match="cityscapes labels: got 'ids', must be labelIds or labelTrainIds"):
        open_split("cityscapes", "val", root=root, labels="ids")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"voc": {"augmented": "maybe"}}, "data.voc.augmented: got 'maybe', must be true or false"),
        ({"voc": {"augmneted": True}}, "data.voc.augmneted: unknown key; did you mean augmented? valid: augmented"),
        ({"cityscapes": {"labels": "ids"}}, "data.cityscapes.labels: got 'ids', must be 'labelIds' or 'labelTrainIds'"),
        ({"folder": {"imges": "x", "class_names": ["a"]}}, "data.folder.imges: unknown key; did you mean images?"),
        ({"folder": {"images": "x"}}, "data.folder.class_names: is required"),
        ({"synthetic": {"seed": -1}}, "data.synthetic.seed: got -1, must be greater than or equal to 0"),
        ({"camvid": {}}, "data.camvid: unknown key; valid: kind, root, crop"),
        ({"kind": "kitti"}, "data.kind: got 'kitti', must be 'ade20k', 'camvid', 'cityscapes', 'coco_stuff'"),
        (
            {"folder": {"class_names": ["a", "b"], "encoding": "colours"}},
            "data.folder: got {'class_names': ['a', 'b'], 'encoding': 'colours'}, palette: is required",
        ),
    ],
)
def test_wrong_options_are_named_with_their_path(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(data)
    assert any(fault.startswith(message) for fault in caught.value.faults), caught.value.faults


def test_blocks_that_are_not_given_are_not_written() -> None:
    assert list(yaml.safe_load(dump(run({})))["data"])[-2:] == ["test_split", "synthetic"]
    config = run({"kind": "voc", "root": "x", "voc": {"augmented": True}})
    tree = yaml.safe_load(dump(config))
    assert tree["data"]["voc"] == {"augmented": True} and "folder" not in tree["data"]
    assert parse(RunConfig, tree, "test") == config
    # As earlier versions wrote it.
    assert parse(RunConfig, {"data": {**tree["data"], "folder": None}}, "test") == config


class Noise(Block):
    """Options of a kind that only these tests know."""

    count: int = 3


def open_noise(split: str, root: Path | None, *, count: int) -> SyntheticDataset:
    """As many scenes as asked for."""
    return SyntheticDataset(split, count=count, height=32, width=32, seed=0)


def test_a_new_kind_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Kind(f"{__name__}:open_noise", splits=("val",), needs_root=False, options=Noise, required=("count",))
    monkeypatch.setitem(KINDS, "noise", entry)
    assert len(open_split("noise", "val", count=5)) == 5
    with pytest.raises(DataError, match="options unknown size; missing count; it takes: count"):
        open_split("noise", "val", size=2)
    with pytest.raises(DataError, match="got split 'train', must be one of val"):
        open_split("noise", "train", count=1)

    @with_option_blocks
    class Data(Block):
        """The decorated block."""

        kind: str = "noise"

    assert Data(noise={"count": 4}).model_dump()["noise"] == {"count": 4}
    assert Data(voc={"augmented": True}).voc == VocData(augmented=True)
    assert Data().noise is None
