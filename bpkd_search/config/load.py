"""Reading configurations: YAML, `--set` overrides, and every error at once in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from bpkd_search.blocks import in_words
from bpkd_search.config.checks import cross_faults
from bpkd_search.config.methods import expand
from bpkd_search.config.models import RunConfig, SearchConfig
from bpkd_search.config.overrides import override
from bpkd_search.config.points import to_tree, with_feature_baseline
from bpkd_search.config.search_spaces import find_space
from bpkd_search.config.yaml_text import read_saved_text, read_text, to_text
from bpkd_search.errors import ConfigError

C = TypeVar("C", bound=RunConfig)


def load_run(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """One run from a YAML file; of a search file, the run that it varies. Raises `ConfigError` with every error."""
    tree = read_yaml(path)
    if "space" in tree:
        return parse(SearchConfig, tree, str(path), overrides).run()
    return parse(RunConfig, tree, str(path), overrides)


def load_search(path: Path | str, overrides: Sequence[str] = ()) -> SearchConfig:
    """A search from a YAML file. Raises `ConfigError` with every error."""
    return parse(SearchConfig, read_yaml(path), str(path), overrides)


def load_saved(model: type[C], path: Path | str) -> C:
    """A configuration that `dump` wrote, by whichever version.

    It was checked as a whole before it was written, and rules that were added since do not apply to it.

    Raises `ConfigError` if the file is damaged.
    """
    tree = read_yaml(path, saved=True)
    try:
        return model.model_validate(tree)
    except ValidationError as e:
        raise ConfigError([in_words(model, error) for error in e.errors()], str(path)) from e


def dump(config: BaseModel) -> str:
    """A configuration as YAML that reads back to an equal one."""
    return to_text({k: v for k, v in to_tree(config).items() if not (k == "provenance" and v is None)})


def read_yaml(path: Path | str, *, saved: bool = False) -> dict[str, Any]:
    """A YAML file's mapping; `saved` if `dump` wrote the file. Raises `ConfigError`."""
    file = find_space(path)
    try:
        text = file.read_text(encoding="utf-8")
        tree = read_saved_text(text) if saved else read_text(text)
    except OSError as e:
        raise ConfigError([f"cannot be read: {e.strerror}"], str(path)) from e
    except UnicodeDecodeError as e:
        raise ConfigError(["is not valid YAML: is not text in UTF-8"], str(path)) from e
    except ValueError as e:
        raise ConfigError([str(e)], str(path)) from e
    if not isinstance(tree, dict):
        got = "nothing" if tree is None else type(tree).__name__
        raise ConfigError([f"must be a mapping of keys, got {got}"], str(path))
    return tree


def parse(model: type[C], tree: dict[str, Any], source: str, overrides: Sequence[str] = ()) -> C:
    """Validate a plain tree with its overrides. Raises `ConfigError` with errors of all kinds at once."""
    faults: list[str] = []

    def lay_over(texts: list[str]) -> None:
        for text in texts:
            try:
                override(tree, text)
            except ValueError as e:
                faults.append(f"--set {text}: {e}")
        if model is SearchConfig:
            expand(tree)

    # Those of single parameters come last, so that they can change a range that `search.methods` stands for.
    of_space = [text.startswith("space.") for text in overrides]
    lay_over([text for text, last in zip(overrides, of_space, strict=True) if not last])
    lay_over([text for text, last in zip(overrides, of_space, strict=True) if last])
    config: C | None = None
    try:
        config = model.model_validate(tree)
    except ValidationError as e:
        faults += [in_words(model, error) for error in e.errors()]
        broken = {str(error["loc"][0]) if error["loc"] else "" for error in e.errors()}
        try:  # what is left may be wrong as well, and the user should learn of it at once
            config = model.model_validate({k: v for k, v in tree.items() if str(k) not in broken})
        except ValidationError:
            config = None
    if config is not None:
        faults += cross_faults(config)
    if faults or config is None:
        raise ConfigError(faults, source)
    return cast(C, with_feature_baseline(config)) if isinstance(config, SearchConfig) else config
