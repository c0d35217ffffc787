"""`bpkd-search models`: what networks cost, on one screen."""

from __future__ import annotations

from pathlib import Path

import yaml

from bpkd_search.models.cost import cost_of
from bpkd_search.models.paper import NETWORKS


def test_chosen_networks_are_printed_with_their_costs(call) -> None:
    code, out, _ = call("models", "isanet_r18", "--size", "64x128", "--classes", "11")
    head, row = (line.split() for line in out.splitlines())
    cost = cost_of(NETWORKS["isanet_r18"], 11, 64, 128)
    assert code == 0
    assert head == ["encoder", "head", "channels", "output_stride", "auxiliary_weight", *head[5:]]
    assert row[:6] == ["isanet_r18", "resnet18_v1c", "isanet", "128", "8", "0.4"]
    assert [float(text) for text in row[6:]] == [
        round(cost.parameters / 1e6, 2),
        round(cost.auxiliary / 1e6, 2),
        round(cost.multiply_adds / 1e9, 1),
    ]


def test_the_page_shows_what_is_printed(call) -> None:
    page = (Path(__file__).parents[2] / "docs" / "networks.md").read_text()
    assert page.split("```text\n")[1].split("```")[0] == call("models")[1]


def test_a_file_is_its_teacher_and_student(call, tmp_path: Path) -> None:
    networks = {
        part: {"encoder": f"resnet{n}", "head": "fcn", "channels": 16} for part, n in (("teacher", 34), ("student", 18))
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(networks))
    code, out, _ = call("models", tmp_path / "run.yaml", "--size", "64x64")
    assert code == 0
    assert [line.split()[:3] for line in out.splitlines()[1:]] == [
        ["run.teacher", "resnet34", "fcn"],
        ["run.student", "resnet18", "fcn"],
    ]


def test_unknown_names_and_sizes_are_refused_with_what_is_valid(call) -> None:
    code, _, err = call("models", "pspnet")
    assert code == 2 and err.startswith("error: pspnet: is neither") and "pspnet_r18, pspnet_r101" in err
    code, _, err = call("models", "--size", "512")
    assert code == 2 and err.startswith("error: --size: got '512', must be HEIGHTxWIDTH")
