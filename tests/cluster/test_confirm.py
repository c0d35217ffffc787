"""Confirming a search: which runs, with which seeds, killed and resumed, and the held-out split; once through Ray."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

from bpkd_search import Leaderboard
from bpkd_search.cluster.confirm import Confirmation, confirm, open_held_out
from bpkd_search.config import BASELINES, SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.data import open_split
from bpkd_search.errors import ConfigError, DataError, ExperimentError
from bpkd_search.experiment import folder as experiment
from bpkd_search.experiment.trial import Trial
from bpkd_search.models.heads import resize
from bpkd_search.predict import load_student
from bpkd_search.search.engine import Engine
from tests.driving import curve, drive, report_of

from .test_driver import PATIENCE, command, space_file, wait_for


def search(folder: Path, tiny: dict[str, Any], **changes: Any) -> Path:
    """A finished search of made-up curves: 4 baselines and 8 trials."""
    tree, shape = deepcopy(tiny), changes.pop("curve", curve)
    tree["search"] |= {"trials": 8, "scheduler": {"name": "none"}, **changes.pop("search", {})}
    tree.update(changes)
    config = parse(SearchConfig, tree, "test")
    experiment.create(folder, config)
    engine = Engine(config, folder, "test")
    drive(engine, curve=shape)
    engine.recorder.close()
    return folder


def falling(trial: Trial, epoch: int) -> float:
    """Curves whose partial results look better than full ones; every second trial is worse than the others."""
    return 0.9 / epoch + 0.001 * (trial.number if trial.number % 2 else -trial.number)


def noisy(trial: Trial, epoch: int) -> float:
    """Curves that differ by seed, so that a row tells which run it came from."""
    return curve(trial, epoch) + 0.01 * trial.run.train.seed


def confirmed(folder: Path, top: int, seeds: int) -> pd.DataFrame:
    confirmation = Confirmation(folder, top, seeds)
    drive(confirmation.engine, curve=noisy)
    assert confirmation.engine.done
    confirmation.engine.recorder.close()
    return Leaderboard(folder).confirm()


def test_the_best_settings_and_all_baselines_run_in_full_over_the_same_fresh_seeds(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    halving = {"scheduler": {"name": "asha", "grace": 2, "reduction": 2}}
    folder = search(tmp_path / "e", tiny, train={**tiny["train"], "seed": 1}, search=halving, curve=falling)
    before = {name: (folder / name).read_bytes() for name in ("events.jsonl", "config.yaml", "study.journal")}
    rows = confirmed(folder, 2, 3)
    trials = Leaderboard(folder).trials()
    full = trials[(trials["state"] == "COMPLETE") & (trials["origin"] != "baseline")]
    best = full.head(2)["number"].tolist()
    pruned = trials[trials["state"] == "PRUNED"]
    assert len(best) == 2 and pruned["miou"].max() > full["miou"].max()
    assert sorted(rows["number"].unique()) == sorted([0, 1, 2, 3, *best])
    # The search trained with seed 1.
    assert rows.groupby("number")["seed"].agg(sorted).tolist() == [[0, 2, 3]] * 6
    assert rows[rows["origin"] == "baseline"]["method"].unique().tolist() == list(BASELINES)
    assert (rows["epochs"] == 4).all() and (rows["state"] == "COMPLETE").all()
    source = trials.set_index("number")
    for _, row in rows[rows["number"].isin(best)].iterrows():
        assert row["loss.edge_weight"] == source.loc[row["number"], "loss.edge_weight"]
        assert row["origin"] == source.loc[row["number"], "origin"]
    # Runs come seed by seed: an early end leaves whole pairs.
    assert rows.sort_values("run")["seed"].tolist() == [0] * 6 + [2] * 6 + [3] * 6
    asks = [json.loads(line) for line in (folder / "confirmation" / "events.jsonl").read_text().splitlines()]
    asks = [event for event in asks if event["event"] == "ask"]
    for ask, (_, row) in zip(asks, rows.sort_values("run").iterrows(), strict=True):
        run = json.loads(source.loc[row["number"], "config"])
        again = ask["config"]
        assert again["train"] == {**run["train"], "seed": row["seed"]}
        assert (again["loss"], again["student"], again["data"]) == (run["loss"], run["student"], run["data"])
        assert again["provenance"] == {"experiment": "tiny", "trial": row["number"]}
    # The search itself is as it was.
    assert {name: (folder / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("moment", [1, 7, 24, 25, 47])
def test_killed_at_any_moment_and_resumed_is_the_undisturbed_confirmation(
    tiny: dict[str, Any], tmp_path: Path, moment: int
) -> None:
    folder = search(tmp_path / "whole", tiny)
    shutil.copytree(folder, tmp_path / "cut")
    whole = confirmed(folder, 2, 2)
    first = Confirmation(tmp_path / "cut", 2, 2)
    assert drive(first.engine, stop_after=moment, curve=noisy) == moment  # killed: nothing is flushed or closed
    kept = Leaderboard(tmp_path / "cut").confirm()
    cut = confirmed(tmp_path / "cut", 2, 2)
    pd.testing.assert_frame_equal(whole.drop(columns="ended"), cut.drop(columns="ended"))
    merged = kept.merge(cut, on="run", suffixes=("", "_after"))
    assert len(merged) == len(kept) and (merged["ended"] == merged["ended_after"]).all()
    log = (tmp_path / "cut" / "confirmation" / "events.jsonl").read_text()
    assert log.count('"event":"report"') == 12 * 4


def test_more_seeds_and_settings_are_added_and_nothing_runs_twice(tiny: dict[str, Any], tmp_path: Path) -> None:
    folder = search(tmp_path / "e", tiny)
    first = confirmed(folder, 1, 2)
    assert len(first) == 10
    pd.testing.assert_frame_equal(confirmed(folder, 1, 2), first)
    wide = confirmed(folder, 2, 3)
    assert len(wide) == 18 and not wide.duplicated(["number", "seed"]).any()
    kept = wide[wide["run"] < 10].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, first)
    pd.testing.assert_frame_equal(confirmed(folder, 1, 2), wide)  # less is there already


def test_a_spent_budget_of_the_search_ends_no_confirmation(tiny: dict[str, Any], tmp_path: Path) -> None:
    folder = search(tmp_path / "e", tiny)
    tree = yaml.safe_load((folder / "config.yaml").read_text())
    tree["search"]["budget"] = {"hours": 1e-9, "gpu_hours": 1e-9, "patience": 1}
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    first = Confirmation(folder, 1, 2)
    drive(first.engine, slots=1, stop_after=4)  # between the end of the first run and the ask of the second
    first.engine.recorder.close()
    second = Confirmation(folder, 1, 2)
    assert len(second.engine.states) == 1 and not second.engine.done
    drive(second.engine)
    second.engine.recorder.close()
    assert len(Leaderboard(folder).confirm()) == 10


def test_a_failed_run_has_a_row_without_measures(tiny: dict[str, Any], tmp_path: Path) -> None:
    folder = search(tmp_path / "e", tiny)
    confirmation = Confirmation(folder, 1, 2)
    trial = confirmation.engine.ask()
    assert trial is not None
    confirmation.engine.report(0, report_of(trial, 1, 0.2))
    confirmation.engine.end(0, ("nan", "loss term kd is not finite"))
    drive(confirmation.engine)
    confirmation.engine.recorder.close()
    rows = Leaderboard(folder).confirm().set_index("run")
    assert rows.loc[0, ["state", "reason", "message"]].tolist() == ["FAILED", "nan", "loss term kd is not finite"]
    assert np.isnan(rows.loc[0, "miou"]) and rows.loc[0, "epochs"] == 1
    assert rows["miou"].notna().sum() == 9
    assert Leaderboard(folder).winner().set_index("number").loc[0, ["seeds", "failed"]].tolist() == [1, 1]


def test_settings_that_break_a_constraint_or_repeat_a_baseline_are_passed_over(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    random = {"sampler": {"name": "random"}, "scheduler": {"name": "none"}}
    paper = {"loss.edge_weight": 50.0, "loss.edge_width": 7}
    free = Leaderboard(search(tmp_path / "free", tiny, search=random, enqueue=[paper])).trials()
    searched = free[free["origin"] != "baseline"]
    second = searched["number"].iloc[1]
    limit = searched["miou"].head(2).mean()
    bound = search(tmp_path / "bound", tiny, search={**random, "constraints": [f"miou <= {limit}"]}, enqueue=[paper])
    chosen = Confirmation(bound, 1, 2).engine.plan.fixed
    assert {(t.run.provenance or {})["trial"] for t in chosen} == {0, 1, 2, 3, second}
    everything = Confirmation(tmp_path / "free", 99, 2).engine.plan.fixed
    # Trial 4 is the paper's setting once more.
    assert {(t.run.provenance or {})["trial"] for t in everything} == {*range(12)} - {4}
    none = search(tmp_path / "none", tiny, search={"constraints": ["miou >= 0.9"]})
    with pytest.raises(ExperimentError, match="no searched trial that ran its full budget keeps the constraints"):
        Confirmation(none, 1, 2)


def test_what_cannot_be_confirmed(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"is not an experiment directory \(it has no config.yaml\)"):
        confirm(tmp_path)
    config = parse(SearchConfig, tiny, "test")
    experiment.create(tmp_path / "new", config)
    with pytest.raises(ExperimentError, match="has no trials yet"):
        confirm(tmp_path / "new")
    engine = Engine(config, tmp_path / "new", "test")
    drive(engine, slots=1, stop_after=17)  # the baselines, and one report of the first trial
    engine.recorder.close()
    with pytest.raises(ExperimentError, match="no searched trial has run its full budget yet"):
        confirm(tmp_path / "new")
    folder = search(tmp_path / "e", tiny)
    with pytest.raises(ConfigError) as e:
        confirm(folder, top=0, seeds=0)
    assert e.value.faults == [
        "--top: got 0, must be at least 1",
        "--seeds: got 0, must be at least 2: one seed shows no spread",
    ]
    with experiment.hold(folder), pytest.raises(ExperimentError, match="is held by process"):
        confirm(folder)
    assert not (folder / "confirm").exists() and not (folder / "confirmation").exists()


def with_files(tiny: dict[str, Any], root: Path) -> dict[str, Any]:
    """The tiny search on image files, with a held-out split."""
    names: tuple[str, ...] = ()
    for split, of, count, seed in (("train", "train", 12, 0), ("val", "val", 6, 0), ("test", "val", 5, 7)):
        options = {f"{of}_images": count, "height": 32, "width": 48, "seed": seed}
        scenes = open_split("synthetic", of, **options)
        names = scenes.class_names
        for part in ("images", "masks"):
            (root / part / split).mkdir(parents=True)
        for index, name in enumerate(scenes.names):
            image, label = scenes[index]
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(root / "images" / split / f"{name}.png")
            Image.fromarray(label.numpy()).save(root / "masks" / split / f"{name}.png")
    data = {k: v for k, v in tiny["data"].items() if k != "synthetic"}
    data |= {"kind": "folder", "root": str(root), "folder": {"class_names": list(names)}, "test_split": "test"}
    return {**tiny, "data": data}


def test_the_held_out_split_must_be_there_and_held_out(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = parse(SearchConfig, tiny, "test")
    with pytest.raises(ConfigError, match=r"data.test_split: names no split; name the held-out one there"):
        open_held_out(config, tmp_path)
    tree = with_files(tiny, tmp_path / "data")
    assert len(open_held_out(parse(SearchConfig, tree, "test"), tmp_path)) == 5
    for part in ("images", "masks"):
        shutil.copytree(tmp_path / "data" / part / "val", tmp_path / "data" / part / "again")
    tree["data"]["test_split"] = "again"
    with pytest.raises(DataError, match="again holds the very samples of val"):
        open_held_out(parse(SearchConfig, tree, "test"), tmp_path)
    tree["data"]["test_split"] = "gone"
    with pytest.raises(DataError, match="no such directory"):
        open_held_out(parse(SearchConfig, tree, "test"), tmp_path)
    for wrong in ("val", "../val"):
        tree["data"]["test_split"] = wrong
        with pytest.raises(ConfigError, match=r"data.test_split: got '"):
            parse(SearchConfig, tree, "test")


def mean_iou(predicted: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> float:
    """Straight from the definition, over the classes that occur; pixels of label 255 do not count."""
    kept = truth != 255
    shares = []
    for k in range(8):
        mine, true = (predicted == k) & kept, (truth == k) & kept
        if (mine | true).any():
            shares.append((mine & true).sum() / (mine | true).sum())
    return float(np.mean(shares))


@pytest.mark.long
def test_a_confirmation_through_ray_stopped_continued_and_tested_on_the_held_out_split(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    tree = with_files(tiny, tmp_path / "data")
    tree["train"]["epochs"] = 2
    tree["search"] = {"trials": 1, "scheduler": {"name": "none"}}
    path, out = space_file(tree, tmp_path, enqueue=[{"loss.edge_weight": 1.0, "loss.edge_width": 3}]), tmp_path / "out"
    done = subprocess.run(command("run", path, "--out", out), capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    # No view and no log knows of the held-out split yet.
    cached = sorted(Path(os.environ["BPKD_SEARCH_CACHE"]).rglob("*"))
    line = command("confirm", out, "--top", "1", "--seeds", "2")
    log = out / "confirmation" / "events.jsonl"

    def ended() -> int:
        return log.read_text().count('"event":"end"') if log.exists() else 0

    first = subprocess.Popen(line, stdout=-1, stderr=-1, text=True)
    wait_for("an end", lambda: ended() >= 1, first)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=PATIENCE)
    assert first.returncode == 130
    assert f"continue with: bpkd-search confirm {out} --top 1 --seeds 2\n" in said and "Traceback" not in said
    kept = Leaderboard(out).confirm()

    done = subprocess.run([*line, "--test"], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    for text in ("trial 4 (bpkd)", "bpkd-paper", "winner" if "No winner" in done.stdout else "Winner", "test_miou:"):
        assert text in done.stdout
    rows = Leaderboard(out).confirm()
    assert rows.groupby("number")["seed"].agg(list).to_dict() == {n: [1, 2] for n in range(5)}
    assert (rows["state"] == "COMPLETE").all() and (rows["epochs"] == 2).all()
    merged = kept.merge(rows, on="run", suffixes=("", "_after"))
    assert len(merged) == len(kept) >= 1 and (merged["miou"] == merged["miou_after"]).all()
    assert log.read_text().count('"event":"end"') == 10

    scenes = open_split("synthetic", "val", val_images=5, height=32, width=48, seed=7)
    images, labels = (torch.stack(part) for part in zip(*(scenes[n] for n in range(5)), strict=True))
    for _, row in rows.iterrows():
        model, _ = load_student(out / "confirmation" / "students" / f"{row['run']:05d}.safetensors")
        with torch.inference_mode():
            predicted = resize(model(images), labels.shape[-2:]).argmax(1)
        assert row["test_miou"] == pytest.approx(mean_iou(predicted.numpy(), labels.numpy()), abs=1e-3)
    assert sorted(Path(os.environ["BPKD_SEARCH_CACHE"]).rglob("*")) == cached
    # What a trial printed, such as a package's warning, is kept under logs/.
    assert sorted(p.name for p in (out / "confirmation").iterdir() if p.name != "logs") == [
        "checkpoints", "events.jsonl", "experiment.json", "reports", "students", "trials",
    ]  # fmt: skip

    before = log.read_bytes()
    board = confirm(out, top=1, seeds=2, test=True)
    pd.testing.assert_frame_equal(board.confirm(), rows)
    assert log.read_bytes() == before  # nothing ran, and no student met the held-out split a second time


def test_a_run_that_was_lost_and_continued_says_so_in_its_row(tiny: dict[str, Any], tmp_path: Path) -> None:
    folder = search(tmp_path / "e", tiny)
    confirmation = Confirmation(folder, 1, 2)
    engine = confirmation.engine
    trial = engine.ask()
    assert trial is not None
    engine.lost(trial.number, "process", "the trial's process was killed")
    drive(engine, curve=noisy)
    engine.recorder.close()
    rows = Leaderboard(folder).confirm().set_index("run").sort_index()
    assert rows["retries"].tolist() == [1] + [0] * 9 and (rows["state"] == "COMPLETE").all()
    assert rows.loc[0, "message"] == "the trial's process was killed" and rows["message"].notna().sum() == 1


def test_a_confirmation_of_an_older_version_is_read_and_added_to(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Its table has no `retries` yet."""
    folder = search(tmp_path / "e", tiny)
    rows = confirmed(folder, 1, 2)
    (part,) = (folder / "confirm").iterdir()
    old = pq.read_table(part).drop_columns(["retries"])
    pq.write_table(old.replace_schema_metadata({**old.schema.metadata, b"bpkd_search.schema": b"4"}), part)
    read = Leaderboard(folder).confirm()
    pd.testing.assert_frame_equal(read.drop(columns="retries", errors="ignore"), rows.drop(columns="retries"))
    added = confirmed(folder, 1, 3)
    assert len(added) == 15 and (added["retries"] == 0).all()
