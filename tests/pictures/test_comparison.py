"""Pictures for the report: what they show, which are chosen, and what is said when there are none."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.config.points import to_tree
from bpkd_search.data import EvalTransform
from bpkd_search.experiment import folder as experiment
from bpkd_search.models import save_weights
from bpkd_search.models.build import build_model
from bpkd_search.pictures.comparison import BAND, RIGHT, VOID, WRONG, edge_errors, make_panels, most_different
from bpkd_search.results.leaderboard import Leaderboard
from bpkd_search.search.engine import Engine
from bpkd_search.training.prepare import prepare
from bpkd_search.training.source import open_data
from bpkd_search.training.teacher import open_teacher
from tests.driving import drive

CPU = torch.device("cpu")


@pytest.fixture
def searched(tiny: dict[str, Any], tmp_path: Path) -> tuple[SearchConfig, Path]:
    """A finished experiment made without Ray, with a teacher and untrained students of different seeds."""
    config = parse(SearchConfig, tiny, "test")
    experiment.create(tmp_path / "exp", config)
    engine = Engine(config, tmp_path / "exp", "test")
    drive(engine)
    engine.recorder.close()
    store = prepare(config.run(), lambda line: None).open()
    for number, trial in engine.trials.items():
        about = {"config": to_tree(trial.run), "class_names": store.class_names, "palette": store.palette}
        student = build_model(trial.run.student, store.num_classes, seed=number)
        save_weights(tmp_path / f"exp/students/{number:05d}.safetensors", student, about)
    return config, tmp_path / "exp"


def pixels(address: str) -> np.ndarray[Any, Any]:
    kind, _, data = address.partition(";base64,")
    assert kind in ("data:image/png", "data:image/jpeg")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def slow_classes(model: torch.nn.Module, image: torch.Tensor) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        logits = model.eval()(image[None])
        full = torch.nn.functional.interpolate(logits, image.shape[1:], mode="bilinear", align_corners=False)
    return full[0].numpy().argmax(0)


def test_rows_show_truth_teacher_and_both_students_where_these_differ_most(searched: tuple[SearchConfig, Path]) -> None:
    config, folder = searched
    board = Leaderboard(folder)
    panels = make_panels(board, 2)
    trials = board.trials().query("state == 'COMPLETE'")
    mine = trials[trials["origin"] != "baseline"].iloc[0]
    base = trials[trials["origin"] == "baseline"].iloc[0]
    dataset, size = open_data(config.data, "val"), EvalTransform((32, 48), "resized")
    palette = np.array(dataset.palette, dtype=np.uint8)
    networks = {}
    for row in (base, mine):
        name = f"{row['method']}, trial {row['number']} (miou {row['miou']:.4f})"
        networks[name] = build_model(config.student, len(palette), seed=int(row["number"]))
    weights = prepare(config.run(), lambda line: None).teacher
    assert weights is not None
    teacher = open_teacher(config.run(), dataset.class_names, Path(weights), CPU)
    differ = []
    for index in range(len(dataset)):
        image, labels = size(*dataset[index])
        one, other = (slow_classes(network, image) for network in networks.values())
        differ.append(int(((one != other) & (labels.numpy() != 255)).sum()))
    half = len(differ) // 2
    chosen = [int(np.argmax(differ[:half])), half + int(np.argmax(differ[half:]))]
    assert [title for title, _ in panels.rows] == [f"Validation image {index}" for index in chosen]
    for index, (_, pictures) in zip(chosen, panels.rows, strict=True):
        image, labels = size(*dataset[index])
        shown = {picture.caption: pixels(picture.address) for picture in pictures}
        assert list(shown)[:5] == ["image", "ground truth", "teacher", *networks]
        assert np.abs(shown["image"].astype(int) - image.permute(1, 2, 0).numpy()).mean() < 12  # a JPEG
        assert (shown["ground truth"] == np.vstack([palette, [VOID]])[np.minimum(labels.numpy(), len(palette))]).all()
        assert (shown["teacher"] == palette[slow_classes(teacher, image)]).all()
        for name, network in networks.items():
            guess = slow_classes(network, image)
            assert (shown[name] == palette[guess]).all()
            errors = edge_errors(image, labels, torch.from_numpy(guess).to(torch.uint8))
            assert (shown[f"edge band: {name.partition(' (')[0]}"] == errors).all()
    assert [name for name, _ in panels.colours] == [*dataset.class_names, "unlabelled"]


def test_errors_are_marked_in_the_band_alone() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.repeat(rng.integers(0, 3, (4, 5)), 6, 0), 6, 1).astype(np.uint8)
    labels[10:13, 4:9] = 255
    guess = np.where(rng.random(labels.shape) < 0.3, 1, labels).astype(np.uint8)
    got = edge_errors(torch.full((3, *labels.shape), 100, dtype=torch.uint8), *map(torch.from_numpy, (labels, guess)))
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            window = labels[max(0, y - BAND) : y + BAND + 1, max(0, x - BAND) : x + BAND + 1]
            others = (window != labels[y, x]) & (window != 255)
            band = labels[y, x] != 255 and others.any()
            expected = (RIGHT if guess[y, x] == labels[y, x] else WRONG) if band else (195, 195, 195)
            assert tuple(got[y, x]) == expected


def test_each_stretch_of_the_split_gives_one_image() -> None:
    assert most_different([0, 10, 20, 30, 40], [1, 5, 9, 8, 8], 2) == [20, 30]
    assert most_different([3, 4], [0, 0], 4) == [3, 4]


def test_what_is_gone_is_said(searched: tuple[SearchConfig, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = searched
    board = Leaderboard(folder)
    monkeypatch.setenv("BPKD_SEARCH_CACHE", str(folder / "nothing"))
    panels = make_panels(board, 1)
    captions = [picture.caption for picture in panels.rows[0][1]]
    assert len(captions) == 6 and "teacher" not in captions
    assert any("The teacher is not shown: its weights" in remark for remark in panels.remarks)
    assert not (folder / "nothing").exists()
    for file in (folder / "students").iterdir():
        file.unlink()
    panels = make_panels(board)
    assert panels.rows == () and "the weights of no searched trial" in panels.remarks[0]
    assert make_panels(board, 0).remarks == ["Pictures were not requested."]


def test_the_command_writes_a_page_with_pictures(call, searched: tuple[SearchConfig, Path], tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    out = tmp_path / "report.html"
    command = ("report", searched[1], "--out", out, "--panels", "3")
    code, said, _ = call(*command)
    assert (code, said) == (0, f"{out}\n")
    code, said, err = call(*command)
    assert (code, said) == (2, "") and "exists already" in err
    assert out.read_text().count("<img ") == 3 * 7
