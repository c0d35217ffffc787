"""Every search space that is installed with the package is valid, and its header gives the line that launches it."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import pytest

from bpkd_search.config import SearchConfig, load_search
from bpkd_search.config.networks import Model
from bpkd_search.config.points import PAPER, baseline_run, coordinates, to_tree
from bpkd_search.config.search_spaces import installed_spaces, summary
from bpkd_search.data.views import MapPlan
from bpkd_search.models.build import logits_shape
from bpkd_search.models.paper import NETWORKS
from bpkd_search.training.check import check_networks
from bpkd_search.training.forms import Form
from tests.drawn import OFFICIAL

ROOT = Path(__file__).parent.parent / "search_spaces"
DATA = ("cityscapes", "ade20k", "pascal-context")
# Teacher and student of each pair, and the stride of their logits.
PAIRS = {
    "pspnet": ("pspnet_r101", "pspnet_r18", 8),
    "hrnet": ("hrnetv2_w48", "hrnetv2_w18s", 4),
    "deeplabv3plus": ("deeplabv3plus_r101", "deeplabv3plus_mv2", 4),
    "isanet": ("isanet_r101", "isanet_r18", 8),
}
SETTINGS = [(data, pair) for data in DATA for pair in PAIRS]


def test_every_file_of_the_folder_is_found_by_its_name() -> None:
    files = {str(path.relative_to(ROOT)).removesuffix(".yaml"): path for path in ROOT.rglob("*.y*ml")}
    assert installed_spaces() == files


@pytest.mark.parametrize("name", installed_spaces())
def test_it_is_valid_and_its_header_launches_it(name: str) -> None:
    path = installed_spaces()[name]
    header = path.read_text().split("\nname:")[0].splitlines()
    assert load_search(name).name == path.stem
    assert any(line.split("bpkd-search run ")[-1].split() == [name] or f"run {name} " in line for line in header)
    assert all(line.startswith("#") for line in header)
    assert header[0] == f"# {summary(path)}" and header[0][-1] in ".;:," and header[1] == "#"


def test_quickstart_has_16_trials_beside_the_baselines() -> None:
    assert load_search("quickstart").search.trials >= 16


def network(model: Model) -> Model:
    return Model.model_validate({key: getattr(model, key) for key in Model.model_fields})


def leaves(tree: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {path: tree}
    return {
        key: value for name, part in tree.items() for key, value in leaves(part, f"{path}.{name}".strip(".")).items()
    }


def map_bytes(config: SearchConfig, stride: int) -> float:
    """The teacher's logits on all whole images of the data set, in int8."""
    official = OFFICIAL[config.data.kind]
    plan = MapPlan(Form(0, "maps", stride).transform(config.data), "int8", official.classes)
    return plan.layout(official.sizes).bytes * official.train / len(official.sizes)


def test_the_paper_has_twelve_settings_and_each_a_night() -> None:
    names = {f"paper/{data}-{pair}{night}" for data, pair in SETTINGS for night in ("", "-night")}
    assert {name for name in installed_spaces() if name.startswith("paper/")} == names


@pytest.mark.parametrize(("data", "pair"), SETTINGS)
def test_a_setting_of_the_paper_is_what_was_published(data: str, pair: str) -> None:
    config = load_search(f"paper/{data}-{pair}")
    teacher, student, _ = PAIRS[pair]
    assert network(config.teacher) == NETWORKS[teacher] and network(config.student) == NETWORKS[student]
    train = config.train
    assert (train.iterations, train.optimizer, train.momentum, train.power) == (80_000, "sgd", 0.9, 0.9)
    published = {
        "cityscapes": ((512, 1024), 8, 0.01, 5e-4),
        "ade20k": ((512, 512), 16, 0.01, 5e-4),
        "pascal-context": ((480, 480), 16, 0.004, 1e-4),
    }
    assert (config.data.crop, train.batch_size, train.lr, train.weight_decay) == published[data]
    assert (train.min_lr, config.data.scale, config.data.cat_max_ratio) == (1e-4, (0.5, 2.0), 0.75)
    # Windows of 480x480, 320 apart.
    slides = data == "pascal-context" and pair in ("pspnet", "hrnet")
    assert config.data.eval.mode == ("slide" if slides else "whole")
    assert not slides or config.data.evaluation.windows() == ((480, 480), (320, 320))
    assert config.teacher.train.identity() == train.model_copy(update={"validate_every": None}).identity()


@pytest.mark.parametrize(("data", "pair"), SETTINGS)
def test_a_night_changes_length_crop_and_trials_and_nothing_else(data: str, pair: str) -> None:
    full, night = (load_search(f"paper/{data}-{pair}{end}") for end in ("", "-night"))
    trees = [leaves(to_tree(config)) for config in (full, night)]
    changed = {path for path in trees[0].keys() | trees[1].keys() if trees[0].get(path) != trees[1].get(path)}
    always = {"name", "data.crop", "data.val_images", "search.trials"}
    always |= {"train.iterations", "train.validate_every", "teacher.train.iterations"}
    # With stored logits there is no baseline of features.
    stored = {"teacher.mode", "data.logits", "search.feature_baseline"} if night.teacher.mode == "maps" else set()
    assert changed == always | stored
    assert 4 * prod(night.data.crop) == prod(full.data.crop)
    assert full.train.rounds() == night.train.rounds() == 10
    # Maps are stored where they fit what a search may fill by default.
    fit = map_bytes(night, PAIRS[pair][2]) <= night.data.disk * 2**30
    assert night.teacher.mode == ("maps" if fit else "online") and full.teacher.mode == "online"


@pytest.mark.parametrize(("data", "pair"), SETTINGS)
def test_edges_are_searched_up_to_four_cells_of_logits_and_the_papers_setting_is_in_the_space(
    data: str, pair: str
) -> None:
    for config in (load_search(f"paper/{data}-{pair}{end}") for end in ("", "-night")):
        width = config.space["loss.edge_width"]
        assert width.bounds == (3, 4 * PAIRS[pair][2] - 1) and width.step == 2
        run = config.run()
        assert coordinates(config.space, run, baseline_run(run, PAPER)) is not None


@pytest.mark.parametrize("pair", PAIRS)
def test_strides_of_the_logits(pair: str) -> None:
    for model in PAIRS[pair][:2]:
        assert logits_shape(NETWORKS[model], 2, 64, 128)[1:] == (64 // PAIRS[pair][2], 128 // PAIRS[pair][2])


@pytest.mark.parametrize("name", ["camvid", "camvid-360x480", "quickstart"])
def test_the_other_spaces_stay_below_four_cells(name: str) -> None:
    config = load_search(name)
    stride = 64 // logits_shape(config.student, 2, 64, 64)[1]
    assert max(config.space["loss.edge_width"].bounds) <= 4 * stride - 1


def test_networks_of_the_paper_fit_their_crops() -> None:
    check_networks(load_search("paper/pascal-context-pspnet-night"))


@pytest.mark.long
@pytest.mark.parametrize("name", installed_spaces())
def test_every_space_passes_validation(name: str) -> None:
    check_networks(load_search(name))
