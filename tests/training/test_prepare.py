"""What is checked once the data are known."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bpkd_search.config import SearchConfig
from bpkd_search.config.load import parse
from bpkd_search.config.points import run_at
from bpkd_search.data import open_split
from bpkd_search.errors import CheckpointError, ConfigError
from bpkd_search.training.prepare import prepare


def test_what_is_given_per_class_must_fit_the_data_in_every_term(tiny: dict[str, Any]) -> None:
    terms = [{"method": "bpkd", "alpha": alpha} for alpha in ([2.0] * 8, [2.0] * 3, [2.0])]
    run = run_at(parse(SearchConfig, tiny, "test").run(), {"loss": {"method": "mix", "terms": terms}})
    with pytest.raises(ConfigError) as error:
        prepare(run, lambda line: None)
    assert error.value.faults == ["loss.terms.1.alpha: got 3 numbers, must be one, or one for each of 8 classes"]


def test_masks_without_a_labelled_pixel_are_counted_aloud(tiny: dict[str, Any], tmp_path: Path) -> None:
    for split, count in (("train", 4), ("val", 2)):
        data = open_split("synthetic", split, height=32, width=48, **{f"{split}_images": count})
        for index in range(count):
            for part, array in zip(("images", "masks"), data[index], strict=True):
                (tmp_path / part / split).mkdir(parents=True, exist_ok=True)
                pixels = array.permute(1, 2, 0).numpy() if array.ndim == 3 else array.numpy()
                void = part == "masks" and split == "train" and index < 3
                Image.fromarray(pixels * 0 + 255 if void else pixels).save(tmp_path / part / split / f"{index}.png")
    tiny["data"] |= {"kind": "folder", "root": str(tmp_path), "folder": {"class_names": list(data.class_names)}}
    tiny["data"] |= {"views_dir": str(tmp_path / "cache")}
    run, said = parse(SearchConfig, tiny, "test").run(), "masks hold ignored pixels alone"
    for _ in range(2):  # the second time from what the store says of itself
        lines: list[str] = []
        prepare(run, lines.append)
        (line,) = [line for line in lines if said in line]
        assert line.startswith(f"warning: 3 of 4 train {said}")


def damages(cache: Path) -> dict[str, Callable[[], None]]:
    """Ways in which a cache may be left by a copy that was cut short."""

    def only(name: str) -> Path:
        (path,) = cache.glob(f"views/*/{name}")
        return path

    def cut(name: str) -> Callable[[], None]:
        return lambda: os.truncate(only(name), only(name).stat().st_size // 2)

    def gone(name: str) -> Callable[[], None]:
        return lambda: shutil.rmtree(only(name)) if only(name).is_dir() else only(name).unlink()

    return {
        "no views": lambda: shutil.rmtree(cache / "views"),
        "half a description": cut("manifest.json"),
        "no description": gone("manifest.json"),
        "half the images": cut("train/images.npy"),
        "no labels": gone("validation/records.npy"),
        "half a table of chunks": cut("train/chunks.json"),
        "half the logits": cut("logits-*/*.npy"),
        "no logits": gone("logits-*"),
    }


def test_a_half_copied_cache_is_completed_with_the_same_bytes(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["data"]["views_dir"] = str(tmp_path)
    run = parse(SearchConfig, tiny, "test").run()
    prepared = prepare(run, lambda line: None)
    before = {path: path.read_bytes() for path in Path(prepared.store).rglob("*.npy")}
    assert len(before) == 4
    for name, damage in damages(tmp_path).items():
        damage()
        assert prepare(run, lambda line: None) == prepared, name
        assert {path: path.read_bytes() for path in Path(prepared.store).rglob("*.npy")} == before, name
        assert prepared.open().num_images == 12


def test_half_a_trained_teacher_is_refused_in_one_sentence(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["data"]["views_dir"] = str(tmp_path)
    run = parse(SearchConfig, tiny, "test").run()
    teacher = Path(str(prepare(run, lambda line: None).teacher))
    os.truncate(teacher, teacher.stat().st_size // 2)
    with pytest.raises(CheckpointError, match=r"safetensors: is not a readable safetensors file: [^\n]*$"):
        prepare(run, lambda line: None)


@pytest.mark.parametrize("key", ["teacher.checkpoint", "teacher.weights", "student.weights"])
def test_a_file_of_weights_that_is_not_there_is_told_before_any_image_is_stored(
    tiny: dict[str, Any], tmp_path: Path, key: str
) -> None:
    given = [f"{key}={tmp_path / 'gone.pth'}", f"data.views_dir={tmp_path / 'cache'}"]
    with pytest.raises(CheckpointError, match=rf"^{key}: .*gone\.pth: no such file or folder$"):
        prepare(parse(SearchConfig, tiny, "test", given).run(), lambda line: None)
    assert not (tmp_path / "cache" / "views").exists()
