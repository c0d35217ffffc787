"""What the trials of a search read, by content: the same after data, weights or cache have moved."""

from __future__ import annotations

from pathlib import Path

from bpkd_search.config.models import SearchConfig
from bpkd_search.config.space import Choice
from bpkd_search.data.keys import LIBRARIES, version
from bpkd_search.experiment.origin import Content
from bpkd_search.models.build import pick_device, teacher_precision
from bpkd_search.training.forms import first_form, teacher_form
from bpkd_search.training.inputs import view_recipe
from bpkd_search.training.own import own_code
from bpkd_search.training.source import data_root
from bpkd_search.training.teacher import content_hash, teacher_file


def fingerprints(config: SearchConfig) -> dict[str, Content]:
    """Return the contents that determine a search's trials, by dotted name; nothing is built.

    Raises `DataError` if the data cannot be read, `CheckpointError` if a file of weights cannot, `ConfigError` if a
    module of the user's is not found.
    """
    run, form = config.run(), first_form(config)
    recipe = view_recipe(config.data, form)
    root = data_root(run.data)
    place = run.data.kind if root is None else f"{run.data.kind} in {root}"
    found = {
        f"data.{split}": Content(f"{len(data)} images, {data.identity(recipe.cache)}", place)
        for split, data in (("train", recipe.train), ("val", recipe.val))
    }
    found["views"] = Content(recipe.key())
    crops = view_recipe(config.data, teacher_form(config.data)).crops_key()
    teacher, _ = teacher_file(run, crops, recipe.train.class_names)
    found["teacher"] = of_weights(teacher) if teacher.exists() else Content(None, str(teacher))
    if form.mode != "online":
        found["teacher.precision"] = Content(teacher_precision(pick_device(run.train.device), run.train.amp == "auto"))
    students = [run.student.weights]
    if isinstance(varied := config.space.get("student.weights"), Choice):
        students += [Path(str(option)) for option in varied.options]
    if files := [path for path in students if path is not None]:
        found["student.weights"] = Content(
            ", ".join(str(of_weights(path, "student.weights").value) for path in files), ", ".join(map(str, files))
        )
    found |= {f"code of {module}": Content(value, str(file)) for module, (value, file) in own_code(config).items()}
    return found | {f"version of {library}": Content(version(library)) for library in LIBRARIES}


def of_weights(path: Path, key: str = "") -> Content:
    """Return the content of a file or folder of weights. Raises `CheckpointError` with the `key` if it is missing."""
    return Content(content_hash(path, key=key)[:16], str(path))
