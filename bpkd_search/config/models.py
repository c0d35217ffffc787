"""What a distillation run and a search over runs are: frozen models, checked as they are read."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StrictBool

from bpkd_search.blocks import Block
from bpkd_search.config.data import Data, Name
from bpkd_search.config.loss import Loss
from bpkd_search.config.networks import Student, Teacher
from bpkd_search.config.optimisation import Optimisation
from bpkd_search.config.search import Search
from bpkd_search.config.space import Distribution
from bpkd_search.losses.methods import Bpkd


class RunConfig(Block):
    """One distillation run, complete: what `bpkd-search train` takes and `export` writes."""

    data: Data = Data()
    teacher: Teacher = Teacher()
    student: Student = Student()
    loss: Loss = Bpkd()
    train: Optimisation = Optimisation()
    provenance: dict[str, Any] | None = Field(
        default=None, description="What `export` writes about where a setting comes from."
    )


class Logging(Block):
    """Loggers beside the tables, each off by default; `mlflow` may be a path or a tracking URI."""

    tensorboard: StrictBool = Field(default=False, description="Event files for TensorBoard.")
    mlflow: StrictBool | Annotated[str, Field(min_length=1)] = Field(
        default=False, description="Runs in MLflow; a path or a tracking URI says where."
    )
    wandb: StrictBool = Field(default=False, description="Runs in Weights & Biases.")
    csv: StrictBool = Field(default=False, description="CSV files.")


class SearchConfig(RunConfig):
    """A search: a run, the parameters that vary in it, and how they are sampled."""

    name: Name = Field(default="search", description="Name of the experiment; its directory is `runs/NAME`.")
    search: Search = Search()
    logging: Logging = Logging()
    space: dict[str, Distribution] = Field(
        min_length=1, description="Dotted paths below `loss`, `train` and `student`, each with a distribution."
    )
    enqueue: tuple[dict[str, Any], ...] = Field(default=(), description="Points tried before the sampler's.")

    def run(self) -> RunConfig:
        """The run that the search varies, without the search."""
        return RunConfig.model_validate({name: getattr(self, name) for name in RunConfig.model_fields})
